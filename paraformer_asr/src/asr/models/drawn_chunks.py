"""Training for several chunk sizes at once: each batch is heard in chunks of a size that is drawn, or as a whole.

Letters: b batch, t frames, i input width, d model width, u tokens, r rows of all windows.

Reference: Zhang et al., 2020, arXiv 2012.05481 (dynamic chunk training).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from asr.contracts import assert_shape
from asr.models.paraformer import Frames
from asr.ops import cif


@struct.dataclass
class AttendedRows:
    """What the decoder attends to for the true tokens of a batch, in place of `Windows` of one size.

    Attributes:
        rows_brd: float, the rows of all windows, and zeros behind them.
        mask_bur: bool, the rows that each token sees.
    """

    rows_brd: jax.Array
    mask_bur: jax.Array

    def attended(self, cumulative_bt, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """Return (rows, mask)."""
        assert_shape(self.mask_bur, "b,u,r", "mask", b=cumulative_bt.shape[0], u=num_rows)
        return self.rows_brd, self.mask_bur


def listen_to_drawn_size(model: nn.Module, features_bti, lengths_b, token_lengths_b, num_tokens: int) -> Frames:
    """Return what a `StreamingParaformer` hears in training; the size is drawn with the key `sampler`.

    Args:
        model: bound; its `config.streaming` has the sizes and their shares.
        features_bti: float32[b, t, i], normalised frames.
        lengths_b: int32[b], real frames.
        token_lengths_b: int32[b], true tokens.
        num_tokens: u, the padded number of true tokens.
    """
    settings, num_frames = model.config.streaming, features_bti.shape[1]
    layouts, share = settings.training_layouts, settings.offline_share
    shares = [(1 - share) / len(layouts)] * len(layouts)
    if share > 0:
        layouts, shares = (*layouts, None), [*shares, share]
    if len(layouts) == 1:
        return model.listen_in_chunks(layouts[0], features_bti, lengths_b, True)
    num_rows = max(layout.num_windows(num_frames) * layout.window if layout else num_frames for layout in layouts)
    branches = [
        functools.partial(_listen, layout=layout, num_tokens=num_tokens, num_rows=num_rows) for layout in layouts
    ]
    # One size for the whole batch: its windows have one shape, and only the branch that is drawn is computed.
    choice = jax.random.choice(model.make_rng("sampler"), len(layouts), p=jnp.array(shares))
    return nn.switch(choice, branches, model, features_bti, lengths_b, token_lengths_b)


def _listen(model, features_bti, lengths_b, token_lengths_b, *, layout, num_tokens: int, num_rows: int) -> Frames:
    """Return the frames of utterances cut as `layout` says, of shapes that are the same for all layouts.

    So one decoder serves all of them; one for each would double the time to compile.
    """
    frames = model.listen_in_chunks(layout, features_bti, lengths_b, True)
    cumulative_bt = cif.scaled_cumulative(frames.alpha_bt, frames.valid_bt, token_lengths_b)
    rows_brd, mask_bur = frames.attended(cumulative_bt, num_tokens)
    b, r, _ = rows_brd.shape
    mask_bur = jnp.broadcast_to(mask_bur, (b, num_tokens, r))
    behind = (0, num_rows - r)
    rows = jnp.pad(rows_brd, ((0, 0), behind, (0, 0))), jnp.pad(mask_bur, ((0, 0), (0, 0), behind))
    return frames.replace(windows=AttendedRows(*rows))
