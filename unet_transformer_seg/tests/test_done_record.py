import json
import os

import numpy as np
import pytest

from seg.errors import UserError
from seg.inference.done_record import RECORD, DoneRecord, digest_model

VARIABLES = {"params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("content")
    return path


@pytest.fixture
def results(tmp_path):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    paths = [tmp_path / "out" / "a.first", tmp_path / "out" / "deep" / "a.second"]
    for path in paths:
        path.write_text("a result")
    return paths


def is_done(source, results, made_by="model"):
    return DoneRecord(results[0].parent, made_by).is_done(source, results)


def test_what_was_added_is_done_for_the_same_model_only(source, results):
    record = DoneRecord(results[0].parent, "model")
    assert not record.is_done(source, results)
    record.add(source, results)
    assert is_done(source, results)
    assert not is_done(source, results, "another model")
    assert not is_done(results[0], results)


def change_source(source, results):
    source.write_text("another content")


def touch_source(source, results):
    os.utime(source, ns=(1, 1))


def truncate_result(source, results):
    results[1].write_text("a res")


def remove_result(source, results):
    results[1].unlink()


def want_one_more_result(source, results):
    results.append(results[0].parent / "a.third")
    results[-1].write_text("never noted")


CHANGES = (change_source, touch_source, truncate_result, remove_result, want_one_more_result)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_result_that_may_be_stale_or_incomplete_is_not_done(source, results, change):
    DoneRecord(results[0].parent, "model").add(source, results)
    change(source, results)
    assert not is_done(source, results)


def test_a_line_that_was_cut_off_costs_itself_alone(source, results, tmp_path):
    record_file = results[0].parent / RECORD
    DoneRecord(results[0].parent, "model").add(source, results)
    other = tmp_path / "other"
    other.write_text("content")
    record_file.write_bytes(record_file.read_bytes() + b'{"made_by": "model", "sour')
    DoneRecord(results[0].parent, "model").add(other, results)
    assert is_done(source, results)
    assert is_done(other, results)


@pytest.mark.parametrize("line", [b"[]", b"7", b"{}", b'{"source": 3}', b"\xff\x00", b"[" * 100_000], ids=repr)
def test_lines_that_are_no_entries_are_passed_over(source, results, line):
    (results[0].parent / RECORD).write_bytes(line + b"\n")
    assert not is_done(source, results)


def test_the_last_entry_of_a_source_counts(source, results):
    for model in ("model", "another model", "model"):
        DoneRecord(results[0].parent, model).add(source, results)
        results[0].write_text(f"{results[0].read_text()}, made anew")
    assert not is_done(source, results)
    DoneRecord(results[0].parent, "model").add(source, results)
    assert is_done(source, results)


def test_a_planted_link_or_pipe_is_refused(source, results, tmp_path):
    record = DoneRecord(results[0].parent, "model")
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (results[0].parent / RECORD).symlink_to(precious)
    with pytest.raises(UserError, match=r"_done\.jsonl"):
        record.add(source, results)
    assert precious.read_text() == "kept"
    (results[0].parent / RECORD).unlink()
    os.mkfifo(results[0].parent / RECORD)
    with pytest.raises(UserError, match=r"_done\.jsonl.*a pipe"):
        DoneRecord(results[0].parent, "model")


def test_names_that_are_not_utf8_are_kept_apart(results, tmp_path):
    sources = [tmp_path / os.fsdecode(name) for name in (b"a\xff", b"a\xfe")]
    for path in sources:
        path.write_text("content")
        os.utime(path, ns=(1, 1))
    record = DoneRecord(results[0].parent, "model")
    record.add(sources[0], results)
    assert is_done(sources[0], results)
    assert not is_done(sources[1], results)
    assert json.loads((results[0].parent / RECORD).read_text().strip())["source"].endswith(r"a\xff")


def test_the_digest_depends_on_every_weight_and_setting():
    changed = {"params": {"kernel": VARIABLES["params"]["kernel"].copy()}}
    changed["params"]["kernel"][1, 2] += 1
    renamed = {"params": {"bias": VARIABLES["params"]["kernel"]}}
    turned = {"params": {"kernel": VARIABLES["params"]["kernel"].reshape(3, 2)}}
    digests = [digest_model(v, {"format": "text"}) for v in (VARIABLES, changed, renamed, turned)]
    digests += [digest_model(VARIABLES, {"format": "json"})]
    assert len(set(digests)) == 5
    assert digest_model(VARIABLES, {"format": "text"}) == digests[0]
