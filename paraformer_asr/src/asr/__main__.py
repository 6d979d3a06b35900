"""The command `asr`: `asr train …` does what `python -m asr.train …` does."""

import difflib
import runpy
import sys

from asr.config.packaged import packaged_configs

COMMANDS = {
    "train": "train a model, or resume a run",
    "eval": "score a model on a split of its data: word, character and token error rates",
    "infer": "transcribe sound files of any length: text, JSON, subtitles",
    "check": "read a data set before training: count, name every bad line",
    "export": "write a run as a model folder: weights and a StableHLO program",
    "convert": "open a model of FunASR, or write one",
    "bench": "measure a step: time, memory, operations",
    "diagnose": "find the first module whose output was not finite",
    "configs": "list the configs that come with the package; `asr configs NAME` prints one",
}


def describe() -> str:
    """Return the help: one line for each command."""
    lines = [f"  {name:<9} {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(["usage: asr COMMAND …", "", *lines, "", "asr COMMAND --help describes a command."])


def show_configs(names: list[str]) -> int:
    """Print the packaged configs of these names, or list them all; return the exit code."""
    configs = packaged_configs()
    if names in ([], ["-h"], ["--help"]):
        print("\n".join(configs))
        return 0
    if unknown := [name for name in names if name not in configs]:
        print(f"error: no config is called {unknown[0]!r:.80}; expected {', '.join(configs)}", file=sys.stderr)
        return 2
    print("\n".join(configs[name].read_text(encoding="utf-8").rstrip() for name in names))
    return 0


def main() -> int:
    """Run the command that the first argument names; return the exit code."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(describe())
        return 0
    if name == "configs":
        return show_configs(rest)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"error: unknown command {name!r:.80}{hint}" if name else "error: a command is missing"
        print(f"{describe()}\n\n{message}", file=sys.stderr)
        return 2
    sys.argv[1:] = rest
    runpy.run_module(f"asr.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
