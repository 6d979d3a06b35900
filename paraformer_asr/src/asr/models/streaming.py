"""Paraformer in chunks: the same network over a whole utterance, and step by step as the sound arrives.

    state = model.start(streams)
    state, tokens = model.step(state, features, num_new, is_last)      for each chunk of new frames

What has left the window is kept as keys and values, what a token has collected as (weight, mean of its frames), and of
the decoder's memories the last tokens: a step costs the same however long the stream is. `listen` cuts a whole
utterance into all its windows at once, with the same code, so training sees exactly what the steps will see.

Letters: b batch or streams, t frames, n windows, w rows of a window, i input width, d model width, u tokens,
v vocabulary.

Reference: Gao et al., 2020, arXiv 2006.01712 (SCAMA), section 3; `ParaformerStreaming` of FunASR.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
from flax import struct

from asr.config import ChunkLayout
from asr.contracts import assert_shape
from asr.models.chunks import (
    DecoderChunks,
    EncoderChunks,
    empty_encoder_state,
)
from asr.models.decoder import Decoder
from asr.models.drawn_chunks import listen_to_drawn_size
from asr.models.exported_chunks import chunks_of_step
from asr.models.paraformer import Frames, Paraformer, TrainingOutputs
from asr.models.stream_state import SHARES, StreamState, empty_state
from asr.ops import cif
from asr.ops.chunks import fold, window_mask
from asr.ops.masks import length_mask


@struct.dataclass
class Windows:
    """The rows of all windows, which the decoder attends to.

    Attributes:
        hidden_bnwd: float, encoded rows, 0 where there is no frame.
        valid_bnw: bool, rows that hold a frame.
        num_windows_b: int32, windows of each utterance.
        layout: how they were cut.
    """

    hidden_bnwd: jax.Array
    valid_bnw: jax.Array
    num_windows_b: jax.Array
    layout: ChunkLayout = struct.field(pytree_node=False)

    def attended(self, cumulative_bt, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """Return (rows float[b, n · w, d], mask bool[b, u, n · w]): a token sees the window in which it fires."""
        # The first frame at which the sum reaches u + 1; behind the last frame it is the last window's.
        whole_u = jnp.arange(1, num_rows + 1, dtype=jnp.float32)
        fired_bu = jnp.sum(cumulative_bt[:, None, :] < whole_u[None, :, None], axis=-1)
        window_bu = window_of(fired_bu, self.num_windows_b, self.layout)
        b, n, w, d = self.hidden_bnwd.shape
        mask = window_mask(window_bu, self.valid_bnw, size=self.layout.size, look_back=self.layout.decoder_look_back)
        return self.hidden_bnwd.reshape(b, n * w, d), mask


@struct.dataclass
class ChunkTokens:
    """The tokens that fired in a chunk.

    Attributes:
        logits_buv: float32.
        token_lengths_b: int32, real rows.
        points_bu2: float32, where each had collected the shares `SHARES` of its weight, in frames since the stream
            began.
        alpha_bw: float32, the weights of the window's rows that were decoded.
    """

    logits_buv: jax.Array
    token_lengths_b: jax.Array
    points_bu2: jax.Array
    alpha_bw: jax.Array


class StreamingParaformer(Paraformer):
    """The network; its parameters are those of `Paraformer`."""

    def build_decoder(self) -> Decoder:
        """Return a decoder that hears no later tokens."""
        config = self.config
        kind = config.encoder.attention, True, config.remat
        return Decoder(config.decoder, config.encoder.width, config.vocab_size, *kind)

    def __call__(self, features_bti, feature_lengths_b, tokens_bu, token_lengths_b, *, train: bool) -> TrainingOutputs:
        """Return both passes' outputs, as `Paraformer` does; in training for chunks of a size that is drawn."""
        if train:
            frames = listen_to_drawn_size(self, features_bti, feature_lengths_b, token_lengths_b, tokens_bu.shape[1])
        else:
            frames = self.listen(features_bti, feature_lengths_b, train)
        return self.compare(frames, feature_lengths_b, tokens_bu, token_lengths_b, train)

    @property
    def default_layout(self) -> ChunkLayout | None:
        """How a whole utterance is cut; None: not at all."""
        return None if self.config.streaming.full_context else self.config.streaming.layout

    def listen(self, features_bti, feature_lengths_b, train: bool) -> Frames:
        """Return what encoder and predictor make of the sound."""
        return self.listen_in_chunks(self.default_layout, features_bti, feature_lengths_b, train)

    def listen_in_chunks(self, layout: ChunkLayout | None, features_bti, feature_lengths_b, train: bool) -> Frames:
        """Return the same for other chunks; None: without."""
        if layout is None:
            return super().listen(features_bti, feature_lengths_b, train)
        b, t, input_dim = features_bti.shape
        n = layout.num_windows(t)
        layout = whole(layout, n)
        valid_bt = length_mask(feature_lengths_b, t)
        # Whatever padding holds, even NaN, must not reach a real frame.
        features_bti = jnp.where(valid_bt[..., None], features_bti, 0)
        features_bti = jnp.pad(features_bti, ((0, 0), (0, n * layout.size - t), (0, 0)))
        state, start_b = empty_encoder_state(self.config, layout, b, input_dim), jnp.zeros(b, jnp.int32)
        chunks = EncoderChunks(layout, state, start_b, feature_lengths_b, n)
        hidden_bnwd = self._encode(chunks, features_bti, feature_lengths_b, train)
        num_windows_b = layout.num_windows(feature_lengths_b)
        alpha_bnw = self._weigh(hidden_bnwd, chunks.valid_bnw, train)
        # Each frame as it was when it was decoded: behind the look-ahead, or at the end.
        frame_bt = jnp.broadcast_to(jnp.arange(t)[None, :], (b, t))
        window_bt = window_of(frame_bt, num_windows_b, layout)
        row_bt = frame_bt - window_bt * layout.size + layout.context
        row_bt = jnp.clip(row_bt, 0, layout.window - 1)  # of padded frames
        hidden_btd = jnp.where(valid_bt[..., None], fold(hidden_bnwd, window_bt, row_bt), 0)
        alpha_bt = jnp.where(valid_bt, fold(alpha_bnw[..., None], window_bt, row_bt)[..., 0], 0.0)
        return Frames(hidden_btd, valid_bt, alpha_bt, Windows(hidden_bnwd, chunks.valid_bnw, num_windows_b, layout))

    def start(self, num_streams: int) -> StreamState:
        """Return the state of streams of which nothing has been heard; `config.input_dim` is set."""
        return empty_state(self.config, self.config.streaming.layout, num_streams)

    def step(
        self, state: StreamState, features_bti, num_new_b, is_last_b, is_audible_b=None
    ) -> tuple[StreamState, ChunkTokens]:
        """Take the next frames of each stream; return the state behind them, and the tokens that fired.

        Args:
            state: of `start`, or of the step before.
            features_bti: float32[b, size, i], normalised frames.
            num_new_b: int32[b], how many of them are real; see `ChunkLayout.final_pieces` for the end of a stream.
            is_last_b: bool[b], the stream ends with these frames, and its look-ahead is decoded, too.
            is_audible_b: bool[b], there is sound in the window: silence holds no token. None: as the predictor says.
        """
        layout = self.config.streaming.layout
        assert_shape(features_bti, "b,t,i", "features", t=layout.size)
        chex.assert_type([num_new_b, is_last_b], [int, bool])
        features_bti = jnp.where(length_mask(num_new_b, layout.size)[..., None], features_bti, 0)
        chunks = chunks_of_step(layout, state.encoder, state.frames_b, num_new_b, is_last_b)
        hidden_bnwd = self._encode(chunks, features_bti, num_new_b, False)
        hidden_bwd, valid_bw = hidden_bnwd[:, 0], chunks.valid_bnw[:, 0]
        row_w = jnp.arange(layout.window)[None, :]
        to_the_end_b = is_last_b & (layout.compat != "funasr_onnx")
        decoded_bw = (row_w >= layout.left) & ((row_w < layout.left + layout.size) | to_the_end_b[:, None])
        ends_b = is_last_b
        if layout.compat == "none":
            silent_b = jnp.zeros_like(is_last_b) if is_audible_b is None else ~is_audible_b
            decoded_bw &= ~silent_b[:, None]
            ends_b = (is_last_b | silent_b) & (state.frames_b + num_new_b > 0)
        alpha_bw = jnp.where(decoded_bw, self._weigh(hidden_bnwd, chunks.valid_bnw, False)[:, 0], 0.0)
        # The tail completes a last token that is nearly there. Its frame holds no sound.
        tail_b1 = jnp.where(ends_b, self.config.predictor.tail_threshold, 0.0)[:, None]
        acoustic_bud, sum_bs, count_b, *begun = cif.integrate_chunk(
            jnp.concatenate([alpha_bw, tail_b1], axis=1),
            jnp.pad(hidden_bwd, ((0, 0), (0, 1), (0, 0))),
            state.weight_b,
            state.embedding_bd,
            max_tokens(self.config, layout),
        )
        logits_buv, decoder = self._write_chunk(layout, state, acoustic_bud, count_b, hidden_bwd, valid_bw)
        end_b = state.frames_b + jnp.maximum(num_new_b, 0)
        frame_bs = jnp.concatenate([chunks.frame_bnw[:, 0], end_b[:, None]], axis=1)
        points_bu2, points_b2 = _points(state, sum_bs, frame_bs, acoustic_bud.shape[1], count_b)
        if layout.compat == "none":  # what has not fired when the sound ends is no token
            begun = [jnp.where(ends_b.reshape(-1, *(1,) * (part.ndim - 1)), 0.0, part) for part in begun]
            points_b2 = jnp.where(ends_b[:, None], -1.0, points_b2)
        tokens = ChunkTokens(logits_buv, count_b, points_bu2, alpha_bw)
        return StreamState(end_b, chunks.next_state(), decoder, *begun, points_b2), tokens

    def _encode(self, chunks: EncoderChunks, features_bti, num_new_b, train: bool):
        """Return the encoded rows of the windows, 0 where there is no frame."""
        valid_bt = length_mask(num_new_b, features_bti.shape[1])
        features_bti = features_bti.astype(self.config.dtype)
        hidden_mwd = self.encoder(features_bti, valid_bt, train=train, chunks=chunks)
        hidden_bnwd = hidden_mwd.reshape(*chunks.valid_bnw.shape, -1)
        return jnp.where(chunks.valid_bnw[..., None], hidden_bnwd, 0)

    def _weigh(self, hidden_bnwd, valid_bnw, train: bool):
        """Return the predictor's weights of the rows of each window."""
        (b, n, w, d) = hidden_bnwd.shape
        alpha_mw1 = self.predictor(hidden_bnwd.reshape(b * n, w, d), valid_bnw.reshape(b * n, w), train=train)
        return alpha_mw1.reshape(b, n, w)

    def _write_chunk(self, layout, state: StreamState, acoustic_bud, count_b, hidden_bwd, valid_bw):
        """Return the logits of a chunk's tokens, and the decoder's state behind them."""
        chunks = DecoderChunks(layout, state.decoder, state.frames_b, valid_bw, count_b)
        token_valid_bu = length_mask(count_b, acoustic_bud.shape[1])
        rows = acoustic_bud.astype(hidden_bwd.dtype), token_valid_bu, hidden_bwd, chunks.mask_b1j
        return self.decoder(*rows, train=False, chunks=chunks), chunks.next_state()


def max_tokens(config, layout: ChunkLayout) -> int:
    """Return the most tokens that can fire in a step."""
    return math.ceil((layout.size + layout.right) * config.predictor.smooth_factor) + 1


def window_of(frame_bt, num_windows_b, layout: ChunkLayout):
    """Return int32, the window in which each frame is decoded: `right` frames behind its own, or the last one."""
    return jnp.minimum((frame_bt + layout.right) // layout.size, num_windows_b[:, None] - 1)


def whole(layout: ChunkLayout, num_windows: int) -> ChunkLayout:
    """Return the layout for an utterance with all its windows at once: no look-back reaches further than its begin."""
    look_backs = layout.encoder_look_back, layout.decoder_look_back
    encoder, decoder = (num_windows if blocks < 0 else min(blocks, num_windows) for blocks in look_backs)
    return dataclasses.replace(layout, encoder_look_back=encoder, decoder_look_back=decoder, compat="none")


def _points(state: StreamState, sum_bs, frame_bs, num_rows: int, count_b):
    """Return where each token had collected `SHARES` of its weight, and the same of the one that has begun.

    Within a frame the weight is spread evenly: 2.5 is the middle of frame 2.
    """
    before_bs = jnp.concatenate([state.weight_b[:, None], sum_bs[:, :-1]], axis=1)
    token_1u = jnp.arange(num_rows + 1, dtype=jnp.float32)[None, :]
    points, begun = [], []
    for share, known_b in zip(SHARES, state.points_b2.T, strict=True):
        target_1u = token_1u + share
        row_bu = jnp.sum(sum_bs[:, None, :] < target_1u[..., None], axis=-1)
        row_bu = jnp.minimum(row_bu, sum_bs.shape[1] - 1)
        upper_bu, before_bu = (jnp.take_along_axis(sums, row_bu, axis=1) for sums in (sum_bs, before_bs))
        part_bu = jnp.clip((target_1u - before_bu) / jnp.maximum(upper_bu - before_bu, 1e-6), 0.0, 1.0)
        # The tail's frame holds no sound.
        point_bu = jnp.minimum(jnp.take_along_axis(frame_bs, row_bu, axis=1) + part_bu, frame_bs[:, -1:])
        # The first token may have begun in an earlier chunk.
        is_known_bu = (known_b[:, None] >= 0) & (token_1u == 0)
        point_bu = jnp.where(is_known_bu, known_b[:, None], point_bu)
        points.append(point_bu[:, :-1])
        at_end_b = jnp.take_along_axis(point_bu, count_b[:, None], axis=1)[:, 0]
        begun.append(jnp.where(sum_bs[:, -1] - count_b >= share, at_end_b, -1.0))
    return jnp.stack(points, axis=-1), jnp.stack(begun, axis=-1)
