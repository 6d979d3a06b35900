"""The command `seg`: `seg train …` does what `python -m seg.train …` does."""

import difflib
import runpy
import sys

from seg.cli import run_command
from seg.config.packaged import packaged_configs
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError

COMMANDS = {
    "plan": "read a data set, propose a config with reasons, say what it costs here",
    "train": "train a model, or resume a run",
    "eval": "score a model on a split of its data, per class",
    "infer": "segment image files of any size",
    "batch": "segment many images as shards, on one machine, several, or Ray",
    "serve": "answer HTTP requests with masks; a page to try it",
    "check": "read a data set before training: count the classes, name every bad file",
    "export": "write a run as a model folder: weights and a StableHLO program",
    "convert": "open published weights, or write some",
    "bench": "measure a step: time, memory, operations",
    "diagnose": "find the first module whose output was not finite",
    "configs": "list the configs that come with the package; `seg configs NAME` prints one",
}


LINES = "\n".join(f"  {name:<9} {meaning}" for name, meaning in COMMANDS.items())
HELP = f"usage: seg COMMAND …\n\n{LINES}\n\nseg COMMAND --help describes a command."


def show_configs(names: list[str]) -> None:
    """Print the packaged configs of these names, or list them all."""
    configs = packaged_configs()
    if names in ([], ["-h"], ["--help"]):
        print("\n".join(configs))
        return
    if unknown := [name for name in names if name not in configs]:
        raise UserError(f"no config is called {unknown[0]!r:.80}; expected {', '.join(configs)}")
    print("\n".join(configs[name].read_text(encoding="utf-8").rstrip() for name in names))


def answer(name: str, rest: list[str]) -> int:
    """Print what `seg` answers itself: the help, the packaged configs, or that the command is unknown."""
    if name in ("-h", "--help"):
        print(HELP)
    elif name == "configs":
        show_configs(rest)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"error: unknown command {name!r:.80}{hint}" if name else "error: a command is missing"
        print(f"{HELP}\n\n{message}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def main() -> None:
    """Run the command that the first argument names, and exit with its code."""
    name, *rest = sys.argv[1:] or [""]
    if name == "configs" or name not in COMMANDS:
        run_command(lambda: answer(name, rest))
    sys.argv[1:] = rest
    runpy.run_module(f"seg.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
