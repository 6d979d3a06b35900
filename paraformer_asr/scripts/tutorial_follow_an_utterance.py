"""Follow one utterance through the model and print the shape and the meaning of every stage.

    python scripts/tutorial_follow_an_utterance.py
    python scripts/tutorial_follow_an_utterance.py --run runs/…_some_run     (with what a training has learned)

Runs in seconds on a CPU. Without --run the network is small and has fresh parameters, so its tokens mean nothing yet;
the shapes and the arithmetic of integrate-and-fire do.
Letters: b batch, n samples, t frames, m mel filters, i input width, d model width, u tokens, v vocabulary.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from asr.cli import run_command
from asr.config import Config, DecoderConfig, EncoderConfig, ModelConfig, PredictorConfig
from asr.contracts import assert_shape, check_nan_inf
from asr.data import build_dataset
from asr.data.frontend import Cmvn, filterbank, make_frontend, normalise
from asr.decode import greedy, token_times
from asr.inference.loading import load_parts
from asr.models import build_model, count_parameters
from asr.models.decoder import Decoder
from asr.models.encoder import Encoder
from asr.models.predictor import Predictor
from asr.ops import cif
from asr.ops.attention import padding_mask
from asr.ops.fbank import stack_frames

MODEL = ModelConfig(
    encoder=EncoderConfig(num_layers=2, width=32, num_heads=4, ffn_width=64, kernel_size=5),
    predictor=PredictorConfig(initial_bias=-1.0),
    decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=4, ffn_width=64, kernel_size=5),
)


def main() -> None:
    """Take the model apart, run it piece by piece, and check that the pieces make the whole."""
    parser = argparse.ArgumentParser(description="Follow one utterance through the model.")
    parser.add_argument("--run", type=Path, help="run directory of a training; without it, a small untrained network")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    arguments = parser.parse_intermixed_args()

    heading("Integrate-and-fire with four frames")
    four_frames()

    heading("From sound to frames")
    parts = load_parts(arguments.run, overrides=arguments.overrides) if arguments.run else None
    config = parts[0] if parts else Config(model=MODEL)
    utterance = build_dataset(config, "val")[0]
    print(f"{utterance.name} says {utterance.text!r} in {utterance.duration_s:.2f} s\n")
    wave_1n, lengths_1 = utterance.wave[None], np.array([len(utterance.wave)], np.int32)
    show("wave", wave_1n, f"{config.features.sample_rate_hz} samples a second, from -1 to 1; a batch of one")
    config, tokenizer, cmvn, variables = parts or untrained(config, utterance.text, wave_1n, lengths_1)
    features_1ti, lengths_1 = listen(config, cmvn, wave_1n, lengths_1)

    heading("From frames to tokens")
    print(f"{'':17} the network has {count_parameters(variables['params']):,} parameters\n")
    logits_1uv, alignment_1ut = walk(config, variables, features_1ti, lengths_1)
    if not logits_1uv.shape[1]:
        print("\nNo token fires: the weights of all frames do not add up to 1.")
        return
    spell(config, tokenizer, utterance.duration_s, logits_1uv, alignment_1ut)

    # The whole network does the same in two calls.
    model = build_model(config.model)
    acoustics = jax.jit(functools.partial(model.apply, method="encode"))(variables, features_1ti, lengths_1)
    decode = jax.jit(functools.partial(model.apply, method="decode"), static_argnums=2)
    whole = decode(variables, acoustics, logits_1uv.shape[1])
    np.testing.assert_allclose(alignment_1ut, whole.alignment_but, atol=1e-3)
    np.testing.assert_allclose(logits_1uv, whole.logits_buv, atol=1e-2 if config.model.dtype == "float32" else 0.5)
    print("\nThe pieces give what the whole gives.")


def four_frames() -> None:
    """Show that the overlap of intervals is what the published loop computes (docs/course/05_integrate_and_fire.md)."""
    alpha_t = np.array([0.4, 0.8, 0.5, 0.9], np.float32)
    hidden_td = np.eye(4, dtype=np.float32)  # frame t is the unit vector t, so an embedding shows its own weights
    cumulative_1t = cif.cumulative(alpha_t[None])
    alignment_1ut = np.asarray(cif.align(cumulative_1t, num_rows=3))
    embedding_1ud = np.asarray(cif.integrate(alignment_1ut, hidden_td[None]))

    print(f"weight of each frame    {row(alpha_t)}")
    print(f"their running sum       {row(np.asarray(cumulative_1t)[0])}      a token fires where it passes 1, and 2")
    for number, weights_t in enumerate(alignment_1ut[0]):
        print(f"token {number} takes           {row(weights_t)}      {weights_t.sum():.1f} in all")
    expected_ut = [[0.4, 0.6, 0, 0], [0, 0.2, 0.5, 0.3], [0, 0, 0, 0.6]]
    np.testing.assert_allclose(alignment_1ut[0], expected_ut, atol=1e-6)
    fired_ud = integrate_and_fire_loop(alpha_t, hidden_td)
    np.testing.assert_allclose(embedding_1ud[0, : len(fired_ud)], fired_ud, atol=1e-6)
    print(f"The loop fires the same {len(fired_ud)} vectors; the last token has collected 0.6 and does not fire.")

    # In training the number of tokens is known: the sum is scaled to end there exactly, and all rows are full.
    valid_1t, num_tokens_1 = np.ones((1, 4), bool), np.array([3], np.int32)
    scaled_1t = cif.scaled_cumulative(alpha_t[None], valid_1t, num_tokens_1)
    print(f"scaled to three tokens  {row(scaled_1t[0])}      what training integrates: it ends at 3 exactly")
    assert float(scaled_1t[0, -1]) == 3.0
    # In decoding a tail of 0.45 behind the last frame lets a token fire that has collected 0.55.
    with_tail_1t = cif.add_tail(alpha_t[None], np.array([4], np.int32), 0.45)
    print(f"with the tail           {row(cif.cumulative(with_tail_1t)[0])} what decoding integrates: three tokens fire")


def integrate_and_fire_loop(alpha_t, hidden_td) -> np.ndarray:
    """Return float32[u, d], the vectors that fire, by the loop as it was published (weights up to 1)."""
    level, vector_d, fired = 0.0, np.zeros(hidden_td.shape[1], np.float32), []
    for alpha, hidden_d in zip(alpha_t, hidden_td, strict=True):
        if level + alpha < 1:
            level, vector_d = level + alpha, vector_d + alpha * hidden_d
            continue
        missing = 1 - level  # completes this token; the rest of the frame begins the next one
        fired.append(vector_d + missing * hidden_d)
        level = alpha - missing
        vector_d = level * hidden_d
    return np.stack(fired)


def untrained(config: Config, text: str, wave_1n, lengths_1):
    """Return (config, tokenizer, CMVN, variables) of a fresh network: what training starts from."""
    tokenizer = build_dataset(config, "train").tokenizer
    # Training takes mean and deviation of the whole training split; here those of this one utterance have to do.
    raw_ti = np.asarray(make_frontend(config.features, None)(wave_1n, lengths_1)[0])[0]
    cmvn = Cmvn(-raw_ti.mean(0), 1 / np.maximum(raw_ti.std(0), 0.01))
    config = Config(model=ModelConfig(**{**vars(config.model), "vocab_size": tokenizer.vocab_size}))
    tokens_1u = np.array([tokenizer.encode(text)], np.int32)
    model, token_lengths_1 = build_model(config.model), np.array([tokens_1u.shape[1]], np.int32)
    init = jax.jit(functools.partial(model.init, train=False))
    frames = np.zeros((1, 8, config.features.input_dim), np.float32), np.array([8], np.int32)
    return config, tokenizer, cmvn, init({"params": jax.random.key(0)}, *frames, tokens_1u, token_lengths_1)


def listen(config: Config, cmvn: Cmvn | None, wave_1n, lengths_1):
    """Return (features float32[1, t, i], lengths int32[1]): the front end, step by step."""
    features = config.features
    mel_1tm, mel_lengths_1 = filterbank(features, wave_1n, lengths_1)
    dims = assert_shape(mel_1tm, "B,T,M", "mel", B=1, M=features.num_mels)
    show("mel", mel_1tm, f"log energy under {dims['M']} filters, every {features.frame_shift_ms:g} ms")
    stacked_1ti, lengths_1 = stack_frames(mel_1tm, mel_lengths_1, lfr_m=features.lfr_m, lfr_n=features.lfr_n)
    show("stacked", stacked_1ti, f"{features.lfr_m} frames side by side, every {features.output_shift_ms:g} ms")
    features_1ti = normalise(stacked_1ti, lengths_1, cmvn)
    low, high = np.min(features_1ti), np.max(features_1ti)
    show("features", features_1ti, f"normalised by mean and variance: {low:.1f} to {high:.1f}")
    return features_1ti, lengths_1


def walk(config: Config, variables, features_1ti, lengths_1):
    """Return (logits float32[1, u, v], alignment float32[1, u, t + 1]), computed stage by stage."""
    model, params = config.model, variables["params"]
    valid_1t = jnp.arange(features_1ti.shape[1])[None, :] < lengths_1[:, None]

    # One vector for each frame, which has seen the others.
    encode = jax.jit(functools.partial(Encoder(model.encoder).apply, train=False))
    hidden_1td = encode({"params": params["encoder"]}, features_1ti.astype(model.dtype), valid_1t)
    hidden_1td = jnp.where(valid_1t[..., None], hidden_1td, 0)  # nothing is padded here; in a batch this line matters
    show("encoder", hidden_1td, f"after {model.encoder.num_layers} {model.encoder.kind} blocks and a layer norm")

    # How much of a token each frame holds.
    predict = jax.jit(functools.partial(Predictor(model.predictor).apply, train=False))
    alpha_1t1 = predict({"params": params["predictor"]}, hidden_1td, valid_1t)
    show("alpha", alpha_1t1, f"the share of a token in each frame; {np.sum(alpha_1t1):.2f} tokens in all")
    alpha_1t = cif.add_tail(alpha_1t1[..., 0], lengths_1, model.predictor.tail_threshold)
    show(
        "with the tail", alpha_1t, f"{model.predictor.tail_threshold:g} behind the last frame: it may complete a token"
    )
    cumulative_1t = cif.cumulative(alpha_1t)
    total = float(np.asarray(cumulative_1t)[0, -1])
    num_tokens = int(total)
    show("running sum", cumulative_1t, f"ends at {total:.2f}, so {num_tokens} tokens fire")

    # Which frame gives how much to which token; then one product makes a vector for each token.
    alignment_1ut = cif.align(cumulative_1t, num_tokens)
    show("alignment", alignment_1ut, "the overlap of [c[t-1], c[t]] with [u, u+1]; each row sums to 1")
    np.testing.assert_allclose(np.sum(alignment_1ut, axis=2), 1.0, atol=1e-3)
    embedding_1ud = cif.integrate(alignment_1ut[:, :, :-1], hidden_1td)  # the tail's column holds no sound
    show("embeddings", embedding_1ud, "a vector for each token: the weighted sum of its frames")
    if not num_tokens:
        return jnp.zeros((1, 0, model.vocab_size)), alignment_1ut

    # All tokens at once: each sees its neighbours' embeddings and all frames, none sees what another becomes.
    decoder = Decoder(model.decoder, model.encoder.width, model.vocab_size, model.encoder.attention)
    real_1u = jnp.ones((1, num_tokens), bool)
    decode = jax.jit(functools.partial(decoder.apply, train=False))
    inputs = embedding_1ud.astype(hidden_1td.dtype), real_1u, hidden_1td, padding_mask(valid_1t)
    logits_1uv = decode({"params": params["decoder"]}, *inputs)
    check_nan_inf(logits_1uv, "logits")
    show("logits", logits_1uv, "a score for each token of the vocabulary at each position")
    return logits_1uv, alignment_1ut


def spell(config: Config, tokenizer, duration_s: float, logits_1uv, alignment_1ut) -> None:
    """Print the tokens with their confidence, and the time that the alignment gives to each."""
    num_tokens, num_frames = alignment_1ut.shape[1], alignment_1ut.shape[2] - 1
    lengths_1 = np.array([num_tokens], np.int32)
    ids_1u, confidence_1u = jax.device_get(greedy(logits_1uv, lengths_1))
    show("tokens", ids_1u, "the highest score of each position")
    start_1u, end_1u = token_times(
        alignment_1ut,
        lengths_1,
        np.array([num_frames], np.int32),
        np.array([duration_s], np.float32),
        frame_shift_ms=config.features.output_shift_ms,
        first_centre_ms=config.features.frame_length_ms / 2,
    )
    rows = zip(ids_1u[0], confidence_1u[0], *jax.device_get((start_1u[0], end_1u[0], alignment_1ut[0])), strict=True)
    print("\ntoken      confidence   from       to      frames that gave to it (share of the token)")
    for token_id, confidence, start_s, end_s, shares_t in rows:
        frames = " ".join(f"{t}:{shares_t[t]:.2f}" for t in np.flatnonzero(shares_t[:num_frames] > 5e-3))
        print(f"{tokenizer.tokens[token_id]:10} {confidence:6.2f}       {start_s:.2f} s   {end_s:.2f} s   {frames}")
    print(f"\nThe text is {tokenizer.decode(ids_1u[0])!r}; special tokens are left out.")


def heading(text: str) -> None:
    """Print the title of a section."""
    print(f"\n── {text} ──\n")


def row(values) -> str:
    """Return numbers in columns."""
    return "  ".join(f"{value:4.2f}" for value in np.asarray(values))


def show(name: str, x, comment: str) -> None:
    """Print one line: the name, the shape, what it is."""
    print(f"{name:17} {list(x.shape)!s:18} {comment}")


if __name__ == "__main__":
    run_command(main)
