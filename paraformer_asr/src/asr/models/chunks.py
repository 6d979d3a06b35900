"""What turns encoder and decoder into streaming ones: windows, and caches of what came before.

The blocks stay as they are. An `EncoderChunks` cuts the encoder's input into windows and completes the keys of each
block by those of earlier chunks; a `DecoderChunks` does the same for a chunk's tokens. Both begin with a state and
collect the next one. A whole utterance is n windows of an empty state, a stream is one window at a time.

Letters: b batch or streams, n windows, m windows of the whole batch, t new frames, w rows of a window, c rows of
context, l rows of a cache, d width, k taps, u tokens.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from asr.config import ChunkLayout, ModelConfig
from asr.ops.chunks import earlier_rows, unfold


@struct.dataclass
class KeyCache:
    """Keys and values of one block, of rows that have left the window; the newest is the last."""

    k_bld: jax.Array
    v_bld: jax.Array


@struct.dataclass
class EncoderState:
    """What the encoder keeps of a stream."""

    context_bcd: jax.Array  # the input rows that the next window begins with, positions added
    keys: tuple[KeyCache, ...]  # of each block


@struct.dataclass
class DecoderState:
    """What the decoder keeps of a stream."""

    memories: tuple[jax.Array, ...]  # [b, k − 1, d], of each block what its memory heard last
    keys: tuple[KeyCache, ...]  # of each block with cross attention
    num_rows_b: jax.Array  # int32, rows that were put into the caches; counted for FunASR's arithmetic alone


def empty_encoder_state(config: ModelConfig, layout: ChunkLayout, batch: int, input_dim: int) -> EncoderState:
    """Return the state before the first frame; `input_dim` is the width of the features."""
    encoder, num_rows = config.encoder, layout.num_cached(layout.encoder_look_back)
    num_rows = max(num_rows, layout.num_kept) if num_rows and layout.compat != "none" else num_rows
    width = input_dim if encoder.kind == "sanm" else encoder.width
    keys = tuple(_empty_keys(config, batch, num_rows) for _ in range(encoder.num_layers))
    return EncoderState(jnp.zeros((batch, layout.context, width), config.dtype), keys)


def empty_decoder_state(config: ModelConfig, layout: ChunkLayout, batch: int) -> DecoderState:
    """Return the state before the first token."""
    decoder, num_rows = config.decoder, layout.num_cached(layout.decoder_look_back)
    memory_bkd = jnp.zeros((batch, decoder.kernel_size - 1, config.encoder.width), config.dtype)
    return DecoderState(
        memories=(memory_bkd,) * (decoder.num_layers + decoder.num_memory_layers),
        keys=tuple(_empty_keys(config, batch, num_rows) for _ in range(decoder.num_layers)),
        num_rows_b=jnp.zeros(batch, jnp.int32),
    )


def _empty_keys(config: ModelConfig, batch: int, num_rows: int) -> KeyCache:
    rows_bld = jnp.zeros((batch, num_rows, config.encoder.width), config.dtype)
    return KeyCache(rows_bld, rows_bld)


class _Chunks:
    """Completes the keys of block after block, and collects the caches that the next chunk will need."""

    def __init__(self, past: tuple[KeyCache, ...]):
        self._past, self._keys = past, []

    def extend(self, k_mwd, v_mwd):
        """Return the keys and values of the next block with those of earlier chunks in front, l + w rows."""
        past = self._past[len(self._keys)]
        k_mjd, k_bld = self._with_earlier(k_mwd, past.k_bld)
        v_mjd, v_bld = self._with_earlier(v_mwd, past.v_bld)
        self._keys.append(KeyCache(k_bld, v_bld))
        return k_mjd, v_mjd


class EncoderChunks(_Chunks):
    """The windows of an encoder's input, and the keys of what came before each.

    Attributes:
        position_bt: int32[b, t], the number of each new frame since the stream began, from 0.
        valid_bnw: bool[b, n, w], the rows of the windows that hold a frame.
    """

    def __init__(self, layout: ChunkLayout, state: EncoderState, frames_b, num_new_b, num_windows: int):
        """Take `num_new_b` frames after `frames_b` earlier ones; the arrays of new frames have n · size rows."""
        super().__init__(state.keys)
        self._layout, self._state, self._frames_b, self._num_windows = layout, state, frames_b, num_windows
        self.position_bt = frames_b[:, None] + jnp.arange(num_windows * layout.size)[None, :]
        row_nw = layout.size * jnp.arange(num_windows)[:, None] + jnp.arange(layout.window)[None, :] - layout.context
        self.frame_bnw = frames_b[:, None, None] + row_nw[None]
        begun_bnw = self.frame_bnw >= 0
        # The published program starts with rows of zeros as if they were frames.
        begun_bnw = begun_bnw if layout.compat == "none" else jnp.ones_like(begun_bnw)
        self.valid_bnw = begun_bnw & (self.frame_bnw < (frames_b + num_new_b)[:, None, None])

    def cut(self, x_btd):
        """Return (x, valid, mask) of the windows, b · n rows of a batch: what the blocks are called with."""
        layout, n = self._layout, self._num_windows
        timeline_bsd = jnp.concatenate([self._state.context_bcd.astype(x_btd.dtype), x_btd], axis=1)
        x_bnwd = unfold(timeline_bsd, num_windows=n, size=layout.size, window=layout.window)
        self._context_bcd = timeline_bsd[:, n * layout.size :]
        valid_bnw = self.valid_bnw
        x_bnwd = jnp.where(valid_bnw[..., None], x_bnwd, 0)
        mask_bnwj = jnp.concatenate([self._earlier_mask(), valid_bnw[:, :, None, :]], axis=-1)
        return tuple(array.reshape(-1, *array.shape[2:]) for array in (x_bnwd, valid_bnw, mask_bnwj))

    def next_state(self) -> EncoderState:
        """Return the state behind these chunks, once all blocks have run."""
        return EncoderState(self._context_bcd, tuple(self._keys))

    def _with_earlier(self, rows_mwd, past_bld):
        rows_bnwd = rows_mwd.reshape(-1, self._num_windows, *rows_mwd.shape[1:])
        before_bnld, past_bld = earlier_rows(past_bld.astype(rows_mwd.dtype), rows_bnwd[:, :, : self._layout.num_kept])
        all_bnjd = jnp.concatenate([before_bnld, rows_bnwd], axis=2)
        return all_bnjd.reshape(-1, *all_bnjd.shape[2:]), past_bld

    def _earlier_mask(self):
        """Return bool[b, n, 1, l]: the rows of the caches that hold something, which are their last ones."""
        layout, num_rows = self._layout, self._state.keys[0].k_bld.shape[1]
        begun_bn = self._frames_b[:, None] + layout.size * jnp.arange(self._num_windows)[None, :]
        if layout.compat == "none":
            num_seen_bn = begun_bn - layout.context  # what has left the window since the first frame
        else:
            num_done_bn, limit = begun_bn // layout.size, layout.encoder_look_back * layout.size
            num_seen_bn = num_done_bn * layout.num_kept
            if limit >= 0:  # FunASR cuts its cache from the second chunk on
                num_seen_bn = jnp.where(num_done_bn > 1, jnp.minimum(num_seen_bn, limit), num_seen_bn)
        return (jnp.arange(num_rows)[None, None, :] >= num_rows - num_seen_bn[..., None])[:, :, None, :]


class DecoderChunks(_Chunks):
    """The caches of a decoder that writes the tokens of one chunk.

    Attributes:
        mask_b1j: bool[b, 1, l + w], the rows that the tokens may attend to.
    """

    def __init__(self, layout: ChunkLayout, state: DecoderState, frames_b, valid_bw, num_tokens_b):
        """Write `num_tokens_b` tokens of a window with the rows `valid_bw`, after `frames_b` frames."""
        super().__init__(state.keys)
        self._layout, self._state, self._num_tokens_b = layout, state, num_tokens_b
        self._memories: list[jax.Array] = []
        num_rows = state.keys[0].k_bld.shape[1] if state.keys else 0
        num_seen_b = frames_b - layout.context if layout.compat == "none" else state.num_rows_b
        seen_bl = jnp.arange(num_rows)[None, :] >= num_rows - num_seen_b[:, None]
        self.mask_b1j = jnp.concatenate([seen_bl, valid_bw], axis=1)[:, None, :]

    def remember(self, y_bud, valid_bu):
        """Return (y, valid) with what the next block's memory heard before in front: [b, k − 1 + u, d]."""
        past_bkd = self._state.memories[len(self._memories)].astype(y_bud.dtype)
        all_bsd = jnp.concatenate([past_bkd, y_bud], axis=1)
        valid_bs = jnp.pad(valid_bu, ((0, 0), (past_bkd.shape[1], 0)), constant_values=True)
        # Only real tokens are remembered, and each stream has its own number of them.
        row_bk = self._num_tokens_b[:, None] + jnp.arange(past_bkd.shape[1])[None, :]
        self._memories.append(jnp.take_along_axis(all_bsd, row_bk[..., None], axis=1))
        return all_bsd, valid_bs

    def next_state(self) -> DecoderState:
        """Return the state behind this chunk, once all blocks have run."""
        num_rows_b = self._state.num_rows_b + self._layout.window * (self._num_tokens_b > 0)
        state = DecoderState(tuple(self._memories), tuple(self._keys), num_rows_b)
        chex.assert_trees_all_equal_structs(state, self._state)
        return state

    def _with_earlier(self, rows_bwd, past_bld):
        layout, past_bld = self._layout, past_bld.astype(rows_bwd.dtype)
        kept_bkd = rows_bwd[:, : layout.size] if layout.compat == "none" else rows_bwd
        _, next_bld = earlier_rows(past_bld, kept_bkd[:, None])
        if layout.compat != "none":  # FunASR's decoder does not run without a token, and keeps nothing of such a chunk
            next_bld = jnp.where((self._num_tokens_b > 0)[:, None, None], next_bld, past_bld)
        return jnp.concatenate([past_bld, rows_bwd], axis=1), next_bld
