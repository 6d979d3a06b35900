"""Draw a stream: what each chunk saw, when each token was spoken, and when it was shown.

    python scripts/tutorial_draw_stream.py --run RUN                     (the first validation utterance)
    python scripts/tutorial_draw_stream.py --run RUN --index 3 'model.streaming.chunk_size=[2,12,0]' --out soon.png
    python scripts/tutorial_draw_stream.py --run RUN speech.wav

RUN is that of a streaming model, such as configs/toy_streaming.yaml.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from tutorial_draw_alignment import choose_utterance

from asr.cli import run_command
from asr.config import ChunkLayout, Config
from asr.config.reader import load_config
from asr.data.frontend import filterbank
from asr.errors import UserError
from asr.inference.stream import StreamSession, stream_programs
from asr.inference.transcriber import Transcriber, load_transcriber
from asr.inference.words import Token

EXPLANATION = """
How to read {path}

top      the spectrogram, with each token at the time that the model gives it.
bottom   a row for each step, from the first at the top. Grey is context that was decoded before, blue the frames that
         this step decodes, light blue the look-ahead, which the next step decodes. The right end of a row is what had
         been heard. A dot is a token at its time; its line leads to the moment at which it was shown: at most
         {longest:.2f} s later, for a chunk, its look-ahead and a window of the filterbank.

What the picture does not show: the time of computing, and the earlier chunks that attention still sees.
"""


class Step(NamedTuple):
    """What one step did."""

    heard_s: float  # what had been heard
    tokens: list[Token]  # that it gave, with times


def hear(transcriber: Transcriber, wave_n: np.ndarray) -> list[Step]:
    """Return the steps of a stream."""
    settings = transcriber.config.model.streaming
    programs, session = stream_programs(transcriber, settings), StreamSession(transcriber, settings.layout)
    shift_s = transcriber.config.features.output_shift_ms / 1000
    steps, num_frames = [], 0
    for work in session.accept(wave_n, final=True):
        num_frames += work.chunk.num_new
        events = work.take(programs.run({0: work.chunk})[0])
        steps.append(Step(num_frames * shift_s, [token for event in events for token in event.tokens]))
    return steps


def draw_spectrogram(axes: Axes, config: Config, wave_n: np.ndarray, steps: list[Step]) -> None:
    """Draw the sound, and above it the tokens at their times."""
    features = config.features
    mel_1tm, _ = filterbank(features, wave_n[None], np.array([len(wave_n)], np.int32))
    duration_s = len(wave_n) / features.sample_rate_hz
    extent = (0, duration_s, 0, features.num_mels)
    axes.imshow(np.asarray(mel_1tm[0]).T, origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set_ylabel("mel filter")
    for token in (token for step in steps for token in step.tokens):
        middle_s = (token.start_s + token.end_s) / 2
        axes.text(
            middle_s, features.num_mels * 1.03, token.text.replace("▁", "␣"), ha="center", va="bottom", fontsize=9
        )


def draw_steps(axes: Axes, layout: ChunkLayout, shift_s: float, steps: list[Step]) -> None:
    """Draw the window of each step, and each token's way from when it was spoken to when it was shown."""
    for number, step in enumerate(steps):
        is_last = number + 1 == len(steps)
        end_s = step.heard_s
        ahead_s = 0.0 if is_last else layout.right * shift_s
        first_s = (number * layout.size - layout.right) * shift_s  # of the frames that are decoded
        stretches = [
            (first_s - layout.left * shift_s, first_s, "0.85", "context"),
            (first_s, end_s - ahead_s, "tab:blue", "decoded"),
            (end_s - ahead_s, end_s, "lightblue", "look-ahead"),
        ]
        for start_s, stop_s, colour, name in stretches:
            start_s = max(start_s, 0.0)
            label = "_" if number else name  # once in the legend
            axes.barh(number, max(stop_s - start_s, 0.0), left=start_s, height=0.5, color=colour, label=label)
        for token in step.tokens:
            middle_s = (token.start_s + token.end_s) / 2
            axes.plot([middle_s, end_s], [number, number + 0.36], color="tab:red", linewidth=0.8)
            axes.plot(middle_s, number, "o", color="tab:red", markersize=4)
    axes.plot([], [], "o-", color="tab:red", markersize=4, linewidth=0.8, label="token: spoken to shown")
    axes.legend(loc="upper right", fontsize=8)
    axes.set_ylim(len(steps) - 0.3, -0.6)
    axes.set_ylabel("step")
    axes.set_xlabel("time in s")


def main() -> None:
    """Stream an utterance, print when each token was shown, draw it."""
    parser = argparse.ArgumentParser(description="Draw what a streaming model hears step by step.")
    parser.add_argument("--run", type=Path, required=True, help="run directory of a streaming model, or a model folder")
    parser.add_argument("--index", type=int, default=0, help="which utterance of the validation split (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("stream.png"), help="PNG file (default: stream.png)")
    parser.add_argument("inputs", nargs="*", metavar="FILE", help="a sound file instead, and settings as key=value")
    arguments = parser.parse_intermixed_args()
    overrides = [text for text in arguments.inputs if "=" in text and not Path(text).exists()]
    config = load_config(arguments.run / "config.yaml", overrides)
    if config.model.name != "streaming":
        raise UserError(f"--run {arguments.run}: expected a streaming model, found one of the kind {config.model.name}")
    files = [text for text in arguments.inputs if text not in overrides]
    utterance = choose_utterance(config, files, arguments.index)
    transcriber = load_transcriber(arguments.run, overrides=overrides)
    steps = hear(transcriber, utterance.wave)
    for number, step in enumerate(steps):
        for token in step.tokens:
            print(f"step {number}: {token.text!r} ends at {token.end_s:.2f} s, shown at {step.heard_s:.2f} s")
    layout, shift_s = config.model.streaming.layout, config.features.output_shift_ms / 1000
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(10, 3.2 + 0.32 * len(steps)), height_ratios=(2, max(len(steps) / 4, 1.5))
    )
    draw_spectrogram(top, config, utterance.wave, steps)
    draw_steps(bottom, layout, shift_s, steps)
    top.set_xlim(0, max(step.heard_s for step in steps))
    figure.suptitle(f"{utterance.name}  said: {utterance.text or '(unknown)'}", fontsize=10)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=110)
    longest_s = (layout.size + layout.right) * shift_s + config.features.frame_length_ms / 1000
    print(EXPLANATION.format(path=arguments.out, longest=longest_s))


if __name__ == "__main__":
    run_command(main)
