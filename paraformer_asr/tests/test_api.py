"""The public names: imported lazily, listed in one place, documented; the command `asr`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import asr
from asr import __main__ as command

PROJECT = Path(__file__).parents[1]

COST_OF_IMPORT = """
import sys, time
before, start = set(sys.modules), time.process_time()
import asr
print(time.process_time() - start, *sorted(set(sys.modules) - before))
"""


def output_of(*arguments):
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_import_costs_nothing():
    seconds, *modules = output_of("-c", COST_OF_IMPORT).split()
    assert modules == ["asr"]
    assert float(seconds) < 0.05


def test_each_name_is_there_and_has_its_type_for_a_type_checker():
    for name in asr.__all__:
        assert getattr(asr, name) is not None, name
    source = (PROJECT / "src/asr/__init__.py").read_text()
    for name, module in asr._MODULES.items():
        assert f"    from {module} import {name} as {name}\n" in source
    assert source.count("    from asr.") == len(asr.__all__)
    assert (PROJECT / "src/asr/py.typed").exists() and set(asr.__all__) <= set(dir(asr))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'asr' has no attribute 'nothing'"):
        asr.nothing  # noqa: B018


def test_train_is_a_function_even_after_its_command_was_imported(monkeypatch):
    import asr.train

    monkeypatch.setattr("asr.api.train", lambda *arguments, **options: (arguments, options))
    assert asr.train("toy", resume="there") == (("toy",), {"resume": "there"})


# The command.


@pytest.mark.parametrize("arguments", [("asr", "--help"), *(("asr", name, "--help") for name in command.COMMANDS)])
def test_help_is_instant(arguments):
    before = os.times()
    output_of("-m", *arguments)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 0.3


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["asr", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code


def test_the_command_lists_the_commands_with_a_line_each(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, meaning in command.COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, meaning] for line in lines)
        files = PROJECT / f"src/asr/{name}.py", PROJECT / f"src/asr/{name}/__main__.py"
        assert name == "configs" or any(file.exists() for file in files)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((), "a command is missing"), (("trian",), "unknown command 'trian'; did you mean 'train'?")],
)
def test_a_command_that_is_not_there_is_refused_with_the_list(monkeypatch, capsys, arguments, error):
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert error in shown and "asr COMMAND --help" in shown


def test_the_packaged_configs_are_listed_and_printed(monkeypatch, capsys):
    assert run(monkeypatch, "configs") == 0
    assert capsys.readouterr().out.split() == sorted(path.stem for path in (PROJECT / "configs").glob("*.yaml"))
    assert run(monkeypatch, "configs", "toy") == 0
    assert capsys.readouterr().out == (PROJECT / "configs/toy.yaml").read_text()
    assert run(monkeypatch, "configs", "toys") == 2
    assert "no config is called 'toys'; expected an4_full" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("configs",), ("configs", "toy"), ("--help",)])
def test_a_listing_whose_reader_has_had_enough_ends_quietly(arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "asr", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_packaged_config_is_read_by_its_name_and_a_file_of_this_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert asr.load_config("toy", ["seed=3"]) == asr.load_config(PROJECT / "configs/toy.yaml", ["seed=3"])
    (tmp_path / "toy").write_text("name: mine\n")
    assert asr.load_config("toy").name == "mine"
    with pytest.raises(asr.UserError, match="toys: .* configs that come with the package: an4_"):
        asr.load_config("toys")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asr.load(None), "folder: expected a path, found NoneType"),
        (lambda: asr.load("here", checkpoint="newest"), "checkpoint: expected best or last, found 'newest'"),
        (lambda: asr.load_config({"name": "mine"}), "config: expected a Config, .* found dict"),
        (lambda: asr.load_config("toy", "seed=3"), r"overrides: expected a list .* write \['seed=3'\]"),
        (lambda: asr.load_config("toy", [3]), "override 3: expected a text key=value"),
        (lambda: asr.train({"name": "mine"}), "config: expected a Config, .* found dict"),
        (lambda: asr.train(asr.Config(), overrides="seed=3"), "overrides: expected a list"),
        (lambda: asr.train(resume=3), "resume: expected a path, found int"),
        (lambda: asr.train(asr.Config(), max_minutes=float("nan")), "max_minutes: .* at least 0, found nan"),
        (lambda: asr.train(asr.Config(), max_minutes="5"), "max_minutes: .* found '5'"),
        (lambda: asr.train(asr.Config(), hooks=[print]), "hooks: expected instances of .*Hook, found <built-in"),
        (lambda: asr.train(asr.Config(), allow_changed=["data"]), "--allow-changed goes with --resume"),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_name(monkeypatch, call, message):
    monkeypatch.setattr("asr.training.run.train", None)  # nothing starts, should an argument pass
    with pytest.raises(asr.UserError, match=message):
        call()
