"""Small streaming Paraformers in FunASR's layout, sounds for them, and their steps over recorded or fresh pieces."""

import dataclasses
import functools

import flax.traverse_util
import jax
import numpy as np

from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, LossConfig, ModelConfig, PredictorConfig
from asr.config.streaming import StreamingConfig
from asr.data.frontend import Cmvn, make_frontend
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.models import StreamingParaformer
from asr.models.stream_state import with_room
from asr.published.funasr import array_shapes, save_funasr

TOKENS = with_special_tokens(["今", "天", "气", "很", "好", "hello", "wo@@", "rld", "and", "to"])
SEG_DICT = {"world": ("wo@@", "rld")}


def draw_folder(folder, seed=0, *, width=8, num_heads=2, ffn=12, encoder=2, decoder=1, kernels=(5, 5), mels=4):
    """Write a model with random weights, of which about every fourth frame is a token."""
    parts = {"width": width, "num_heads": num_heads, "ffn_width": ffn}
    model = ModelConfig(
        name="streaming",
        vocab_size=len(TOKENS),
        input_dim=7 * mels,
        encoder=EncoderConfig(num_layers=encoder, kernel_size=kernels[0], **parts),
        decoder=DecoderConfig(num_layers=decoder, kernel_size=kernels[1], num_heads=num_heads, ffn_width=ffn + 4),
        predictor=PredictorConfig(tail_threshold=0.45),
    )
    config = Config(features=FeaturesConfig(num_mels=mels), loss=LossConfig(ctc_weight=0.0), model=model)
    rng = np.random.default_rng(seed)
    raw_ti = features_of(config, None, sounds()["long"])
    cmvn = Cmvn(-raw_ti.mean(0), 1 / raw_ti.std(0))
    folder.mkdir()
    tokenizer = Tokenizer(TOKENS, "funasr", "lower", seg_dict=SEG_DICT)
    save_funasr(folder, config, tokenizer, cmvn, draw_variables(model, rng))
    return folder


def features_of(config, cmvn, wave_n):
    """Return float32[t, i], the features of a whole sound."""
    frontend = jax.jit(make_frontend(config.features, cmvn))
    features_bti, lengths_b = frontend(wave_n[None], np.array([len(wave_n)], np.int32))
    return np.asarray(features_bti)[0, : int(lengths_b[0])]


def draw_variables(model, rng):
    """Return weights with which all that is heard before, and the tokens before, change the answers."""
    arrays = {}
    for name, shape in array_shapes(model).items():
        noise = rng.normal(size=shape).astype(np.float32)
        arrays[name] = 1.5 * noise / np.float32(np.prod(shape[:-1])) ** 0.5 if noise.ndim > 1 else 0.2 * noise
        arrays[name] = 1 + arrays[name] if name.endswith("scale") else arrays[name]
        if name.endswith("predictor/bias"):
            arrays[name] -= 2.5
        if shape == (len(TOKENS),):  # no special token is written
            arrays[name][[0, 1, 2, -1]] -= 10
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def sounds():
    """Return name → noise whose level and colour change, in steps of 16 bits."""
    rng = np.random.default_rng(5)
    noise_n = rng.normal(size=48000)
    level_n = np.repeat(rng.uniform(0.01, 0.4, 60), 800)
    sound_n = np.concatenate(
        [np.convolve(part, rng.normal(size=9), "same") for part in np.split(noise_n * level_n / 3, 6)]
    )
    sound_n = (np.round(32768 * sound_n.clip(-0.99, 0.99)) / 32768).astype(np.float32)
    # Pieces of 9600 samples: the last one is shorter than a frame, has 1 to 4 frames, 6, 10, or is all there is.
    lengths = {"tail": 29300, "few": 22000, "six": 24500, "full": 28700, "long": 48000, "short": 5000, "tiny": 700}
    return {name: sound_n[:length] for name, length in lengths.items()} | {"silent": np.zeros(28800, np.float32)}


def layout_of(chunk_size=(0, 10, 5), encoder=4, decoder=1, compat="funasr"):
    return StreamingConfig(tuple(chunk_size), encoder, decoder, compat=compat).layout


@functools.cache
def step_of(model_config, layout):
    """Return the network with this layout, and its compiled step."""
    settings = dataclasses.replace(
        model_config.streaming,
        chunk_size=(layout.left, layout.size, layout.right),
        encoder_look_back=layout.encoder_look_back,
        decoder_look_back=layout.decoder_look_back,
        compat=layout.compat,
    )
    model = StreamingParaformer(dataclasses.replace(model_config, streaming=settings))
    # Compiling takes longer than running here.
    quick = {"xla_backend_optimization_level": 0}
    return model, jax.jit(functools.partial(model.apply, method="step"), compiler_options=quick)


def hear(config, variables, layout, pieces):
    """Return (state, logits [u, v], weights [w]) after each piece, (features [t, i], new frames, is last)."""
    model, step = step_of(config.model, layout)
    # One program for a look-back without end.
    state = with_room(model.bind(variables).start(1), layout, layout.size * 8)
    answers = []
    for features_ti, num_new, is_last in pieces:
        chunk_bti = np.zeros((1, layout.size, config.model.input_dim), np.float32)
        chunk_bti[0, : len(features_ti)] = features_ti
        state, tokens = step(variables, state, chunk_bti, np.array([num_new], np.int32), np.array([is_last]))
        count = int(tokens.token_lengths_b[0])
        answers.append((state, np.asarray(tokens.logits_buv[0, :count]), np.asarray(tokens.alpha_bw[0])))
    return answers


def pieces_of(features_ti, num_samples, layout, samples_per_frame=960):
    """Return the pieces of an utterance as FunASR's programs cut it."""
    num_full = num_samples // (layout.size * samples_per_frame)
    num_rest = len(features_ti) - num_full * layout.size
    if num_samples % (layout.size * samples_per_frame) < samples_per_frame:
        num_rest = 0
    counts = [(layout.size, False)] * num_full + layout.final_pieces(num_rest)
    pieces, start = [], 0
    for num_new, is_last in counts:
        end = start + max(num_new, 0)
        pieces.append((features_ti[start:end], num_new, is_last))
        start = end
    return pieces


def caches_of(state):
    """Return name → float32[rows, d] of what is kept: keys and values of the first blocks, and memories of all."""
    named = {"context": state.encoder.context_bcd, "weight": state.weight_b[:, None, None]}
    named |= {"embedding": state.embedding_bd[:, None]}
    for part, caches in (("encoder", state.encoder.keys), ("decoder", state.decoder.keys)):
        for number, cache in enumerate(caches):
            named |= {f"{part}{number}_k": cache.k_bld, f"{part}{number}_v": cache.v_bld}
    named |= {f"memory{number}": rows_bkd for number, rows_bkd in enumerate(state.decoder.memories)}
    return {name: np.asarray(array[0]) for name, array in named.items()}
