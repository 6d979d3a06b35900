"""What users get wrong, given to the real commands: each must answer by one message, and nothing may be lost."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from faulting.outcome import Outcome
from faulting.tiny_run import finish_whole

SETTINGS = ("training.num_epochs=2",)
RATE_HZ = 16_000
FUNASR = Path(__file__).parents[2] / "recorded/funasr_tiny"
JSONL = "data: {dataset: jsonl, train_split: good.jsonl, val_split: good.jsonl, num_threads: 1}\n"
HARD = ("short", "silence", "8_bit", "24_bit", "float", "8_khz_stereo", "96_khz", "clipped", "offset")
BROKEN = ("text", "none", "nan", "forged", "cut")

WRITTEN = "written"
"""Name of the file or folder that a command would write in the folder of its case."""

LIMIT_S = 300.0
"""The slowest case trains to its end, which takes half a minute on a machine with nothing else to do."""


class Mistake(NamedTuple):
    """A command with something wrong.

    Attributes:
        what: is wrong.
        command: words behind `python -m asr.`; "{}" is replaced by the folder of the case.
        said: patterns that its output must have.
        code: with which it must end.
        left: files that it must have written in spite of all, below `WRITTEN`; nothing else may be there.
    """

    what: str
    command: str
    said: tuple[str, ...]
    code: int = 2
    left: tuple[str, ...] = ()


def make_mistakes(folder: Path, run: Path, place: Path) -> list[Mistake]:
    """Write all inputs into a folder, with copies of a run, and return the mistakes.

    Args:
        folder: for the inputs.
        run: a good run of two epochs.
        place: where the folder will be copied to for each case.
    """
    (folder / "key.yaml").write_text("name: a\ntraining:\n  batch_seconds: 4\n  num_epoch: 3\n")
    (folder / "type.yaml").write_text("name: a\ntraining: {num_epochs: many}\n")
    (folder / "jsonl.yaml").write_text(JSONL)
    write_manifests(folder)
    write_sounds(folder / "hard", folder / "broken")
    write_models(folder, place)
    _, damaged, alone = (Path(shutil.copytree(run, folder / name)) for name in ("run", "damaged", "alone"))
    for path in sorted((alone / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(path)
    flipped = flip_a_byte(damaged), flip_a_byte(alone)
    train = f"train --config {{}}/jsonl.yaml data.root={{}} runs_dir={{}}/{WRITTEN} data.train_split"
    convert = f"convert --out {{}}/{WRITTEN} --from funasr {{}}"
    infer = f"infer --run {{}}/run --out {{}}/{WRITTEN}"
    return [
        Mistake("misspelt key in a file", "train --config {}/key.yaml", (r"key\.yaml:4", "num_epochs")),
        Mistake("misspelt key as an argument", "train --config {}/jsonl.yaml model.encoder.widht=8", ("width",)),
        Mistake("wrong type", "train --config {}/type.yaml", (r"type\.yaml:2", "num_epochs", "many")),
        Mistake("manifest line that is not JSON", f"{train}=no_json.jsonl", (r"no_json\.jsonl:2",)),
        Mistake("missing sound file", f"{train}=missing.jsonl", (r"missing\.jsonl:2", r"nowhere\.wav")),
        Mistake(
            "character that the tokens do not have",
            f"{train}=unknown.jsonl tokenizer.kind=file tokenizer.file={{}}/letters.txt",
            (r"unknown\.jsonl:2", "é"),
        ),
        Mistake(
            "10 ms, silence, 8 and 24 bits, float, 8 kHz stereo, 96 kHz, clipped, DC offset",
            f"{infer} {{}}/hard",
            (),
            code=0,
            left=(".asr_done.jsonl", *(f"{name}.txt" for name in HARD)),
        ),
        Mistake(
            "a text, no samples, NaN, a forged length, a truncated file, a missing one",
            f"{infer} {{}}/broken {{}}/missing.wav",
            (*(rf"{name}\.\w+: " for name in BROKEN), r"missing\.wav"),
            left=(".asr_done.jsonl", "good.txt"),
        ),
        Mistake("flipped byte, previous checkpoint good", "train --resume {}/damaged", (flipped[0],), code=0),
        Mistake("flipped byte in the only checkpoint", f"eval --run {{}}/alone --out {{}}/{WRITTEN}", (flipped[1],)),
        Mistake(
            "run directory of another model",
            "train --resume {}/damaged model.encoder.width=32 training.num_epochs=9",
            ("another model",),
        ),
        Mistake("pickle that runs a command", f"{convert}/evil", ("system",)),
        Mistake("truncated weights", f"{convert}/cut", (r"model\.pt",)),
        Mistake(
            "config that contradicts the tensors",
            f"{convert}/config",
            (r"decoders2\.0\.feed_forward", "expected", "found"),
        ),
        Mistake("vocabulary of another length", f"{convert}/tokens", (r"tokens\.json",)),
    ]


# ---- what is written for them ----


def flip_a_byte(run: Path) -> str:
    """Change a byte in the largest file of the newest checkpoint; return a pattern of its name."""
    newest = max((run / "checkpoints").iterdir())
    path = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return re.escape(path.relative_to(newest).as_posix())


def write_manifests(folder: Path) -> None:
    """Write a sound, and manifests that name it and in which the second line is wrong."""
    soundfile.write(folder / "a.wav", noise(), RATE_HZ)
    good = '{"audio_filepath": "a.wav", "text": "ab", "duration": 1.0}'
    (folder / "letters.txt").write_text("<blank>\n<s>\n</s>\na\nb\n<unk>\n")
    second = {
        "good": '{"audio_filepath": "a.wav", "text": "ba", "duration": 1.0, "utt_id": "b"}',
        "no_json": "a.wav ba",
        "missing": '{"audio_filepath": "nowhere.wav", "text": "ba", "duration": 1.0}',
        "unknown": '{"audio_filepath": "a.wav", "text": "é", "duration": 1.0, "utt_id": "b"}',
    }
    for name, line in second.items():
        (folder / f"{name}.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")


def noise(seconds: float = 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Return float64[n], noise of a hundredth of the full scale."""
    return 0.01 * np.random.default_rng(0).standard_normal(round(seconds * rate_hz))


def write_sounds(hard: Path, broken: Path) -> None:
    """Write sounds that have a result, and files that have none, with one that is good beside them."""
    hard.mkdir()
    broken.mkdir()
    soundfile.write(hard / "short.wav", noise(0.01), RATE_HZ)
    soundfile.write(hard / "silence.flac", np.zeros(30 * RATE_HZ), RATE_HZ)
    soundfile.write(hard / "8_bit.wav", noise(), RATE_HZ, "PCM_U8")
    soundfile.write(hard / "24_bit.wav", noise(), RATE_HZ, "PCM_24")
    soundfile.write(hard / "float.wav", noise(), RATE_HZ, "FLOAT")
    soundfile.write(hard / "8_khz_stereo.wav", np.stack([noise(rate_hz=8000)] * 2, axis=1), 8000)
    soundfile.write(hard / "96_khz.wav", noise(rate_hz=96_000), 96_000)
    soundfile.write(hard / "clipped.wav", np.clip(1000 * noise(), -1, 1), RATE_HZ)
    soundfile.write(hard / "offset.wav", 0.5 + noise(), RATE_HZ)

    soundfile.write(broken / "good.wav", noise(), RATE_HZ)
    (broken / "text.wav").write_text("This is no sound.\n")
    soundfile.write(broken / "none.wav", np.zeros(0), RATE_HZ)
    soundfile.write(broken / "nan.wav", np.full(RATE_HZ, np.nan), RATE_HZ, "FLOAT")
    soundfile.write(broken / "forged.flac", noise(), RATE_HZ)
    content = bytearray((broken / "forged.flac").read_bytes())
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed >> 36 << 36 | 60 * RATE_HZ).to_bytes(8, "big")  # the length in STREAMINFO: a minute
    (broken / "forged.flac").write_bytes(content)
    (broken / "cut.wav").write_bytes((broken / "good.wav").read_bytes()[:10_000])


def write_models(folder: Path, place: Path) -> None:
    """Write FunASR's folders: one with a command in its pickle, to write into `place`, and three that do not agree."""
    for name in ("evil", "cut", "config", "tokens"):
        shutil.copytree(FUNASR, folder / name)
    with zipfile.ZipFile(folder / "evil/model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", f"cposix\nsystem\n(Vtouch {place / WRITTEN}\ntR.")
        archive.writestr("archive/version", "3\n")
    content = (FUNASR / "model.pt").read_bytes()
    (folder / "cut/model.pt").write_bytes(content[: len(content) // 2])
    text = (FUNASR / "config.yaml").read_text()
    (folder / "config/config.yaml").write_text(re.sub(r"(?m)(linear_units: )\d+", r"\g<1>24", text))
    tokens = json.loads((FUNASR / "tokens.json").read_text())
    (folder / "tokens/tokens.json").write_text(json.dumps(tokens[:-1]))


# ---- what is made of them ----


def try_mistakes(folder: Path) -> Outcome:
    """Give each mistake to its command, in a folder of its own."""
    run, inputs, place = finish_whole(folder / "whole", *SETTINGS), folder / "inputs", folder / "case"
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir()
    rows, failures, cases = [], [], []
    for mistake in make_mistakes(inputs, run, place):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(inputs, place)
        case, faults = try_mistake(place, mistake)
        rows.append([mistake.what, mistake.command.split()[0], case["code"], case["seconds"], not faults])
        failures += [f"{mistake.what}: {fault}" for fault in faults]
        cases.append(case)
    heads = ["mistake", "command", "exit code", "seconds", "named, nothing lost"]
    return Outcome(heads, rows, failures, facts={"cases": cases})


def try_mistake(place: Path, mistake: Mistake) -> tuple[dict, list[str]]:
    """Return what the command made of it, and what should not be."""
    before = checksums(place)
    command = [sys.executable, "-m", *f"asr.{mistake.command}".replace("{}", str(place)).split()]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        case = {"what": mistake.what, "code": -1, "seconds": LIMIT_S, "said": []}
        return case, [f"no answer within {LIMIT_S:g} s"]
    seconds, output = time.monotonic() - began, done.stdout + done.stderr
    after = {name: checksum for name, checksum in checksums(place).items() if not name.startswith(f"{WRITTEN}/")}
    faults = [f"exit code {done.returncode}, expected {mistake.code}"] if done.returncode != mistake.code else []
    faults += ["a traceback"] if "Traceback" in output else []
    faults += [f"the message has no {pattern!r}" for pattern in mistake.said if not re.search(pattern, output)]
    if mistake.code:  # a command that continues may write
        faults += [f"changed or gone: {name}" for name in before if after.get(name) != before[name]]
        faults += [f"written: {name}" for name in after.keys() - before.keys()]
    written = sorted(path.name for path in (place / WRITTEN).rglob("*") if path.is_file())
    faults += [f"written: {written}, expected {sorted(mistake.left)}"] if written != sorted(mistake.left) else []
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"what": mistake.what, "code": done.returncode, "seconds": round(seconds, 2), "said": said}, faults


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder; who holds the lock of a run is not a part of it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
