"""The public names: imported lazily, listed in one place, documented; the command `seg`."""

import subprocess
import sys
from pathlib import Path

import pytest

import seg
from seg import __main__ as command

PROJECT = Path(__file__).parents[1]

COST_OF_IMPORT = """
import sys, time
before, start = set(sys.modules), time.process_time()
import seg
print(time.process_time() - start, *sorted(set(sys.modules) - before))
"""

SECONDS_OF_COMMAND = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def output_of(*arguments):
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_import_costs_nothing():
    seconds, *modules = output_of("-c", COST_OF_IMPORT).split()
    assert modules == ["seg"]
    assert float(seconds) < 0.05


def test_each_name_is_there_and_has_its_type_for_a_type_checker():
    for name in seg.__all__:
        assert getattr(seg, name) is not None, name
    source = (PROJECT / "src/seg/__init__.py").read_text()
    for name, module in seg._MODULES.items():
        assert f"    from {module} import {name} as {name}\n" in source
    assert source.count("    from seg.") == len(seg.__all__)
    assert (PROJECT / "src/seg/py.typed").exists() and set(seg.__all__) <= set(dir(seg))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'seg' has no attribute 'nothing'"):
        seg.nothing  # noqa: B018


def test_train_is_a_function_even_after_its_command_was_imported(monkeypatch):
    import seg.train

    monkeypatch.setattr("seg.api.train", lambda *arguments, **options: (arguments, options))
    assert seg.train("toy_unet", resume="there") == (("toy_unet",), {"resume": "there"})


# The command.


@pytest.mark.parametrize("arguments", [("seg", "--help"), *(("seg", name, "--help") for name in command.COMMANDS)])
def test_help_is_instant(arguments):
    assert float(output_of("-c", SECONDS_OF_COMMAND, *arguments)) < 0.3


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["seg", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code


def test_the_command_lists_the_commands_with_a_line_each(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, meaning in command.COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, meaning] for line in lines)
        files = (PROJECT / f"src/seg/{name}.py", PROJECT / f"src/seg/{name}/__main__.py")
        assert name == "configs" or any(path.exists() for path in files)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((), "a command is missing"), (("trian",), "unknown command 'trian'; did you mean 'train'?")],
)
def test_a_command_that_is_not_there_is_refused_with_the_list(monkeypatch, capsys, arguments, error):
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert error in shown and "seg COMMAND --help" in shown


def test_the_packaged_configs_are_listed_and_printed(monkeypatch, capsys):
    assert run(monkeypatch, "configs") == 0
    assert capsys.readouterr().out.split() == sorted(path.stem for path in (PROJECT / "configs").glob("*.yaml"))
    assert run(monkeypatch, "configs", "toy_unet") == 0
    assert capsys.readouterr().out == (PROJECT / "configs/toy_unet.yaml").read_text()
    assert run(monkeypatch, "configs", "toy_u") == 2
    assert "no config is called 'toy_u'; expected camvid_lite0, camvid_medium" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("configs",), ("configs", "toy_unet"), ("--help",)])
def test_a_listing_whose_reader_has_had_enough_ends_quietly(arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "seg", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_packaged_config_is_read_by_its_name_and_a_file_of_this_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert seg.load_config("toy_unet", ["seed=3"]) == seg.load_config(PROJECT / "configs/toy_unet.yaml", ["seed=3"])
    (tmp_path / "toy_unet").write_text("name: mine\n")
    assert seg.load_config("toy_unet").name == "mine"
    with pytest.raises(seg.UserError, match="toy_u: .* configs that come with the package: camvid_"):
        seg.load_config("toy_u")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seg.load(None), "folder: expected a path, found NoneType"),
        (lambda: seg.load("here", checkpoint="newest"), "checkpoint: expected best or last, found 'newest'"),
        (lambda: seg.load_config({"name": "mine"}), "config: expected a Config, .* found dict"),
        (lambda: seg.load_config("toy_unet", "seed=3"), r"overrides: expected a list .* write \['seed=3'\]"),
        (lambda: seg.load_config("toy_unet", [3]), "override 3: expected a text key=value"),
        (lambda: seg.train({"name": "mine"}), "config: expected a Config, .* found dict"),
        (lambda: seg.train(seg.Config(), overrides="seed=3"), "overrides: expected a list"),
        (lambda: seg.train(resume=3), "resume: expected a path, found int"),
        (lambda: seg.train(seg.Config(), max_minutes=float("nan")), "max_minutes: .* at least 0, found nan"),
        (lambda: seg.train(seg.Config(), max_minutes="5"), "max_minutes: .* found '5'"),
        (lambda: seg.train(seg.Config(), hooks=[print]), "hooks: expected instances of .*Hook, found <built-in"),
        (lambda: seg.train(seg.Config(), allow_changed=["data"]), "--allow-changed goes with --resume"),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_name(monkeypatch, call, message):
    monkeypatch.setattr("seg.training.run.train", None)  # nothing starts, should an argument pass
    with pytest.raises(seg.UserError, match=message):
        call()
