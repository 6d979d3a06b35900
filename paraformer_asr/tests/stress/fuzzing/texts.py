"""Text files: manifests, lists of tokens, tokenizers, normalisation, language models, dictionaries of pieces."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece
import soundfile

from asr.config import DataConfig, TokenizerConfig
from asr.data.cmvn import load_cmvn, save_cmvn
from asr.data.frontend import Cmvn
from asr.data.manifest_dataset import open_manifest_dataset, read_durations, read_manifest
from asr.data.text.building import build_tokenizer
from asr.data.text.funasr_text import cut, read_seg_dict, spell
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.data.text.tokenizer import BPE_FILE, TOKENIZER_FILE, Tokenizer, with_special_tokens
from asr.decode.arpa import read_arpa
from fuzzing.mutations import change_bytes, change_text, flip_bit, hard_number, set_byte, write_changed
from fuzzing.trials import Kind

SPOKEN = ("good morning", "你好 world", "ünï codé", "a b c")

JSONL = "".join(
    json.dumps(line, ensure_ascii=False) + "\n"
    for line in (
        {"key": "u0", "source": "a.wav", "source_len": 10, "target": SPOKEN[0], "target_len": 2},
        {"audio_filepath": "b.wav", "duration": 0.05, "text": SPOKEN[1], "offset": 0},
        {"audio_filepath": "./a.wav", "text": SPOKEN[2], "utt_id": "u2", "speaker": {"age": 3}},
    )
)
TSV = f"utt\tpath\ttext\tsplit\tseconds\nu0\ta.wav\t{SPOKEN[0]}\ttrain\t0.05\nu1\tb.wav\t{SPOKEN[1]}\tdev\t\n"
KALDI = {
    "wav.scp": "u0 a.wav\nu1 b.wav\n",
    "text": f"u0 {SPOKEN[0]}\nu1 {SPOKEN[1]}\n",
    "utt2dur": "u0 0.05\nu1 0.05\n",
}
ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-0.60\t<s>\t-0.30
-0.30\tgood\t-0.10
-0.50\tmorning
-0.60\t</s>
-99\t<unk>

\\2-grams:
-0.10\t<s> good
-0.20\tgood morning
-0.10\tmorning </s>

\\end\\
"""
WORDS = {
    "jsonl": ('"duration"', '"text"', "1e308", "Infinity", '"offset": 3', '"key"', "b.wav"),
    "tsv": ("\ttrain", "\tpath", "\t", "split", "train+dev", "1_0"),
    "kaldi": ("cat a.wav |", "| cat", "u0", "u1", "1_0"),
    "tokens": ("<blank>", "<unk>", "<s>", "[1, 2]", '["a"]', "▁", "@@"),
    "tokens.json": ('"<blank>"', '"<unk>"', "@@", '"a", ', "[1]", '"', '"\\ud800", ', "}"),
    "cmvn": ("<AddShift>", "<Rescale>", "[", "]", "4", "1e39", "inf", "0x10", "1_0"),
    "arpa": ("\\data\\", "\\1-grams:", "\\2-grams:", "\\end\\", "ngram 3=4", "ngram 1=999999999999", "-inf", "1_0"),
    "seg_dict": ("he@@ llo", "@@", "hello", "你好"),
}


def _manifest_kind(name: str, files: dict[str, str], config: Callable[[Path], DataConfig]) -> Kind:
    """Return the kind of input of one kind of manifest, `files` being a valid one."""

    def write(rng: random.Random, sound: bytes, folder: Path) -> list[str]:
        (folder / "a.wav").write_bytes(sound)
        (folder / "b.wav").write_bytes(sound)
        split = folder / "train" if name == "kaldi" else folder
        split.mkdir(exist_ok=True)
        changed = rng.choice(list(files))
        for file, text in files.items():
            (split / file).write_text(text, "utf-8")
        write_changed(rng, split / changed, change_text(rng, files[changed].encode(), WORDS[name]))
        return [str(split / file) for file in files]

    def read(folder: Path) -> None:
        reading = read_manifest(config(folder), "train")
        problems = reading.problems + read_durations(reading.entries, 1)[1]
        unnamed = [text for text in problems if not text.startswith(f"{folder}") or ":" not in text]
        assert not unnamed, f"problems that name no line: {unnamed}"
        dataset = open_manifest_dataset(config(folder), "train", 16_000)
        for index in range(min(len(dataset), 2)):
            assert np.isfinite(dataset[index].wave).all()

    return Kind(name, 5, _sound_sample, write, read)


def _sound_sample(folder: Path) -> bytes:
    soundfile.write(folder / "a.wav", np.zeros(800), 16_000)
    return (folder / "a.wav").read_bytes()


def _file_kind(name: str, samples: list[bytes], read: Callable[[Path], object], share: int = 5) -> Kind:
    """Return the kind of input of a single text file."""

    def write(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
        write_changed(rng, folder / name, change_text(rng, rng.choice(samples), WORDS[name], samples))
        return [str(folder / name), f"holds no {name}"]

    return Kind(name, share, lambda folder: samples, write, lambda folder: read(folder / name))


def _read_tokens(path: Path) -> None:
    _use(build_tokenizer(TokenizerConfig(kind="file", file=str(path)), SPOKEN))


def _read_published_tokens(path: Path) -> None:
    _use(build_tokenizer(TokenizerConfig(kind="funasr", file=str(path.parent)), SPOKEN))


def _use(tokenizer: Tokenizer) -> None:
    """Cut a few texts and spell them again."""
    for text in SPOKEN:
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        ordinary = [i for i in ids if tokenizer.is_ordinary(i)]
        tokenizer.decode(ordinary).encode()
        tokenizer.spell(ordinary)
    tokenizer.decode(range(min(tokenizer.vocab_size, 200))).encode()


def _tokenizer_samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the files of a tokenizer of each kind."""
    made = {
        "characters": build_tokenizer(TokenizerConfig(), SPOKEN),
        "bpe": build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=30), SPOKEN),
        "funasr": Tokenizer(with_special_tokens(["he@@", "llo", "a"]), "funasr", seg_dict={"hello": ("he@@", "llo")}),
    }
    samples = {}
    for name, tokenizer in made.items():
        (folder / name).mkdir()
        tokenizer.save(folder / name)
        samples[name] = {path.name: path.read_bytes() for path in sorted((folder / name).iterdir())}
    return samples


def _write_tokenizer(rng: random.Random, samples: dict[str, dict[str, bytes]], folder: Path) -> list[str]:
    """Write a tokenizer with one changed file."""
    files = rng.choice(list(samples.values()))
    changed = rng.choice(list(files))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    words = ('"bpe"', '"funasr"', '"file"', '"kind"', '"tokens"', '"tokens": 1', '"\\ud800",')
    change = change_bytes if changed == BPE_FILE else lambda *arguments: change_text(*arguments, words)
    write_changed(rng, folder / changed, change(rng, files[changed]))
    return [str(folder / name) for name in files]


def _write_bpe(rng: random.Random, samples: dict[str, dict[str, bytes]], folder: Path) -> list[str]:
    """Write a changed model of pieces, and beside it the list of just the pieces that it claims to have."""
    files = samples["bpe"]
    if rng.random() < 0.3:
        model = change_bytes(rng, files[BPE_FILE], [files[TOKENIZER_FILE]])
    elif rng.random() < 0.3:  # field 3, the normaliser, with a table of characters that is no table
        table = rng.randbytes(rng.randrange(64))
        table = hard_number(rng, 4, "little") + table
        inner = b"\x12" + bytes([len(table)]) + table
        model = files[BPE_FILE] + b"\x1a" + bytes([len(inner)]) + inner
    else:
        model = bytearray(files[BPE_FILE])
        for _ in range(rng.randint(1, 3)):
            rng.choice((flip_bit, set_byte))(rng, model, rng.randrange(len(model)))
        model = bytes(model)
    content = json.loads(files[TOKENIZER_FILE])
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        content["tokens"] = with_special_tokens(pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size()))
    except (RuntimeError, UnicodeDecodeError):
        pass  # no model at all: the list stays
    (folder / BPE_FILE).write_bytes(model)
    (folder / TOKENIZER_FILE).write_text(json.dumps(content), "utf-8")
    return [str(folder / BPE_FILE), str(folder / TOKENIZER_FILE)]


def _cmvn_samples() -> list[bytes]:
    """Return a file of Kaldi's, with more components, and the like of ours."""
    kaldi = "<Nnet>\n<Splice> 4 4\n[ 0 ]\n<AddShift> 4 4\n<LearnRateCoef> 0 [ -1 -2 -3e0 -4 ]\n"
    kaldi += "<Rescale> 4 4\n<LearnRateCoef> 0 [ 0.1 0.2 0.3 0.4 ]\n</Nnet>\n"
    return [kaldi.encode(), kaldi.replace("\n", " ").encode()]


def _read_cmvn(path: Path) -> None:
    cmvn = load_cmvn(path)
    assert isinstance(cmvn, Cmvn) and np.isfinite(cmvn.shift).all() and np.isfinite(cmvn.scale).all()
    save_cmvn(path, cmvn)
    np.testing.assert_array_equal(load_cmvn(path).scale, cmvn.scale)


def _read_arpa(path: Path) -> None:
    model = read_arpa(path)
    for words in (("good", "morning"), ("stranger",), ()):
        assert not np.isnan(model.log_probability(model.context([*model.start, *words]), "</s>"))


def _read_seg_dict(path: Path) -> None:
    words = read_seg_dict(path)
    for text in SPOKEN:
        spell([token for _, token in cut(text, words, {"he@@", "llo", "a"}) if token])


def _jsonl_config(folder: Path) -> DataConfig:
    return DataConfig(dataset="jsonl", root=str(folder), train_split="train.jsonl")


def _tsv_config(folder: Path) -> DataConfig:
    return DataConfig(dataset="tsv", root=str(folder))


def _kaldi_config(folder: Path) -> DataConfig:
    return DataConfig(dataset="kaldi", root=str(folder))


TOKEN_LISTS = ["a\nb\n▁\nc@@\n".encode(), '["<blank>", "<s>", "</s>", "你", "好", "he@@", "llo", "<unk>"]\n'.encode()]

KINDS = (
    _manifest_kind("jsonl", {"train.jsonl": JSONL}, _jsonl_config),
    _manifest_kind("tsv", {"manifest.tsv": TSV}, _tsv_config),
    _manifest_kind("kaldi", KALDI, _kaldi_config),
    _file_kind("tokens", TOKEN_LISTS, _read_tokens),
    _file_kind("tokens.json", TOKEN_LISTS[1:], _read_published_tokens, share=3),
    _file_kind("cmvn", _cmvn_samples(), _read_cmvn),
    _file_kind("arpa", [ARPA.encode()], _read_arpa),
    _file_kind("seg_dict", [b"hello he@@ llo\nmorning mor@@ ning\n"], _read_seg_dict, share=3),
    Kind("tokenizer", 5, _tokenizer_samples, _write_tokenizer, lambda folder: _use(load_tokenizer(folder))),
    Kind("bpe", 5, _tokenizer_samples, _write_bpe, lambda folder: _use(load_tokenizer(folder))),
)
