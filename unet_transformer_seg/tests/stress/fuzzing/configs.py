"""Configs, overrides of a command line, and run directories."""

import dataclasses
import json
from pathlib import Path
from random import Random

from fuzzing.mutations import change_bytes
from fuzzing.tree_mutations import LINES, TEXTS, change_json, change_yaml, strange_value, to_yaml
from fuzzing.trials import Case, Kind, change_file, read_tree

from seg.classes import make_class_table
from seg.config import Config, ModelConfig
from seg.config.reader import load_config, load_start_config, save_config, to_plain
from seg.record.report import COLUMNS, Report
from seg.record.run_dir import create_run_dir, load_run, open_run_dir

CONFIGS = Path(__file__).parents[3] / "configs"
CONFIG = "config.yaml"
SOUND_VALUES = ("0", "1", "2", "0.5", "true", "[1, 1]", "[64, 64]", "{a: 1}", "unet", "adamw")
"""Each is right for some setting."""


def make_configs(folder: Path) -> list[Case]:
    """Return the configs of the project, and one with every setting."""
    folder.mkdir()
    save_config(Config(), folder / CONFIG)
    files = [folder / CONFIG, *sorted(CONFIGS.glob("*.yaml"))]
    # A data set of files needs a root, which a published config leaves to the command line.
    return [Case({CONFIG: f.read_bytes()}, ("data.root=x",)) for f in files]


def change_config(rng: Random, samples: list[Case]) -> Case:
    """Return a config that is changed in its structure, its text or its bytes."""
    return change_file(rng, samples, {".yaml": change_yaml})


def read_config(folder: Path, case: Case) -> None:
    """Read a config as training does; what is accepted can be written, and is read as the same again."""
    config = load_config(folder / CONFIG, case.arguments)
    save_config(config, folder / "again.yaml")
    assert load_config(folder / "again.yaml") == config
    load_start_config(folder / CONFIG, case.arguments)


def change_overrides(rng: Random, samples: list[Case]) -> Case:
    """Return a sound config with one to three overrides, of which most are wrong."""
    keys = list(_keys(to_plain(Config()))) + ["model", "nothing", "data.value_map", "optimizer.rate_factors"]
    arguments = []
    for _ in range(rng.choice((1, 1, 3))):
        value = rng.choice((*SOUND_VALUES, to_yaml(strange_value(rng)).decode(), rng.choice(LINES), rng.choice(TEXTS)))
        text = f"{rng.choice(keys)}={value}"
        if rng.random() < 0.3:
            text = change_bytes(rng, text.encode("utf-8", "surrogatepass"), []).decode("utf-8", "surrogateescape")
        arguments.append(text[:100_000])  # the system gives a program no longer ones
    return dataclasses.replace(rng.choice(samples), arguments=tuple(arguments))


def _keys(settings: dict, prefix: str = ""):
    for key, value in settings.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


# ---- run directories ---------------------------------------------------------------------------------------------


def make_runs(folder: Path) -> list[Case]:
    """Return the directory of a run that was evaluated three times."""
    config = Config(model=ModelConfig(name="unet", num_classes=2, base_width=2, depth=1), runs_dir=str(folder))
    run = create_run_dir(config, make_class_table(("sky", "road")))
    rows = [",".join(["run", "unet", *(str(step)) * 2, *["0.5"] * (len(COLUMNS) - 4)]) for step in (1, 2, 3)]
    (run.path / "results.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    (run.path / "metrics.json").write_text(json.dumps([{"step": step, "val_loss": 0.5} for step in (1, 2, 3)]))
    return [Case(read_tree(run.path))]


def change_run(rng: Random, samples: list[Case]) -> Case:
    """Return a run directory of which one file is changed."""
    return change_file(rng, samples, {".yaml": change_yaml, ".json": change_json})


def read_run(folder: Path, case: Case) -> None:
    """Read a run directory as a resume does, which drops what was noted after its checkpoint."""
    config, classes = load_run(folder)
    Report(open_run_dir(folder), config, classes).results.drop_after(2)


def _names_of_overrides(folder: Path, case: Case) -> list[str]:
    return [str(folder), "override ", *filter(None, (text.partition("=")[0] for text in case.arguments))]


KINDS = (
    Kind("config", make_configs, change_config, read_config),
    Kind("override", make_configs, change_overrides, read_config, names=_names_of_overrides),
    Kind("run", make_runs, change_run, read_run),
)
