"""The compiled step of a streaming model, for a fixed number of streams that come and go.

    sound of each stream → filterbank, stacking, normalisation → the model's step → tokens with confidence and times

Streams have slots. A step takes any of them: the others keep their state, bit for bit. A stream begins by a flag, so
that joining and leaving compile nothing.

Letters: b slots, n samples, t stacked frames, j frames in a stack, m mel filters, u tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from asr.config import Config
from asr.data.frontend import Cmvn, filterbank, normalise
from asr.decode import greedy
from asr.inference.recognition import NOTHING, Recognition
from asr.inference.sound_chunks import Chunk, ChunkShape, chunk_shape
from asr.inference.tuning import PackedWeights
from asr.models.stream_state import StreamState, with_room
from asr.models.streaming import StreamingParaformer


@struct.dataclass
class Tick:
    """What one step takes: a row for each slot."""

    wave_bn: Any  # float32, of the chunk
    frames_b2: Any  # int32, the first and the last mel frame that exists
    num_new_b: Any  # int32, stacked frames
    is_first_b: Any  # bool, the stream begins
    is_last_b: Any  # bool, it ends
    is_audible_b: Any  # bool, there is sound in the window
    is_active_b: Any  # bool, the slot takes part


@struct.dataclass
class Heard:
    """The tokens that fired in a step."""

    ids_bu: Any  # int32
    confidence_bu: Any  # float32
    points_bu2: Any  # float32, see `ChunkTokens`
    lengths_b: Any  # int32
    alpha_bw: Any  # float32, the weights of the rows of the window
    finite_b: Any  # bool


def make_tick(config: Config, cmvn: Cmvn | None, model: StreamingParaformer):
    """Return `tick(variables, state, tick) → (state, heard)`, pure."""
    shape = chunk_shape(config.features, model.config.streaming.layout.size)

    def step(variables, state: StreamState, tick: Tick) -> tuple[StreamState, Heard]:
        begun = _begin(state, tick.is_first_b)
        features_bti = chunk_features(config, cmvn, shape, tick)
        inputs = features_bti, tick.num_new_b, tick.is_last_b, tick.is_audible_b
        new, tokens = model.apply(variables, begun, *inputs, method="step")
        ids_bu, confidence_bu = greedy(tokens.logits_buv, tokens.token_lengths_b)
        finite_b = jnp.isfinite(tokens.alpha_bw).all(axis=1) & jnp.isfinite(confidence_bu).all(axis=1)
        lengths_b = jnp.where(tick.is_active_b, tokens.token_lengths_b, 0)
        heard = Heard(ids_bu, confidence_bu, tokens.points_bu2, lengths_b, tokens.alpha_bw, finite_b)
        return _select(tick.is_active_b, new, state), heard

    return step


def chunk_features(config: Config, cmvn: Cmvn | None, shape: ChunkShape, tick: Tick):
    """Return float32[b, t, i], the stacked and normalised frames of a chunk: those of the whole sound, to rounding."""
    features, b = config.features, tick.wave_bn.shape[0]
    lengths_b = jnp.full(b, shape.num_samples, jnp.int32)
    mel_bjm, _ = filterbank(features, tick.wave_bn, lengths_b)
    place_tj = features.lfr_n * np.arange(shape.size)[:, None] + np.arange(features.lfr_m)[None, :]
    first_b11, last_b11 = (tick.frames_b2[:, i, None, None] for i in range(2))
    # The first and the last frame of a stream are repeated before and behind it.
    place_btj = jnp.clip(jnp.asarray(place_tj, jnp.int32)[None], first_b11, last_b11)
    stacked_bjm = jnp.take_along_axis(mel_bjm, place_btj.reshape(b, -1, 1), axis=1)
    return normalise(stacked_bjm.reshape(b, shape.size, -1), jnp.full(b, shape.size, jnp.int32), cmvn)


def _begin(state: StreamState, is_first_b) -> StreamState:
    """Return the state with the slots emptied in which a stream begins."""
    empty = jax.tree.map(jnp.zeros_like, state)
    return _select(is_first_b, empty.replace(points_b2=jnp.full_like(state.points_b2, -1.0)), state)


def _select(is_new_b, new: StreamState, old: StreamState) -> StreamState:
    """Return `new` in the slots that a mask marks, and `old` in the others."""

    def pick(new_leaf, old_leaf):
        return jnp.where(is_new_b.reshape(-1, *(1,) * (new_leaf.ndim - 1)), new_leaf, old_leaf)

    return jax.tree.map(pick, new, old)


class StreamStep:
    """The step of one model for `num_slots` streams, compiled when its shape is first met.

    Attributes:
        layout: of the chunks.
        shape: their samples.
        num_slots: streams at a time.
    """

    def __init__(self, config: Config, cmvn: Cmvn | None, weights: PackedWeights, num_slots: int = 1):
        self.config, self.num_slots, self.layout = config, num_slots, config.model.streaming.layout
        self.shape = chunk_shape(config.features, self.layout.size)
        model = StreamingParaformer(dataclasses.replace(config.model, input_dim=config.features.input_dim))
        self._weights = weights
        self._step = jax.jit(weights.reading(make_tick(config, cmvn, model)), donate_argnums=1)
        self.start = jax.jit(functools.partial(model.start, num_slots))
        self._compiled: dict[tuple, jax.stages.Compiled] = {}

    def __call__(self, state: StreamState, tick: Tick) -> tuple[StreamState, Heard]:
        """Return the state behind a step, and what was heard; the memory of `state` is used again."""
        return self.compiled(state, tick)(self._weights.arrays, state, tick)

    def compiled(self, state: StreamState, tick: Tick) -> jax.stages.Compiled:
        """Return the program; a look-back without end has one for each size of its caches."""
        key = tuple(leaf.shape for leaf in jax.tree.leaves(state))
        if key not in self._compiled:
            lowered = self._step.lower(self._weights.arrays, state, tick)
            self._compiled[key] = lowered.compile(self._weights.options)
        return self._compiled[key]


class StreamPrograms:
    """The state of `num_slots` streams, and the steps that they take."""

    def __init__(self, step: StreamStep):
        self._step, self.num_slots = step, step.num_slots
        self._num_frames = np.zeros(self.num_slots, np.int64)  # heard by each stream, so far as caches keep them
        self._state = step.start()

    @property
    def bytes_per_stream(self) -> int:
        """Memory of the state of one stream."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._state)) // self.num_slots

    def warm_up(self) -> None:
        """Compile the step, so that no stream waits for the compiler."""
        self._step.compiled(self._state, self._tick({}))

    def run(self, chunks: Mapping[int, Chunk]) -> dict[int, Recognition]:
        """Take a step of the streams in these slots; return the tokens of each, times from the start of the segment."""
        for slot, chunk in chunks.items():
            self._num_frames[slot] = (0 if chunk.is_first else self._num_frames[slot]) + self._step.layout.size
        self._state = with_room(self._state, self._step.layout, int(self._num_frames.max()))
        self._state, heard = self._step(self._state, self._tick(chunks))
        heard = jax.device_get(heard)
        return {slot: self._recognition(heard, slot) for slot in chunks}

    def _tick(self, chunks: Mapping[int, Chunk]) -> Tick:
        b = self.num_slots
        tick = Tick(
            wave_bn=np.zeros((b, self._step.shape.num_samples), np.float32),
            frames_b2=np.zeros((b, 2), np.int32),
            num_new_b=np.zeros(b, np.int32),
            **{name: np.zeros(b, bool) for name in ("is_first_b", "is_last_b", "is_audible_b", "is_active_b")},
        )
        for slot, chunk in chunks.items():
            tick.wave_bn[slot], tick.num_new_b[slot] = chunk.wave_n, chunk.num_new
            tick.frames_b2[slot] = chunk.first_frame, chunk.last_frame
            tick.is_first_b[slot], tick.is_last_b[slot] = chunk.is_first, chunk.is_last
            tick.is_audible_b[slot], tick.is_active_b[slot] = chunk.is_audible, True
        return tick

    def _recognition(self, heard: Heard, slot: int) -> Recognition:
        num_tokens = heard.lengths_b[slot]
        if not num_tokens:
            return dataclasses.replace(NOTHING, finite=bool(heard.finite_b[slot]))
        points_u2 = heard.points_bu2[slot, :num_tokens]
        times_s = token_times_s(points_u2, self._step.config)
        columns = heard.ids_bu[slot, :num_tokens], heard.confidence_bu[slot, :num_tokens]
        return Recognition(*columns, *times_s, finite=bool(heard.finite_b[slot]))


def token_times_s(points_u2: np.ndarray, config: Config) -> Sequence[np.ndarray]:
    """Return when tokens begin and end, in seconds, from the points at which they had a quarter and three quarters.

    The middle half of a token's weight, doubled in length, as for whole utterances (`asr.decode.timestamps`); what is
    shorter than 200 ms grows to that, but not into the token before.
    """
    shift_s = config.features.output_shift_ms / 1000
    first_s = config.features.frame_length_ms / 2000 - shift_s / 2
    low_u, high_u = (points_u2[:, i] * shift_s + first_s for i in range(2))
    stretch_u = np.maximum((high_u - low_u) / 2, 0.1 - (high_u - low_u) / 2)
    start_u, end_u = np.maximum(low_u - stretch_u, 0.0), high_u + stretch_u
    between_u = np.clip((end_u[:-1] + start_u[1:]) / 2, high_u[:-1], low_u[1:])
    start_u[1:], end_u[:-1] = np.maximum(start_u[1:], between_u), np.minimum(end_u[:-1], between_u)
    return start_u.astype(np.float32), end_u.astype(np.float32)
