"""The acoustic encoder: input frames, positions, a stack of blocks, a layer norm.

Letters: b batch, t frames, j frames attended to, i input width, d model width.
"""

import flax.linen as nn

from asr.config import EncoderConfig
from asr.models.blocks import BLOCKS
from asr.models.chunks import EncoderChunks
from asr.models.layers import Dense, Dropout, LayerNorm
from asr.ops.attention import causal_mask, padding_mask
from asr.ops.position import sinusoid, sinusoid_at


class Encoder(nn.Module):
    """float[b, t, i] → float[b, t, d], one vector a frame.

        x = features · √d + positions
        x = block(x), num_layers times
        hidden = norm(x)

    The SAN-M encoder adds the positions to the input as it is and lets its first block change the width, as published;
    other kinds begin with a linear map to the model width. Without positions there is no √d.
    """

    config: EncoderConfig  # kind and sizes
    remat: bool = False  # recompute a block's activations in the backward pass instead of storing them

    @nn.compact
    def __call__(self, features_bti, valid_bt, *, train: bool, chunks: EncoderChunks | None = None):
        """Return the encoded frames.

        Args:
            features_bti: float[b, t, i], normalised frames; its dtype is the compute dtype.
            valid_bt: bool[b, t], True for real frames, which do not depend on padded ones.
            train: apply dropout (key `dropout`).
            chunks: cuts the frames into windows; the result is then float[b · n, w, d], of the n windows of each row.
        """
        config = self.config
        mask_btj = causal_mask(valid_bt) if config.causal else padding_mask(valid_bt)
        # SAN-M's first block widens the frames itself, as published.
        x_btd = features_bti if config.kind == "sanm" else Dense(config.width, name="input")(features_bti)
        if config.position == "sincos":
            position_btd = (
                sinusoid_at(chunks.position_bt + 1, x_btd.shape[-1]) if chunks else sinusoid(*x_btd.shape[1:])[None]
            )
            # √d brings the features to the scale of embeddings, so that the positions do not drown them.
            x_btd = x_btd * config.width**0.5 + position_btd.astype(x_btd.dtype)
        x_btd = Dropout(config.input_dropout)(x_btd, train)
        if chunks:
            x_btd, valid_bt, mask_btj = chunks.cut(x_btd)
        return LayerNorm(name="norm")(self._blocks(x_btd, valid_bt, mask_btj, train, chunks))

    def _blocks(self, x_btd, valid_bt, mask_btj, train: bool, chunks: EncoderChunks | None):
        """Apply the blocks: named one by one, or as one compiled block in a loop over stacked parameters."""
        config = self.config
        block = BLOCKS[config.kind]
        static, extra = ((4, 5), (chunks,)) if chunks else ((4,), ())
        block = nn.remat(block, static_argnums=static, prevent_cse=not config.scan) if self.remat else block
        changes_width = x_btd.shape[-1] != config.width
        if not config.scan:
            for number in range(config.num_layers):
                x_btd = block(config, name=f"block{number}")(x_btd, valid_bt, mask_btj, train, *extra)
            return x_btd
        # A loop needs equal blocks: the one that changes the width runs before it.
        if changes_width:
            x_btd = block(config, name="block0")(x_btd, valid_bt, mask_btj, train)
        in_loop = config.num_layers - changes_width
        if in_loop:
            loop = nn.scan(
                lambda blocks, x_btd, *rest: (blocks(x_btd, *rest, train), None),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=in_loop,
            )
            x_btd, _ = loop(block(config, name="blocks"), x_btd, valid_bt, mask_btj)
        return x_btd
