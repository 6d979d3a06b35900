"""The windows of FunASR's exported pair of graphs, `model.onnx` and `decoder.onnx`, as its driver cuts them.

Nothing is cached but the decoder's memories. Three things differ from `EncoderChunks`:

    a chunk that is not the last one   has whole windows: rows of zeros stand for missing frames, as if they were frames
    the last chunk                     has the rows that there are; its look-ahead is not decoded
    a chunk heard again                its window is the `left` newest frames, then the k newest ones: what the zeros of
                                       the chunk before kept from being decoded; `num_new_b` is −k

Letters: b streams, t new frames, w rows of a window, d width.

Reference: `paraformer_online_bin.py` of the package funasr_onnx 0.4.
"""

import jax.numpy as jnp

from asr.config import ChunkLayout
from asr.models.chunks import EncoderChunks, EncoderState


def chunks_of_step(layout: ChunkLayout, state: EncoderState, frames_b, num_new_b, is_last_b) -> EncoderChunks:
    """Return the windows of one step; the arguments are those of `ExportedChunks`."""
    if layout.compat == "funasr_onnx":
        return ExportedChunks(layout, state, frames_b, num_new_b, is_last_b)
    return EncoderChunks(layout, state, frames_b, num_new_b, 1)


class ExportedChunks(EncoderChunks):
    """The window of one chunk of each stream."""

    def __init__(self, layout: ChunkLayout, state: EncoderState, frames_b, num_new_b, is_last_b):
        """Take `num_new_b` frames after `frames_b` earlier ones; −k: hear the k newest again."""
        super().__init__(layout, state, frames_b, jnp.maximum(num_new_b, 0), 1)
        self._num_new_b1 = jnp.maximum(num_new_b, 0)[:, None]
        row_w = jnp.arange(layout.window)[None, :]
        new_b1, is_last_b1, is_again_b1 = num_new_b[:, None], is_last_b[:, None], num_new_b[:, None] < 0
        # Places in the timeline: the frames before, `context` of them, and the new ones.
        again_bw = jnp.where(row_w < layout.left, row_w + layout.right, row_w + layout.right + new_b1)
        self._place_bw = jnp.where(is_again_b1, jnp.minimum(again_bw, layout.window - 1), row_w)
        num_rows_b1 = jnp.where(is_again_b1, layout.left - new_b1, layout.context + new_b1)
        self.valid_bnw = ((row_w < num_rows_b1) | ~is_last_b1)[:, None]
        self.frame_bnw = (frames_b[:, None] + self._place_bw - layout.context)[:, None]

    def cut(self, x_btd):
        """Return (x, valid, mask) of the windows: what the blocks are called with."""
        context = self._layout.context
        x_btd = jnp.where((jnp.arange(x_btd.shape[1])[None, :] < self._num_new_b1)[..., None], x_btd, 0)
        timeline_bsd = jnp.concatenate([self._state.context_bcd.astype(x_btd.dtype), x_btd], axis=1)
        x_bwd = jnp.take_along_axis(timeline_bsd, self._place_bw[..., None], axis=1)
        # The zeros behind the frames are not kept.
        kept_bc = self._num_new_b1 + jnp.arange(context)[None, :]
        self._context_bcd = jnp.take_along_axis(timeline_bsd, kept_bc[..., None], axis=1)
        valid_bw = self.valid_bnw[:, 0]
        return jnp.where(valid_bw[..., None], x_bwd, 0), valid_bw, valid_bw[:, None, :]
