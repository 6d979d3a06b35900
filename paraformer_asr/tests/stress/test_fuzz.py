"""Damaged inputs: a few hundred for all readers, and that the harness sees every way in which a reader may fail."""

import contextlib
import runpy
import sys
import time
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import given, settings

from asr.config import Config
from asr.config.reader import load_config
from asr.config.safe_yaml import compose_text
from asr.errors import UserError
from asr.untrusted import escaped, shown

HARNESS = Path(__file__).parent
CASES_OF_A_KIND = 20
MAY_ALL_BE_ACCEPTED = ("names", "checkpoint")
"""Any name can be made a safe one. Of two checkpoints one is often intact; which file a case damages depends on orbax,
whose file names are random."""


@pytest.fixture(scope="module")
def script():
    """Return what `fuzz_inputs.py` defines."""
    sys.path.insert(0, str(HARNESS))
    try:
        yield runpy.run_path(str(HARNESS / "fuzz_inputs.py"))
    finally:
        sys.path.remove(str(HARNESS))


KINDS = (
    *("wav", "flac", "ogg_mp3", "media", "jsonl", "tsv", "kaldi", "tokens", "tokens.json", "cmvn", "arpa", "seg_dict"),
    *("tokenizer", "bpe", "config", "override", "torch_file", "funasr", "model_folder", "run", "checkpoint"),
    *("names", "places", "header"),
)


def test_the_kinds_are_those_of_the_script(script):
    assert tuple(kind.name for kind in script["KINDS"]) == KINDS
    for cases in (1, 7, 10_000):
        assert sum(script["share_cases"](script["KINDS"], cases)) == cases


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_are_accepted_or_named(name, script, tmp_path):
    (kind,) = (kind for kind in script["KINDS"] if kind.name == name)
    outcomes = [
        (number, trial.outcome, trial.message)
        for number, trial, _ in script["run_kind"](kind, 1, range(CASES_OF_A_KIND), tmp_path)
    ]
    assert [outcome for outcome in outcomes if outcome[1] == "failed"] == []
    assert "refused" in {outcome for _, outcome, _ in outcomes} or name in MAY_ALL_BE_ACCEPTED


def test_checkpoints_that_are_all_damaged_are_refused(script, tmp_path):
    (kind,) = (kind for kind in script["KINDS"] if kind.name == "checkpoint")

    def damage_all(rng, samples, folder):
        files = {name: b"" if name.endswith("manifest.json") else content for name, content in samples.items()}
        return kind.write.__globals__["_write_files"](folder / "checkpoints", files) or [str(folder / "checkpoints")]

    ((_, trial, _),) = script["run_kind"](kind._replace(write=damage_all), 1, [0], tmp_path)
    assert trial.outcome == "refused"


def test_a_case_depends_on_its_number_alone(script, tmp_path):
    def inputs(folder, numbers):
        folder.mkdir()
        trials = script["run_kind"](kind._replace(read=lambda case: read_all(case)), 3, numbers, folder)
        return {number: trial.message for number, trial, _ in trials}

    def read_all(case):
        files = {str(path.relative_to(case)): path.read_bytes() for path in sorted(case.rglob("*")) if path.is_file()}
        raise RuntimeError(repr(files))

    for name in ("wav", "ogg_mp3", "bpe", "torch_file", "model_folder"):
        (kind,) = (kind for kind in script["KINDS"] if kind.name == name)
        some, all_of_them = inputs(tmp_path / f"{name}a", [4, 2]), inputs(tmp_path / f"{name}b", range(5))
        for number, message in some.items():
            assert message.splitlines()[-1] == all_of_them[number].splitlines()[-1]


def hang(folder):
    while True:
        time.sleep(0.01)


def warn(folder):
    warnings.warn("careful", stacklevel=1)


def refuse(message):
    def read(folder):
        raise UserError(message.format(folder=folder))

    return read


def unequal(folder):
    raise AssertionError("not equal")


def slow_callback(folder):
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        with contextlib.suppress(BaseException):  # as a callback of the interpreter does
            time.sleep(0.3)


FAILING_READERS = {
    "another exception": (lambda folder: {}["a"], "KeyError: 'a'"),
    "a warning": (warn, "UserWarning: careful"),
    "a hang": (hang, "OutOfTimeError: no answer in 0.2 s"),
    "a hang that swallows errors": (slow_callback, "took 0."),
    # Larger than 32 MiB: the allocator takes no such block from memory that this process has touched before.
    "a lot of memory": (lambda folder: np.ones(100 << 20, np.uint8).sum(), "more than 20"),
    "no name": (refuse("the file is bad"), "the message names none of"),
    "a long message": (refuse("{folder}/a.txt: " + "x" * 9000), "a message of 9"),
    "control characters": (refuse("{folder}/a.txt: \x1b[2J"), "hands on the character '\\x1b'"),
    "too little memory": (lambda folder: bytes(1 << 62), "MemoryError"),
    "an assertion": (unequal, "AssertionError: not equal"),
}


@pytest.mark.parametrize("name", FAILING_READERS)
def test_the_harness_reports_a_reader_that_fails(name, script, tmp_path, monkeypatch):
    trials = sys.modules["fuzzing.trials"]
    if "hang" in name:
        monkeypatch.setattr(trials, "LIMIT_S", 0.2)
    monkeypatch.setattr(trials, "LIMIT_MB", 20.0)
    read, said = FAILING_READERS[name]

    def write(rng, samples, folder):
        (folder / "a.txt").write_text("x")
        return [str(folder / "a.txt")]

    kind = trials.Kind(name, 1, lambda folder: None, write, read)
    ((_, trial, _),) = script["run_kind"](kind, 0, [0], tmp_path)
    assert trial.outcome == "failed" and said in trial.message
    script["keep_failure"](tmp_path / "keep", kind, 0, 0, trial)
    assert (tmp_path / "keep" / f"{name}_0/input/a.txt").read_text() == "x"
    assert (tmp_path / "keep" / f"{name}_0/failure.txt").read_text() == trial.message
    fine = kind._replace(read=refuse("{folder}/a.txt: expected y, found x"))
    (tmp_path / "fine").mkdir()
    ((_, trial, _),) = script["run_kind"](fine, 0, [0], tmp_path / "fine")
    assert trial.outcome == "refused"


def test_the_command_prints_a_table_and_answers_with_its_code(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(script["main"].__globals__, "limit_address_space", lambda more: None)
    monkeypatch.setattr("logging.disable", lambda level: None)  # the next tests read what is logged
    arguments = ["--cases", "10", "--kind", "cmvn", "--json", str(tmp_path / "t.json"), "--keep", str(tmp_path / "k")]
    monkeypatch.setattr(sys, "argv", ["fuzz_inputs.py", *arguments])
    assert script["main"]() == 0
    assert "cmvn                10" in capsys.readouterr().out and (tmp_path / "t.json").exists()
    bad = [kind._replace(read=lambda folder: {}["a"]) for kind in script["KINDS"] if kind.name == "cmvn"]
    monkeypatch.setitem(script["main"].__globals__, "KINDS", bad)
    assert script["main"]() == 1
    assert len(list((tmp_path / "k").iterdir())) == 10


# Scalars of all sorts, and lists and mappings of them.
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(scalars, t, max_size=3), max_leaves=8)


@given(key=st.sampled_from(["seed", "name", "model", "data", "optimizer", "training", "nothing"]), value=trees)
@settings(max_examples=150, deadline=None)
def test_any_tree_of_values_is_a_config_or_named(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(yaml.safe_dump({key: value}, allow_unicode=True), encoding="utf-8")
    try:
        assert isinstance(load_config(path), Config)
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 3000


@given(st.binary(max_size=200) | st.text("[]{}&*!|>-?:,#'\"%@`~ \t\n\\ab0.", max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_yaml_or_named(content):
    try:
        assert isinstance(compose_text(content, "c.yaml"), yaml.Node)
    except UserError as error:
        assert str(error).startswith("c.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 60_000, ":1: lists and mappings nested more than 16 deep"),
        ("a: [" + "1, " * 20_000 + "]", ":1: more than 4096 values"),
        ("a: &a [1]\nb: *a", ":2: YAML aliases"),
        ("a: [1", ":1: not valid YAML"),
    ],
)
def test_hostile_yaml_is_refused_at_once(content, said):
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        compose_text(content, "c.yaml")
    assert str(error.value).startswith(f"c.yaml{said}") and time.perf_counter() - start < 2


@given(st.text() | trees)
def test_what_is_shown_is_short_and_harmless(value):
    for text in (shown(value), escaped(str(value))):
        assert text.isprintable() and len(text) < 1500


def test_numbers_are_shown_whatever_their_size():
    assert shown(10**5000) == "a whole number of 16610 bits" and shown(12) == "12" and shown("a\x1b") == "'a\\x1b'"
