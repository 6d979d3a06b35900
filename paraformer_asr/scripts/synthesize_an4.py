"""Speaks texts like those of AN4 with three free synthesizers: extra data to train with before AN4 itself.

    apt-get install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k
    python scripts/synthesize_an4.py --an4 FOLDER_OF_AN4 --out synthetic --number 3000

The texts are drawn: spelled words (pairs of letters as often as in AN4's training texts), numbers, dates and commands.
Months, numbers and ordinals are complete, whether AN4's training texts have them or not. The folder gets sounds of
16 kHz and manifest.tsv: the split `synthetic`, and AN4's own `dev`.
"""

import argparse
import csv
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from asr.cli import run_command
from asr.data.sounds.audio import read_audio
from asr.errors import UserError
from asr.eval import make_folder
from asr.files import replace_text

RATE_HZ = 16_000
SYNTHESIZERS = ("espeak-ng", "flite", "text2wave")
COLUMNS = ("utt", "speaker", "split", "path", "seconds", "text")


def words(*lines: str) -> list[str]:
    """Return the words of the lines."""
    return " ".join(lines).split()


ONES = words(
    "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE",
    "THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN",
)
TENS = words("TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY")
ORDINALS = words(
    "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH THIRTEENTH FOURTEENTH",
    "FIFTEENTH SIXTEENTH SEVENTEENTH EIGHTEENTH NINETEENTH TWENTIETH",
)
MONTHS = words("JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER")
COMMANDS = words("YES NO GO STOP HELP REPEAT START ENTER ERASE RUBOUT")

LETTER_NAMES = words(
    "ay bee see dee ee eff jee aitch eye jay kay el em en oh pee cue are ess tee you vee double-you ex why zee"
)
"""As every synthesizer says them: the letter A alone would be the article."""


def cardinal(number: int) -> list[str]:
    """Return the words of 1 … 99."""
    if number <= len(ONES):
        return [ONES[number - 1]]
    ten, one = divmod(number, 10)
    return [TENS[ten - 2], *([ONES[one - 1]] if one else [])]


def ordinal(number: int) -> list[str]:
    """Return the words of the first … thirty-first."""
    if number <= len(ORDINALS):
        return [ORDINALS[number - 1]]
    ten, one = divmod(number, 10)
    return [TENS[ten - 2], ORDINALS[one - 1]] if one else ["THIRTIETH"]


class Writer:
    """Draws texts."""

    def __init__(self, rng: np.random.Generator, texts: Sequence[str]):
        """Learn which letter follows which in spelled words.

        Args:
            rng: draws.
            texts: AN4's training texts.
        """
        self.rng = rng
        counts_lm = np.full((26, 26), 0.1)
        for text in texts:
            places = [ord(word) - ord("A") if len(word) == 1 else -1 for word in text.split()]
            for one, other in zip(places, places[1:], strict=False):
                if one >= 0 and other >= 0:
                    counts_lm[one, other] += 1
        self._follows_lm = counts_lm / counts_lm.sum(1, keepdims=True)

    def pick(self, choices: Sequence[str]) -> str:  # noqa: D102
        return choices[self.rng.integers(len(choices))]

    def spelled(self, shortest: int = 2, longest: int = 10) -> list[str]:  # noqa: D102
        letters = [self.rng.integers(26)]
        for _ in range(self.rng.integers(shortest, longest)):
            letters.append(self.rng.choice(26, p=self._follows_lm[letters[-1]]))
        return [chr(ord("A") + letter) for letter in letters]

    def random_letters(self) -> list[str]:  # noqa: D102
        return [chr(ord("A") + letter) for letter in self.rng.integers(26, size=self.rng.integers(2, 6))]

    def digits(self) -> list[str]:  # noqa: D102
        zero = self.pick(["ZERO", "OH"])
        return [self.pick([zero, *ONES[:9]]) for _ in range(self.rng.integers(1, 11))]

    def below_100(self) -> list[str]:  # noqa: D102
        return cardinal(int(self.rng.integers(1, 100)))

    def number(self) -> list[str]:  # noqa: D102
        kind = self.rng.integers(5)
        if kind == 0:
            return [self.pick(ONES[:9]), "HUNDRED", *self.below_100()]
        if kind == 1:
            return [self.pick(ONES[:9]), "THOUSAND", *self.below_100()]
        return sum((self.below_100() for _ in range(self.rng.integers(1, 4))), [])

    def date(self) -> list[str]:  # noqa: D102
        number, month = self.rng.integers(1, 32), self.pick(MONTHS)
        if self.rng.random() < 0.3:  # the month is spelled
            parts = [cardinal(number), list(month)][:: self.rng.choice([-1, 1])]
        else:
            parts = [[month], ordinal(number) if self.rng.random() < 0.5 else cardinal(number)]
        if self.rng.random() < 0.7:
            parts.append(["NINETEEN", *self.below_100()])
        return sum(parts, [])

    def command(self) -> list[str]:  # noqa: D102
        verb = self.pick(COMMANDS)
        if verb == "ENTER":
            return [verb, *self.pick([self.number, self.digits])()]
        if verb in ("ERASE", "RUBOUT"):
            return [verb, *self.random_letters(), *self.pick([self.number, self.digits])()[:4]]
        return [verb]

    def text(self) -> str:
        """Return the words of an utterance."""
        kinds: dict[Callable, float] = {
            self.spelled: 0.3,
            self.random_letters: 0.1,
            self.digits: 0.2,
            self.number: 0.15,
            self.date: 0.1,
            self.command: 0.15,
        }
        return " ".join(list(kinds)[self.rng.choice(len(kinds), p=list(kinds.values()))]())


def spoken(word: str) -> str:
    """Return what a synthesizer reads for a word."""
    if len(word) == 1:
        return LETTER_NAMES[ord(word) - ord("A")].replace("-", " ")
    return "rub out" if word == "RUBOUT" else word.lower()


def draw_voice(rng: np.random.Generator) -> tuple[str, Callable[[str, Path], list[str]], str]:
    """Return the name of a voice, the command that speaks a text into a file, and what it reads from stdin."""
    kind = rng.choice(3, p=(0.5, 0.35, 0.15))
    if kind == 0:
        accent = rng.choice(["en-us", "en-us", "en-us", "en-us-nyc", "en", "en-gb-scotland"])
        variant = rng.choice(["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"])
        speed, pitch, gap = rng.integers(110, 200), rng.integers(25, 80), rng.integers(0, 8)
        options = ["-v", f"{accent}+{variant}", "-s", str(speed), "-p", str(pitch), "-g", str(gap)]
        return f"{accent}+{variant}", lambda text, file: ["espeak-ng", *options, "-w", str(file), text], ""
    if kind == 1:
        voice = rng.choice(["kal16", "awb", "rms", "slt"])
        pitch_hz = rng.uniform(150, 230) if voice == "slt" else rng.uniform(80, 150)
        options = [f"duration_stretch={rng.uniform(0.8, 1.35):.2f}", f"int_f0_target_mean={pitch_hz:.0f}"]
        options = [part for option in options for part in ("--setf", option)]
        return voice, lambda text, file: ["flite", "-voice", voice, *options, "-t", text, "-o", str(file)], ""
    voice = rng.choice(["kal_diphone", "ked_diphone"])
    stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.8, 1.35):.2f})"
    options = ["-eval", f"(voice_{voice})", "-eval", stretch]
    return voice, lambda text, file: ["text2wave", *options, "-o", str(file)], "stdin"


def speak(text: str, rng: np.random.Generator, aside: Path) -> tuple[str, np.ndarray]:
    """Return the name of the voice and the sound, float32[n] at 16 kHz."""
    voice, command, reads = draw_voice(rng)
    said = " ".join(map(spoken, text.split()))
    try:
        subprocess.run(command(said, aside), input=said if reads else None, text=True, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()[:200]}") from None
    return voice, read_audio(aside, RATE_HZ)


def read_an4(folder: Path) -> list[dict[str, str]]:
    """Return the rows of AN4's table.

    Raises:
        UserError: there is none.
    """
    file = folder / "manifest.tsv"
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines, delimiter="\t"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; docs/data.md says how to prepare AN4") from None


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write manifest.tsv, with the columns of AN4's."""
    table = io.StringIO(newline="")
    lines = csv.DictWriter(table, COLUMNS, delimiter="\t", lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    replace_text(folder / "manifest.tsv", table.getvalue())


def main() -> None:
    """Draw, speak and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--an4", type=Path, required=True, metavar="FOLDER", help="of AN4, with manifest.tsv")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder")
    parser.add_argument("--number", type=int, default=3000, help="of utterances (default: 3000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    an4 = read_an4(arguments.an4)
    rng = np.random.default_rng(arguments.seed)
    writer = Writer(rng, [row["text"] for row in an4 if row["split"] in ("train", "dev")])
    if arguments.out.exists():
        raise UserError(f"--out {arguments.out}: exists already")
    if arguments.number < 1:
        raise UserError(f"--number: expected at least 1, found {arguments.number}")
    if missing := [tool for tool in SYNTHESIZERS if not shutil.which(tool)]:
        raise UserError(f"{', '.join(missing)}: not found; the head of this script says how to install them")
    make_folder(arguments.out / "wav")
    rows = [{**row, "path": str((arguments.an4 / row["path"]).absolute())} for row in an4 if row["split"] == "dev"]
    with tempfile.TemporaryDirectory() as aside:
        for i in range(arguments.number):
            text = writer.text()
            voice, wave = speak(text, rng, Path(aside) / "said.wav")
            name = f"wav/{i:05d}.flac"
            soundfile.write(arguments.out / name, wave, RATE_HZ)
            values = (f"synthetic{i:05d}", voice, "synthetic", name, f"{len(wave) / RATE_HZ:.4f}", text)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_table(arguments.out, rows)


if __name__ == "__main__":
    run_command(main)
