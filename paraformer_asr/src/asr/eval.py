"""Score a trained model on a split or a list: `asr eval --run RUN [--split test] [LIST] [key=value …]`."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from asr.arguments import add_dtype, add_hotwords, add_model, chosen_settings, part_inputs
from asr.cli import run_command
from asr.config import Config
from asr.errors import EXIT_OK, UserError
from asr.inference.hotwords import read_hotwords
from asr.published.funasr_config import read_settings

NUM_EXTREMES = 2


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr eval",
        description="Score a trained model on a split of its data set or on a list, each utterance in one piece. "
        "Prints word, character and token error rates with 95 % intervals; writes metrics.json, utterances.csv, "
        "errors.txt (each wrong utterance beside its reference) and pictures of the best and worst alignments.",
        epilog="Exit codes: 0 scored, 2 wrong input.",
    )
    add_model(parser)
    add_dtype(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: val")
    parser.add_argument(
        "--average", type=int, default=1, metavar="N", help="use the mean of N checkpoints (default: 1)"
    )
    decoders = ("cif", "ctc", "ctc_beam")
    parser.add_argument("--decoder", choices=decoders, help="default: that of the config")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: eval_SPLIT in the run directory; needed with --model"
    )
    add_hotwords(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="LIST",
        help="a list to score instead of the split: a JSONL manifest with texts, or a wav.scp with the file text "
        "beside it; and settings as key=value, for example data.root=FOLDER",
    )
    return parser.parse_intermixed_args()


def list_settings(lists: list[Path], split: str) -> list[str]:
    """Return the settings that put a list in the place of the split; relative paths as in `asr infer`."""
    if not lists:
        return []
    from asr.inference.sound_lists import JSON_SUFFIXES

    path, *others = lists
    if others:
        raise UserError(f"expected one list, found {len(lists)}: {', '.join(map(str, lists))}")
    if not path.is_file():
        raise UserError(f"{path}: no such list; a setting is written key=value")
    if path.suffix.lower() not in JSON_SUFFIXES and path.name != "wav.scp":
        raise UserError(f"{path}: expected a JSONL manifest, or a wav.scp with the file text beside it")
    is_kaldi = path.name == "wav.scp"
    manifest = json.dumps(str(path.absolute().parent if is_kaldi else path.absolute()))
    return [f"data.dataset={'kaldi' if is_kaldi else 'jsonl'}", "data.root=.", f"data.{split}_split={manifest}"]


def make_folder(path: Path) -> Path:
    """Return the folder of the results, created if needed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot make this folder ({error.strerror})") from None
    return path


def training_texts(config: Config, tokenizer) -> frozenset[str] | None:
    """Return the compared texts of the training split; None, with a line on stderr, if it cannot be read."""
    from asr.data import build_dataset
    from asr.data.text.comparison import comparable

    try:
        return frozenset(comparable(tokenizer, text) for text in build_dataset(config, "train").texts())
    except UserError as error:
        print(f"utterances whose text occurs in training are not counted separately: {error}", file=sys.stderr)
        return None


def warn_of_characters(dataset, tokenizer, training: Collection[str] | None) -> None:
    """Print to stderr the characters of the references that the model cannot write, or was not trained on."""
    from asr.data.text.comparison import comparable
    from asr.data.text.odd_characters import find_odd_characters, find_unwritable

    texts = [(dataset.where(i), text) for i, text in enumerate(dataset.texts())]
    splits = {"references": [(where, comparable(tokenizer, text)) for where, text in texts]}
    splits |= {"train": [("", text) for text in training]} if training else {}
    messages = find_unwritable(texts, tokenizer) + find_odd_characters(splits, tokenizer)["references"]
    for message in messages:
        print(f"warning: references: {message}", file=sys.stderr)


def describe(arguments: argparse.Namespace, config: Config, scored: str, scores: Sequence, seconds: float) -> dict:
    """Return what was scored and how, for the record."""
    return {
        "run": str(arguments.run or arguments.model),
        "split": scored,
        "checkpoint": arguments.checkpoint,
        "average": arguments.average,
        "decoder": config.inference.decoder,
        "dtype": config.inference.dtype,
        "num_utterances": len(scores),
        "sound_s": round(sum(score.duration_s for score in scores), 3),
        "seconds": round(seconds, 3),
    }


def counts_characters(config: Config, tokenizer, dataset) -> bool:
    """Return whether the error rate of characters is that which counts, by the config or by the texts."""
    from asr.data.text.comparison import suit_characters

    select_by = config.training.select_by
    return select_by == "cer" or (select_by != "wer" and suit_characters(tokenizer, dataset.texts()))


def main() -> int:
    """Score the split; return the exit code."""
    arguments = parse_arguments()
    logging.basicConfig(format="warning: %(message)s")
    lists, settings = part_inputs(arguments.inputs)
    of_model = [*settings, *chosen_settings(arguments)]
    overrides = [*of_model, *list_settings(lists, arguments.split)]
    if arguments.model and not arguments.out:
        raise UserError("--model needs --out FOLDER: a model folder may be shared, and scores name your data")
    source = arguments.run or arguments.model
    hotwords = read_hotwords(arguments.hotwords)
    config = read_settings(source, overrides, writes_text=False)  # reports a mistake before jax is imported

    from tqdm import tqdm

    from asr.data import build_dataset
    from asr.data.text.comparison import comparison_case
    from asr.inference import eval_report, scoring
    from asr.inference.transcriber import load_transcriber
    from asr.metrics import bootstrap_interval, format_table, sum_counts

    dataset = build_dataset(config, arguments.split)
    transcriber = load_transcriber(source, arguments.checkpoint, overrides, arguments.average)
    scored = str(lists[0]) if lists else arguments.split
    folder = make_folder(arguments.out or arguments.run / f"eval_{Path(scored).stem}")
    trained, labels_frames = read_settings(source, of_model, writes_text=False), config.model.name == "vad"
    known = None if scored == "train" or labels_frames else training_texts(trained, transcriber.tokenizer)
    transcriber.read_hotwords(hotwords)  # warns of what the model cannot write
    scoring.warm_up_for(transcriber, dataset, hotwords)
    start = time.perf_counter()
    answers = scoring.score_utterances(transcriber, dataset, known or frozenset(), hotwords)
    scores = list(tqdm(answers, total=len(dataset), unit="utterance", disable=None, file=sys.stderr))
    seconds = time.perf_counter() - start
    facts = describe(arguments, config, scored, scores, seconds)

    counts = scoring.count_parts(scores, with_parts=known is not None)
    totals = {name: sum_counts(each) for name, each in counts.items()}
    intervals = {name: bootstrap_interval(each) for name, each in counts.items()}
    facts["compared"] = comparison_case(transcriber.tokenizer)
    facts["num_text_in_training"] = sum(score.in_training for score in scores) if known is not None else None
    warn_of_characters(dataset, transcriber.tokenizer, known)
    by_characters = counts_characters(config, transcriber.tokenizer, dataset)
    if hotwords:
        hotword_counts = scoring.count_phrases(scores, transcriber.tokenizer, hotwords, by_characters=by_characters)
        facts["hotwords"] = {"number": len(hotwords), **hotword_counts.to_plain()}
    eval_report.write_tables(folder, scores, totals, intervals, facts, by_characters=by_characters)
    eval_report.draw_extremes(folder, transcriber, dataset, scoring.pick_extremes(scores, NUM_EXTREMES))
    print(format_table(totals, intervals, comparison_case(transcriber.tokenizer)))
    if hotwords:
        print(hotword_counts)
    print(
        f"{len(scores)} utterances, {facts['sound_s']:.1f} s of sound in {seconds:.1f} s, "
        f"{facts['sound_s'] / seconds:.1f} times faster than real time with reading, without compilation"
    )
    print(f"the results are in {folder}")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
