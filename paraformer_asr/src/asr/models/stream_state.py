"""The state of streams between two chunks: a pytree of arrays, a row for each stream.

Letters: b streams, l rows of a cache, d model width, s shares.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from asr.config import ChunkLayout, ModelConfig
from asr.models.chunks import DecoderState, EncoderState, empty_decoder_state, empty_encoder_state

SHARES = 0.25, 0.75
"""Shares of a token's weight that its time is read from, as in `asr.decode.timestamps`."""


@struct.dataclass
class StreamState:
    """All that is kept of each stream between two chunks.

    Attributes:
        frames_b: int32, frames heard.
        encoder, decoder: their caches.
        weight_b: float32, what the token that has begun has collected.
        embedding_bd: float32, the mean of its frames.
        points_b2: float32, where it had collected the shares `SHARES`, in frames; −1: not yet.
    """

    frames_b: jax.Array
    encoder: EncoderState
    decoder: DecoderState
    weight_b: jax.Array
    embedding_bd: jax.Array
    points_b2: jax.Array


def empty_state(config: ModelConfig, layout: ChunkLayout, num_streams: int) -> StreamState:
    """Return the state of streams of which nothing has been heard."""
    return StreamState(
        frames_b=jnp.zeros(num_streams, jnp.int32),
        encoder=empty_encoder_state(config, layout, num_streams, config.input_dim),
        decoder=empty_decoder_state(config, layout, num_streams),
        weight_b=jnp.zeros(num_streams, jnp.float32),
        embedding_bd=jnp.zeros((num_streams, config.encoder.width), jnp.float32),
        points_b2=jnp.full((num_streams, len(SHARES)), -1.0, jnp.float32),
    )


def with_room(state: StreamState, layout: ChunkLayout, num_frames: int) -> StreamState:
    """Return the state with caches for `num_frames` frames, those of the next step included, if a look-back has no end.

    Each size of a cache is a program of its own: sizes are powers of two, in chunks.
    """
    num_rows = layout.size * 2 ** max(math.ceil(num_frames / layout.size) - 1, 0).bit_length()

    def grown(part, look_back: int):
        if look_back >= 0:
            return part
        return part.replace(keys=tuple(jax.tree.map(lambda rows_bld: _padded(rows_bld, num_rows), part.keys)))

    return state.replace(
        encoder=grown(state.encoder, layout.encoder_look_back), decoder=grown(state.decoder, layout.decoder_look_back)
    )


def _padded(rows_bld, num_rows: int):
    """Return the rows, zeros in front of them if there are fewer than `num_rows`."""
    return jnp.pad(rows_bld, ((0, 0), (max(num_rows - rows_bld.shape[1], 0), 0), (0, 0)))
