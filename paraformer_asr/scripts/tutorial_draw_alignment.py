"""Draw what integrate-and-fire has learned: which stretch of the sound became which token.

    python scripts/tutorial_draw_alignment.py --run RUN                     (the first validation utterance)
    python scripts/tutorial_draw_alignment.py --run RUN --index 3 --out three.png
    python scripts/tutorial_draw_alignment.py --run RUN speech.wav

The network is never shown where a token is: it learns from sound and text alone. The picture shows what it found,
the lines printed here say how to read it.
"""

import argparse
from pathlib import Path

from asr.cli import run_command
from asr.config import Config
from asr.config.reader import load_config
from asr.data import Utterance, build_dataset
from asr.data.sounds.audio import read_audio
from asr.errors import UserError
from asr.inference.eval_report import align_waves
from asr.inference.transcriber import load_transcriber
from asr.pictures import firing_times_s
from asr.record.evaluation import Aligned

MAX_SECONDS = 30.0
"""A picture of more could not be read; `python -m asr.infer` takes any length."""

EXPLANATION = """
How to read {path}

top      the spectrogram: loud is bright, low tones are at the bottom. A white line is the moment at which a token
         fires; the token stands above the stretch that it was integrated from.
middle   blue, the weight alpha of each frame, as the predictor saw it in the sound. Orange, their running sum; at
         every whole number (a red dot) a token is complete. High weights lie where a token is heard; in silence the
         weight is near 0 and the sum does not move.
bottom   the overlap matrix: a row for each token, a column for each frame, dark where the frame gave much. A row sums
         to 1. The dark places go down from left to right, as time passes: tokens come in the order of the sound.
"""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Draw the alignment that a trained model finds in an utterance.")
    parser.add_argument("--run", type=Path, help="run directory of a training")
    parser.add_argument("--index", type=int, default=0, help="which utterance of the validation split (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("alignment.png"), help="PNG file (default: alignment.png)")
    parser.add_argument("inputs", nargs="*", metavar="FILE", help="a sound file instead, and settings as key=value")
    return parser.parse_intermixed_args()


def choose_utterance(config: Config, files: list[str], index: int) -> Utterance:
    """Return the sound file that was named, or an utterance of the validation split.

    Raises:
        UserError: more than one file, one that cannot be read or is too long, or no such utterance.
    """
    if len(files) > 1:
        raise UserError(f"expected one sound file, found {len(files)}: {', '.join(files)}")
    rate_hz = config.features.sample_rate_hz
    if files:
        return Utterance(read_audio(Path(files[0]), rate_hz, MAX_SECONDS), rate_hz, "", Path(files[0]).name)
    dataset = build_dataset(config, "val")
    if not 0 <= index < len(dataset):
        raise UserError(f"--index: expected 0 to {len(dataset) - 1}, found {index}")
    return dataset[index]


def print_tokens(aligned: Aligned, frame_shift_s: float) -> None:
    """Print when each token fires, and what it was integrated from."""
    fired_u = firing_times_s(aligned.alignment_ut, frame_shift_s)
    print("token       fires at   most weight in frame   in so many frames")
    for token, fired_s, shares_t in zip(aligned.tokens, fired_u, aligned.alignment_ut, strict=True):
        sound_t = shares_t[:-1]  # the last column is the tail: it completes a token, but is no sound
        print(f"{token:10} {fired_s:7.2f} s   {int(sound_t.argmax()):12}   {int((sound_t > 0.01).sum()):19}")
    weights_t = aligned.alignment_ut.sum(0)
    print(
        f"{len(aligned.tokens)} tokens from {len(weights_t) - 1} frames; the tail gave {weights_t[-1]:.2f} of the last"
    )


def main() -> None:
    """Find the alignment, print it in numbers, draw it."""
    arguments = parse_arguments()
    if arguments.run is None:
        raise UserError(
            "--run RUN is missing: an alignment is learned, so a trained model is needed. The generated speech trains "
            "in minutes: python -m asr.train --config configs/toy.yaml; then give --run runs/…_toy"
        )
    if arguments.out.suffix.lower() != ".png" or not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: expected a .png file in a folder that is there")
    overrides = [text for text in arguments.inputs if "=" in text and not Path(text).exists()]
    files = [text for text in arguments.inputs if text not in overrides]
    config = load_config(arguments.run / "config.yaml", overrides)
    utterance = choose_utterance(config, files, arguments.index)

    transcriber = load_transcriber(arguments.run, overrides=overrides)
    (aligned,) = align_waves(transcriber, [utterance.wave])
    said, understood = utterance.text or "(unknown)", transcriber.tokenizer.decode(aligned.ids)
    print(f"{utterance.name}, {utterance.duration_s:.2f} s\n  said:       {said}\n  understood: {understood}\n")
    if not aligned.tokens:
        raise UserError(
            f"{utterance.name}: no token fires, so there is nothing to draw; silence, or too little training"
        )
    print_tokens(aligned, config.features.output_shift_ms / 1000)
    aligned.draw(config.features, arguments.out, f"{utterance.name}\nsaid: {said}")
    print(EXPLANATION.format(path=arguments.out))


if __name__ == "__main__":
    run_command(main)
