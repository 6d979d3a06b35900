"""One pass over the validation split during training."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from asr.config import LossConfig
from asr.data.text.comparison import compare
from asr.losses import divisor, weigh
from asr.metrics import ErrorCounts
from asr.record.evaluation import Aligned, Evaluation, Transcribed
from asr.training.setup import Setup
from asr.training.state import TrainState
from asr.watch.interruption import StopRequestedError
from asr.watch.supervisor import Supervisor

NUM_TRANSCRIPTS = 10  # utterances whose transcripts are shown


def evaluate(setup: Setup, state: TrainState, supervisor: Supervisor, eval_step: Callable) -> Evaluation:
    """Return the scores of the state's predicting weights on the validation split, decoded greedily.

    Raises:
        StopRequestedError: the run is asked to stop, in this process or in another.
    """
    sums, counts, quantity_errors = Counter(), Counter(), 0.0
    words = characters = tokens = ErrorCounts()
    transcripts, alignments, pairs = {}, {}, {}
    texts, names = setup.val_set.texts(), setup.val_set.names()
    batches = setup.val_loader.iterate()
    for _ in range(setup.val_loader.num_batches):
        batch = supervisor.result_of(next, batches)
        results = eval_step(state.variables, setup.put_batch(batch), setup.flags[supervisor.urgent()])
        if int(results["stop"]):
            raise StopRequestedError
        sums.update({name: float(value) for name, value in results["sums"].items()})
        counts.update({name: int(number) for name, number in results["counts"].items()})
        quantity_error_b = np.asarray(results["quantity_error_b"])
        decoded_bu, lengths_b = np.asarray(results["tokens_bu"]), np.asarray(results["token_lengths_b"])
        for row in np.flatnonzero(batch["index"] >= 0):
            index = int(batch["index"][row])
            compared = compare(setup.tokenizer, texts[index], decoded_bu[row, : lengths_b[row]].tolist())
            transcribed = Transcribed(names[index], compared.reference, compared.hypothesis)
            pairs[index] = compared.reference, compared.hypothesis
            words += compared.words
            characters += compared.characters
            tokens += compared.tokens
            quantity_errors += float(quantity_error_b[row])
            if index < NUM_TRANSCRIPTS:
                transcripts[index] = transcribed
            if index < setup.config.training.num_sample_pictures:
                alignments[index] = transcribed, _align(setup, results, row)
        supervisor.beat()
    return Evaluation(
        losses=_means(sums, counts, setup.config.loss),
        words=words,
        characters=characters,
        tokens=tokens,
        quantity_error=quantity_errors / len(setup.val_set),
        transcripts=[transcripts[index] for index in sorted(transcripts)],
        alignments=[alignments[index] for index in sorted(alignments)],
        custom=_custom_metrics(setup, pairs),
    )


def _custom_metrics(setup: Setup, pairs: dict[int, tuple[str, str]]) -> dict[str, float]:
    """Return what the caller's metrics make of (reference, hypothesis) of each utterance, in the order of the data."""
    texts = [pairs[index] for index in sorted(pairs)]
    references, hypotheses = [reference for reference, _ in texts], [hypothesis for _, hypothesis in texts]
    return {name: float(metric(references, hypotheses)) for name, metric in setup.custom.metrics.items()}


def _means(sums: dict[str, float], counts: dict[str, int], config: LossConfig) -> dict[str, float]:
    """Return the loss, its parts and the accuracy, each divided as in training, of the whole split."""
    parts = {name: total / max(counts[divisor(name, config)], 1) for name, total in sums.items()}
    accuracy = {"token_accuracy": sums["token_accuracy"] / max(counts["tokens"], 1)}
    losses = {name: part for name, part in parts.items() if name not in accuracy}
    return {"loss": weigh(losses, config)} | losses | accuracy


def _align(setup: Setup, results: dict, row: int) -> Aligned:
    num_frames, num_tokens = int(results["feature_lengths_b"][row]), int(results["token_lengths_b"][row])
    decoded_u = np.asarray(results["tokens_bu"])[row, :num_tokens]
    return Aligned(
        mel_tm=np.asarray(results["mel_btm"])[row, : int(results["mel_lengths_b"][row])],
        alignment_ut=np.asarray(results["alignment_but"])[row, :num_tokens, : num_frames + 1],
        tokens=tuple(setup.tokenizer.tokens[i] for i in decoded_u),
        ids=tuple(decoded_u.tolist()),
    )
