"""A long manifest over few sound files: each file is looked at once, and a line costs little more than its text."""

import json
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from asr.config import Config, DataConfig, TokenizerConfig
from asr.data import build_dataset, manifest_dataset
from asr.data.loader import TrainLoader
from asr.data.text.building import build_tokenizer
from own_process import in_own_process

NUM_LINES, NUM_FILES = 20_000, 10


def text_of(number):
    return f"some words of line {number}"


def write_manifest(root, dataset):
    for i in range(NUM_FILES):
        soundfile.write(root / f"{i}.flac", np.zeros(1600 * (i + 1)), 16000)
    rows = [(f"utterance_{k:07d}", f"{k % NUM_FILES}.flac", text_of(k)) for k in range(NUM_LINES)]
    match dataset:
        case "jsonl":
            lines = (json.dumps({"utt_id": u, "audio_filepath": p, "text": t}) + "\n" for u, p, t in rows)
            (root / "train").write_text("".join(lines))
        case "tsv":
            lines = ["utt\tpath\ttext\tsplit\n", *(f"{u}\t{p}\t{t}\ttrain\n" for u, p, t in rows)]
            (root / "manifest.tsv").write_text("".join(lines))
        case "kaldi":
            (root / "train").mkdir()
            (root / "train/wav.scp").write_text("".join(f"{u} {p}\n" for u, p, _ in rows))
            (root / "train/text").write_text("".join(f"{u} {t}\n" for u, _, t in rows))
    return Config(data=DataConfig(dataset=dataset, root=str(root), train_split="train", max_seconds=60))


@pytest.mark.parametrize("dataset", ["jsonl", "tsv", "kaldi"])
def test_a_long_manifest_opens_fast_small_and_looks_at_each_file_once(dataset, tmp_path, monkeypatch):
    config = write_manifest(tmp_path, dataset)
    looked_at, look = [], manifest_dataset.audio_duration_s
    monkeypatch.setattr(manifest_dataset, "audio_duration_s", lambda path: looked_at.append(path) or look(path))
    start = time.perf_counter()
    found = build_dataset(config, "train")
    assert time.perf_counter() - start < 10  # 0.2 on a quiet machine
    assert sorted(looked_at) == [tmp_path / f"{i}.flac" for i in range(NUM_FILES)]
    assert len(found) == NUM_LINES
    np.testing.assert_allclose(found.durations_s(), 0.1 * (np.arange(NUM_LINES) % NUM_FILES + 1))
    assert (found[12_345].text, found[12_345].name) == (text_of(12_345), "utterance_0012345")
    assert found.where(12_345).endswith(":12347" if dataset == "tsv" else ":12346")


def measure_kept(folder):
    """Return the bytes kept of the lines, and those with the loader's."""
    config = write_manifest(folder, "jsonl")
    tokenizer = build_tokenizer(TokenizerConfig(), [text_of(1234567890)])
    build_dataset(config, "train")  # imports and caches
    tracemalloc.start()
    found = build_dataset(config, "train")
    kept_of_lines, _ = tracemalloc.get_traced_memory()
    loader = TrainLoader(found, tokenizer, config)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loader.batch_at(0)["tokens"].any()
    return kept_of_lines, kept


def test_what_is_kept_of_a_line_is_little_more_than_its_text(tmp_path):
    kept_of_lines, kept = in_own_process(measure_kept, tmp_path)
    assert kept_of_lines < 150 * NUM_LINES  # 24 characters of text, 17 of a name, and numbers
    assert kept < 400 * NUM_LINES
