"""What the README tells a user to write works as it stands, and the code that the pages show exists."""

import ast
import re
from pathlib import Path

import jax
import numpy as np

from seg.config.reader import load_config
from seg.models import abstract_variables

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"


def test_the_example_of_own_data_is_a_config_of_a_small_model_of_the_stated_size(tmp_path):
    text = README.read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(# my_config.yaml\n.*?)```", text, re.DOTALL)[1]
    (tmp_path / "my_config.yaml").write_text(example, encoding="utf-8")
    for overrides, stated in [([], "1.9 million"), (["model.base_width=32"], "7.8 million")]:
        names = load_config(tmp_path / "my_config.yaml").data.class_names
        overrides = [*overrides, f"model.num_classes={len(names)}"]
        params = abstract_variables(load_config(tmp_path / "my_config.yaml", overrides).model)["params"]
        number = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
        assert stated == f"{number / 1e6:.1f} million" and re.sub(r"\s+", " ", text).count(stated) == 1


def shown_code() -> list[tuple[str, str, str]]:
    """Return (page, file, name) of all code that the pages show with the directive `source`."""
    shown = []
    for page in sorted((PROJECT / "docs").rglob("*.md")):
        for file, names in re.findall(r"^`{3}\{source\} (\S+) (.+)$", page.read_text(), re.MULTILINE):
            shown += [(page.name, file, name) for name in names.split()]
    return shown


def test_the_code_that_the_pages_show_exists():
    shown = shown_code()
    assert len(shown) > 20
    for page, file, name in shown:
        node = ast.parse((PROJECT / file).read_text())
        for part in name.split("."):
            found = [child for child in node.body if part in names_of(child)]
            assert found, f"{page}: {file} has no {name}"
            node = found[0]


def names_of(node: ast.stmt) -> list[str]:
    targets = [node, *getattr(node, "targets", []), getattr(node, "target", None)]
    return [getattr(target, "name", getattr(target, "id", "")) for target in targets if target is not None]
