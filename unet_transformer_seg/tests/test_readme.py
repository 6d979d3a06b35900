"""What the README tells a user to write works as it stands."""

import re
from pathlib import Path

import jax
import numpy as np

from seg.config.reader import load_config
from seg.models import abstract_variables

README = Path(__file__).parents[1] / "README.md"


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
