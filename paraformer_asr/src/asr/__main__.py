"""The command `asr`: `asr train …` does what `python -m asr.train …` does."""

import difflib
import runpy
import sys

from asr.cli import run_command
from asr.config.packaged import packaged_configs
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError

COMMANDS = {
    "train": "train a model, or resume a run",
    "eval": "score a model on a split of its data: word, character and token error rates",
    "infer": "transcribe sound files of any length: text, JSON, subtitles",
    "segments": "list where there is speech in sound files",
    "batch": "transcribe many files as shards, on one machine, several, or Ray",
    "check": "read a data set before training: count, name every bad line",
    "export": "write a run as a model folder: weights and a StableHLO program",
    "convert": "open a model of FunASR, or write one",
    "serve": "answer requests over HTTP and websockets, as OpenAI's and FunASR's clients send them",
    "bench": "measure a step: time, memory, operations",
    "diagnose": "find the first module whose output was not finite",
    "configs": "list the configs that come with the package; `asr configs NAME` prints one",
}


def describe() -> str:
    """Return the help: one line for each command."""
    lines = [f"  {name:<9} {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(["usage: asr COMMAND …", "", *lines, "", "asr COMMAND --help describes a command."])


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
    """Print what `asr` answers itself: the help, the packaged configs, or that the command is unknown."""
    if name in ("-h", "--help"):
        print(describe())
    elif name == "configs":
        show_configs(rest)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"error: unknown command {name!r:.80}{hint}" if name else "error: a command is missing"
        print(f"{describe()}\n\n{message}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def main() -> None:
    """Run the command that the first argument names, and exit with its code."""
    name, *rest = sys.argv[1:] or [""]
    if name == "configs" or name not in COMMANDS:
        run_command(lambda: answer(name, rest))
    sys.argv[1:] = rest
    runpy.run_module(f"asr.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
