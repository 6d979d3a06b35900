"""Damaged and hostile inputs: a few hundred cases of `fuzz_inputs.py`, and that it sees what goes wrong."""

import dataclasses
import importlib
import json
import os
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.classes import load_class_table
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.data.masks.class_settings import build_label_map
from seg.errors import UserError
from seg.inference.model_folder import load_origin
from seg.published.r50_vit import read_npz
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

HARNESS = Path(__file__).parent
CASES = {
    "image": 60,
    "mask": 60,
    "classes.json": 40,
    "class table": 40,
    "list": 40,
    "stack": 60,
    "config": 25,
    "override": 20,
    "run": 25,
    "model folder": 15,
    "checkpoint": 12,
    "settings": 40,
    "torch file": 40,
    "published": 4,
    "npz": 10,
    "names": 15,
    "places": 30,
    "header": 25,
}
"""How many of each kind; some take longer than others."""
MAY_ALL_BE_ACCEPTED = ("names", "checkpoint")
"""Any name can be made a safe one. Of two checkpoints one is often intact; which file a case damages depends on orbax,
whose file names are random."""


def _import_harness():
    """Return the script and its parts as modules, and keep them out of sys.modules, where names may clash."""
    sys.path.insert(0, str(HARNESS))
    try:
        names = ("fuzz_inputs", "fuzzing.trials", "fuzzing.tree_mutations")
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(HARNESS))
        for name in [name for name in sys.modules if name.split(".")[0] in ("fuzz_inputs", "fuzzing")]:
            del sys.modules[name]


fuzz_inputs, trials, tree_mutations = _import_harness()
Case, Kind, KINDS = fuzz_inputs.Case, fuzz_inputs.Kind, fuzz_inputs.KINDS


def test_every_kind_is_tried():
    assert list(KINDS) == list(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_input_is_accepted_or_refused_by_name(name):
    tally = fuzz_inputs.fuzz(KINDS[name], range(CASES[name]), seed=1)
    assert not tally.failures
    assert tally.tried == CASES[name] == tally.accepted + tally.refused
    assert tally.refused or name in MAY_ALL_BE_ACCEPTED


def test_checkpoints_that_are_all_damaged_are_refused(tmp_path):
    kind = KINDS["checkpoint"]
    (case,) = kind.make(tmp_path / "sample")
    files = {name: b"" if name.endswith("manifest.json") else content for name, content in case.files.items()}
    failure, refused, *_ = fuzz_inputs.run_trial(kind, Case(files), tmp_path / "case")
    assert not failure and refused


@pytest.mark.parametrize("line", tree_mutations.LINES, ids=range(len(tree_mutations.LINES)))
def test_no_line_of_yaml_is_too_much(line, tmp_path):
    case = Case({"config.yaml": line.encode("utf-8", "surrogatepass")})
    failure, *_ = fuzz_inputs.run_trial(KINDS["config"], case, tmp_path / "case")
    assert not failure


def test_a_case_depends_on_seed_kind_and_number_alone(tmp_path):
    for name in ("image", "list", "config", "torch file"):
        kind = KINDS[name]
        samples = [kind.make(tmp_path / f"{name} {i}") for i in range(2)]
        cases = [[kind.change(Random(f"0 {name} {number}"), s) for number in range(20)] for s in samples]
        assert cases[0] == cases[1]
        assert len({str(case) for case in cases[0]}) > 15


# ---- the harness is not blind ------------------------------------------------------------------------------------


def warn(folder):
    warnings.warn("odd", UserWarning, stacklevel=1)


def take_memory(folder):
    return np.ones(64 << 20, np.uint8).sum()


def refuse(message):
    def read(folder):
        raise UserError(message.format(folder=folder))

    return read


def answer_wrongly(folder):
    raise AssertionError("not as it was written")


def raise_from_within(folder):
    raise KeyError("x")


READERS = {
    "another exception": (raise_from_within, "KeyError"),
    "a warning": (warn, "odd"),
    "no answer": (lambda folder: time.sleep(30), "no answer within 1 s"),
    "memory": (take_memory, "MB of memory"),
    "no name": (refuse("it is damaged"), "names none of"),
    "a long message": (refuse("{folder}: " + "x" * 20_000), "a message of 20"),
    "a wrong answer": (answer_wrongly, "not as it was written"),
}


def kind_of(read) -> Kind:
    """Return a kind whose sound sample is accepted, and whose cases are given to `read`."""

    def read_case(folder, case):
        return read(folder) if case.arguments else None

    change = lambda rng, samples: dataclasses.replace(samples[0], arguments=("changed",))  # noqa: E731
    return Kind("broken", lambda _: [Case({"file.txt": b"x"})], change, read_case)


@pytest.mark.parametrize("fault", READERS)
def test_what_goes_wrong_is_reported(fault, monkeypatch, tmp_path):
    if fault == "memory" and not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell the peak of one call")
    read, said = READERS[fault]
    monkeypatch.setattr(trials, "TIME_LIMIT_S", 1 if fault == "no answer" else 30)
    monkeypatch.setattr(trials, "MEMORY_LIMIT_MB", 32)
    tally = fuzz_inputs.fuzz(kind_of(read), range(2), 0, tmp_path)
    assert [number for number, _ in tally.failures] == [0, 1]
    assert (tally.tried, tally.accepted, tally.refused) == (2, 0, 0)
    assert said in tally.failures[0][1]
    assert (tmp_path / "broken_1" / "file.txt").read_bytes() == b"x"
    assert said in (tmp_path / "broken_1" / "failure.txt").read_text()


def test_what_goes_well_is_counted():
    tally = fuzz_inputs.fuzz(kind_of(refuse("{folder}: no")), range(3), 0)
    assert (tally.tried, tally.accepted, tally.refused, tally.failures) == (3, 0, 3, [])
    tally = fuzz_inputs.fuzz(kind_of(lambda folder: None), range(3), 0)
    assert (tally.tried, tally.accepted, tally.refused, tally.failures) == (3, 3, 0, [])


def test_a_sound_sample_must_be_accepted():
    kind = dataclasses.replace(kind_of(print), read=lambda folder, case: refuse("{folder}: no")(folder))
    with pytest.raises(AssertionError, match="a sound sample was not accepted"):
        fuzz_inputs.fuzz(kind, range(1), 0)


def test_the_table_and_the_exit_code(monkeypatch, tmp_path, capsys):
    for name in ("own_standard_error", "limit_address_space"):  # they would change this process for good
        monkeypatch.setattr(fuzz_inputs, name, lambda: sys.stderr)
    for name in ("faulthandler.enable", "logging.disable"):
        monkeypatch.setattr(name, lambda *_: None)
    kinds = {"bad": kind_of(raise_from_within), "good": kind_of(lambda folder: None)}
    monkeypatch.setattr(fuzz_inputs, "KINDS", kinds)
    for chosen, code, failures in ((["good"], 0, 0), (["good", "bad"], 1, 2)):
        arguments = ["--cases", str(2 * len(chosen)), "--json", str(tmp_path / "found.json"), "--kind", *chosen]
        monkeypatch.setattr(sys, "argv", ["fuzz_inputs.py", *arguments])
        assert fuzz_inputs.main() == code
        assert capsys.readouterr().out.splitlines()[-1].split()[:5] == [
            *("all", str(2 * len(chosen)), "2", "0", str(failures))
        ]
        report = json.loads((tmp_path / "found.json").read_text())
        assert sum(len(kind["failures"]) for kind in report["kinds"]) == failures


# ---- any JSON ----------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
KEYS = st.sampled_from(["names", "palette", "ignore", "num_batches_tracked", "kind", "x"])
JSON = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=12)
NAMES = st.lists(SCALARS, max_size=3) | JSON
CLASSES = st.fixed_dictionaries({"names": NAMES, "palette": JSON}, optional={"ignore": SCALARS})


@given(JSON | CLASSES)
@settings(max_examples=150, deadline=None)
def test_any_json_is_accepted_or_refused_by_name(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("json", numbered=True)
    readers = {
        "classes.json": (load_class_table, lambda path: build_label_map(DataConfig(root=str(path.parent)))),
        "origin.json": (lambda path: load_origin(path.parent),),
    }
    for name, read_all in readers.items():
        (folder / name).write_text(json.dumps(value))
        for read in read_all:
            try:
                read(folder / name)
            except UserError as error:
                assert str(folder / name) in str(error)  # noqa: PT017


# ---- bounds ------------------------------------------------------------------------------------------------------


def test_an_image_is_bounded_before_it_takes_memory(tmp_path):
    samples = KINDS["image"].make(tmp_path)
    content = next(case.files["RGB.png"] for case in samples if "RGB.png" in case.files)
    for side in (15_000, 60_000):
        header = content[:16] + side.to_bytes(4, "big") * 2 + content[24:29]
        (tmp_path / "a.png").write_bytes(header + zlib.crc32(header[12:]).to_bytes(4, "big") + content[33:])
        with pytest.raises(UserError, match="a.png: .*more .*than data.max_pixels = 200000000"):
            read_image(tmp_path / "a.png")


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    samples = {name: content for case in KINDS["image"].make(tmp_path) for name, content in case.files.items()}
    content = samples["progressive.jpg"]
    last_scan = content[content.rfind(b"\xff\xda") : -2]
    for count, refused in ((80, False), (100, True), (30_000, True)):
        (tmp_path / "a.jpg").write_bytes(content[:-2] + last_scan * count + content[-2:])
        if refused:
            with pytest.raises(UserError, match="a.jpg: a JPEG of more than 100 scans"):
                read_image(tmp_path / "a.jpg")
        else:
            np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").shape, (20, 27, 3))
    (tmp_path / "a.jpg").write_bytes(content + last_scan * 200)  # behind the end: a film, or another picture
    read_image(tmp_path / "a.jpg")


def test_a_torch_file_whose_tensors_repeat_or_share_values_is_refused(tmp_path):
    """A stride of 0 makes any number of values of one; entries that overlap make any number of bytes of some."""
    grid = np.zeros((1000, 1000), np.float32)
    for name, tensors, said in (
        ("repeats", {"x": np.zeros(4, np.float32)}, "repeats the values"),
        ("shares", {f"x{i}": grid for i in range(40)}, "tensors overlap"),
    ):
        path = tmp_path / f"{name}.pth"
        write_torch_file(path, tensors)
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        program = entries["archive/data.pkl"]
        if name == "repeats":  # shape (4,) and stride (1,) become (200,) and (0,)
            program = program.replace(b"K\x04\x85", b"K\xc8\x85").replace(b"K\x01\x85", b"K\x00\x85")
        else:  # all refer to the first storage
            for i in range(1, 40):
                key = str(i).encode()
                program = program.replace(b"X" + len(key).to_bytes(4, "little") + key, b"X\x01\0\0\x000")
        assert program != entries["archive/data.pkl"]
        entries = {key: value for key, value in entries.items() if "/data/" not in key or key.endswith("/0")}
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in (entries | {"archive/data.pkl": program}).items():
                archive.writestr(entry, content)
        with pytest.raises(UserError, match=f"{name}.pth: .*{said}"):
            read_torch_file(path)


def test_an_npz_that_unpacks_to_far_more_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(8 << 20, np.float32))
    with pytest.raises(UserError, match="a.npz: its arrays have 33554"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(2, 3), y=np.asfortranarray(np.arange(6).reshape(2, 3)))
    arrays = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(arrays["y"], np.arange(6).reshape(2, 3))
    content = (tmp_path / "a.npz").read_bytes().replace(b"'shape': (2, 3), ", b"'shape': (99999,)")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz: expected an .npz with arrays of numbers"):
        read_npz(tmp_path / "a.npz")
