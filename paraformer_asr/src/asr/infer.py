"""Transcribe sound with a trained model: `asr infer --run RUN FILES…`, or `python -m asr.infer …`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr import api
from asr.arguments import (
    add_dtype,
    add_hotwords,
    add_inputs,
    add_model,
    add_punct,
    add_vad,
    chosen_settings,
    count,
    part_inputs,
    part_vad_settings,
)
from asr.cli import run_command
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from asr.inference.hotwords import read_hotwords
from asr.inference.transcript import FORMATS, ONE_FILE_EACH, SUFFIXES, Transcript
from asr.published.funasr_config import read_settings
from asr.published.funasr_punctuation_config import open_punctuation_folder
from asr.untrusted import escaped, folder_links, harmless, indented

if TYPE_CHECKING:
    from asr.inference.output import Job
    from asr.inference.transcribe_files import Totals


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr infer",
        description="Transcribe sound files of any length; long ones are split at their silences. Silence gives an "
        "empty result. Results go to the standard output, or with --out into one file per sound.",
        epilog="Exit codes: 0 all files transcribed, 2 wrong input, or some files unreadable or with segments that "
        "could not be recognised (the rest is done).",
    )
    add_model(parser)
    add_dtype(parser)
    parser.add_argument(
        "--average", type=int, default=1, metavar="N", help="use the mean of N checkpoints (default: 1)"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="text", help="default: text")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the results; created if needed")
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="skip files that have a complete result in --out from the same model and settings: continues a call that "
        "was stopped",
    )
    parser.add_argument(
        "--channel",
        type=channel,
        metavar="N",
        help="channel to read, from 1; 0: their mean; each: one transcript of each (default: that of the config)",
    )
    decoders = ("cif", "ctc", "ctc_beam")
    parser.add_argument("--decoder", choices=decoders, help="default: that of the config")
    add_vad(parser)
    add_punct(parser)
    add_hotwords(parser)
    add_streaming(parser)
    add_inputs(parser, "*")
    return parser.parse_intermixed_args()


def add_streaming(parser: argparse.ArgumentParser) -> None:
    """Add the options of streams."""
    group = parser.add_argument_group("speech as it is spoken, with a streaming model; see docs/streaming.md")
    group.add_argument(
        "--stream",
        action="store_true",
        help="write text while the sound is read: FILE is a sound file, or - for raw int16 samples on the standard "
        "input. Settings: model.streaming.chunk_size=[0,10,5] and others",
    )
    group.add_argument("--microphone", action="store_true", help="stream from the microphone, until Ctrl-C")
    group.add_argument("--real-time", action="store_true", help="read a file no faster than it would be spoken")
    group.add_argument("--rate", type=int, metavar="HZ", help="of raw samples (default: that of the model)")
    group.add_argument("--second-pass", type=Path, metavar="FOLDER", help="recognises each segment again; needs --vad")


def channel(text: str) -> int | str:
    """Return the value of `--channel`."""
    if text != "each" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or each, found {text!r:.80}")
    return text if text == "each" else int(text)


def make_writer(name: str, num_jobs: int, record) -> Callable[[object, Transcript], None]:
    """Return the function that hands each transcript over: to its file, or to the standard output.

    With several files, text follows the path (`talk.wav: good morning`); JSON and CTM name the file anyway. `record` is
    the `DoneRecord` of the folder of the results, None for the standard output.
    """

    def write(job, transcript: Transcript) -> None:
        if job.result:
            transcript.save(job.result)
            if not transcript.failures:
                record.add(job.source, [job.result], job.part)
            return
        content = FORMATS[name](transcript)
        label = harmless(transcript.file, kept="")  # a line end would begin a line that looks like another result
        label += "" if transcript.channel is None else f" channel {transcript.channel}"
        sys.stdout.write(f"{label}: {content}" if name == "text" and num_jobs > 1 else content)
        sys.stdout.flush()

    return write


def summary(totals, noun: str) -> str:
    """Return the line that the command prints at its end; `noun` is what was counted."""
    speed = totals.sound_s / totals.seconds
    return (
        f"{count(totals.num_done, noun)}, {totals.sound_s:.1f} s of sound in {totals.seconds:.1f} s "
        f"({speed:.1f} times faster than real time); compiled {count(totals.num_compiled, 'program')} in "
        f"{totals.compile_s:.1f} s before the first segment, {totals.num_compiled_late} after"
    )


def note_on_lengths(settings, longest_s: float) -> str:
    """Return a note if long sound was cut although the length of the training utterances is unknown, else ""."""
    from asr.inference.segmentation import UNTRAINED_SEGMENT_S

    default = settings.max_segment_s in (None, UNTRAINED_SEGMENT_S) and not settings.trained_s[1]
    if not default or longest_s <= UNTRAINED_SEGMENT_S:
        return ""
    return (
        "the model does not say how long its training utterances were: sound was cut into segments of at most "
        f"{UNTRAINED_SEGMENT_S:g} s; if they were shorter, inference.max_segment_s=6 may lose fewer words\n"
    )


def check_stream_arguments(arguments: argparse.Namespace, files: Sequence[Path]) -> None:
    """Refuse what contradicts `--stream` or `--microphone`, or would have no effect."""
    expected = 0 if arguments.microphone else 1
    if len(files) != expected:
        what = "no file beside --microphone" if arguments.microphone else "one sound file, or -"
        raise UserError(f"--stream: expected {what}, found {count(len(files), 'file')}")
    if arguments.format not in ("text", "json"):
        raise UserError(f"--stream writes --format text or json, not {arguments.format}")
    for name in ("out", "skip_done", "hotwords", "decoder"):
        if getattr(arguments, name):
            raise UserError(f"--stream takes no --{name.replace('_', '-')}")
    if arguments.channel == "each":
        raise UserError("--stream hears one channel: --channel N")
    if arguments.real_time and arguments.microphone:
        raise UserError("--real-time goes with a file: a microphone has no other pace")


def stream_sound(
    arguments: argparse.Namespace, folder: Path, files: Sequence[Path], overrides: list[str], vad_settings: list[str]
) -> int:
    """Write the text of one sound while it is read; return the exit code."""
    check_stream_arguments(arguments, files)

    from asr.inference import live

    options = {"checkpoint": arguments.checkpoint, "average": arguments.average, "overrides": overrides}
    vad = api.load_part("vad", arguments.vad, vad_settings)
    transcriber = api.load(folder, vad=vad, punct=arguments.punct, **options)
    second_pass = api.load(arguments.second_pass) if arguments.second_pass else None
    rate_hz = transcriber.config.features.sample_rate_hz if arguments.rate is None else arguments.rate
    if arguments.rate is not None and files and str(files[0]) != live.STANDARD_INPUT:
        raise UserError("--rate goes with raw samples: a sound file states its own")
    stream = transcriber.stream(second_pass=second_pass, rate=rate_hz)
    stream.warm_up()
    pieces = live.open_pieces(files[0] if files else None, rate_hz, transcriber.config.data.channel)
    pieces = live.paced(pieces, rate_hz) if arguments.real_time else pieces

    def write(event) -> None:
        sys.stdout.write(live.LINES[arguments.format](event))
        sys.stdout.flush()

    measured = live.run_stream(stream, pieces, rate_hz, write)
    print(measured.summary(), file=sys.stderr)
    if not stream.text:
        print(f"no text in {measured.sound_s:.1f} s of sound", file=sys.stderr)
    return EXIT_OK


def check_arguments(arguments: argparse.Namespace, files: Sequence[Path]) -> None:
    """Refuse arguments that contradict each other."""
    if arguments.punct:
        open_punctuation_folder(arguments.punct)
    if not files:
        raise UserError("expected at least one sound file or folder")
    of_stream = {"real_time": arguments.real_time or None, "rate": arguments.rate, "second_pass": arguments.second_pass}
    for name, value in of_stream.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --stream")
    if arguments.skip_done and not arguments.out:
        raise UserError("--skip-done needs --out FOLDER: it looks for the results there")
    if arguments.out and arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: expected a folder, this is a file")


def announce(jobs: Sequence["Job"], files: Sequence[Path], output_format: str) -> None:
    """Name the results that are not called as their sounds, and the folders that are not searched."""
    for job in jobs:
        if job.is_renamed and (job.result or output_format == "ctm" or job.label == job.name):
            name = job.result.name if job.result else job.name
            print(
                f"{escaped(str(job.source))}: the result is called {name}, as its own name is taken or not safe",
                file=sys.stderr,
            )
    for link in [link for path in files for link in folder_links(path)]:
        print(indented(f"{link}: a link to a folder is not searched; name it to have it searched"), file=sys.stderr)


def report(totals: "Totals", num_jobs: int, noun: str) -> int:
    """Print what was not transcribed; return the exit code."""
    if totals.num_bad:
        print(f"{totals.num_bad} of {num_jobs} {noun}s could not be read or written, see above", file=sys.stderr)
    if totals.num_incomplete:
        print(f"{totals.num_incomplete} of {num_jobs} {noun}s lack what was said in some segments", file=sys.stderr)
    return EXIT_USER_ERROR if totals.num_bad or totals.num_incomplete else EXIT_OK


def main() -> int:
    """Transcribe all files that can be read; return the exit code."""
    arguments = parse_arguments()
    files, settings = part_inputs(arguments.inputs)
    overrides, vad_settings = part_vad_settings(settings, arguments.vad)
    overrides += chosen_settings(arguments)
    folder, noun = arguments.run or arguments.model, "channel" if arguments.channel == "each" else "file"
    read_settings(folder, overrides)  # reports a mistake before jax is imported
    hotwords = read_hotwords(arguments.hotwords)
    if arguments.stream or arguments.microphone:
        return stream_sound(arguments, folder, files, overrides, vad_settings)
    check_arguments(arguments, files)

    from asr.inference.done_record import DoneRecord, digest_transcriber
    from asr.inference.output import plan_jobs, split_channels
    from asr.inference.transcribe_files import Totals, transcribe_files

    jobs = plan_jobs(files, arguments.out, SUFFIXES[arguments.format])
    jobs = split_channels(jobs) if arguments.channel == "each" else jobs
    if arguments.format in ONE_FILE_EACH and len(jobs) > 1 and not arguments.out:
        raise UserError(f"--format {arguments.format}: the results of {len(jobs)} {noun}s need --out FOLDER")
    announce(jobs, files, arguments.format)
    options = {"checkpoint": arguments.checkpoint, "average": arguments.average, "overrides": overrides}
    vad = api.load_part("vad", arguments.vad, vad_settings)
    transcriber = api.load(folder, vad=vad, punct=arguments.punct, **options)
    transcriber.read_hotwords(hotwords)  # warns of what the model cannot write
    digest = digest_transcriber(transcriber, arguments.format, hotwords) if arguments.out else ""
    record = DoneRecord(arguments.out, digest) if arguments.out else None
    waiting = [job for job in jobs if not (arguments.skip_done and record.is_done(job.source, [job.result], job.part))]
    if len(waiting) < len(jobs):
        print(f"{count(len(jobs) - len(waiting), noun)} of {len(jobs)} done already", file=sys.stderr)
    totals = Totals()
    try:
        if waiting:
            write = make_writer(arguments.format, len(jobs), record)
            transcribe_files(transcriber, waiting, write, totals, hotwords)
    except (KeyboardInterrupt, SystemExit, UserError):
        hint = "; the same command with --skip-done does the rest" if record else ""
        print(f"stopped: {totals.num_done} of {count(len(waiting), noun)} transcribed{hint}", file=sys.stderr)
        raise
    if waiting:
        print(summary(totals, noun), file=sys.stderr)
        print(note_on_lengths(transcriber.config.inference, totals.longest_s), end="", file=sys.stderr)
    return report(totals, len(jobs), noun)


if __name__ == "__main__":
    run_command(main)
