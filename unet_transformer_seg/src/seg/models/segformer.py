"""SegFormer's decoder: maps of all resolutions, each through one linear map, summed at the finest of them.

Letters: b batch, h w rows and columns of the finest map, c channels of a map, d the decoder's width, k classes.

    maps ─ linear to d ─ resize to the finest ─ concat ─ linear (4·d → d) ─ norm ─ ReLU ─ classifier ─ logits

An encoder that sees the whole image at every stage leaves little for a decoder to do: no convolution is wider than a
pixel. The linear map of the concatenation is a sum of four, one for each part, and a linear map of the channels may
change places with the resizing of the pixels. So it is done first, where the maps are small: the same sum for a quarter
of the products.

Reference: Xie et al., 2021 (SegFormer), section 3.2.
"""

import flax.linen as nn
import jax.numpy as jnp

from seg.models.layers import BatchNorm, truncated_normal
from seg.ops.resize import resize_bilinear

NUM_MAPS = 4


class SegFormerDecoder(nn.Module):
    """The decoder, without its classifier."""

    width: int

    @nn.compact
    def __call__(self, maps, train: bool):
        """Return float[b, h, w, d] at the resolution of the finest map that is used.

        Args:
            maps: of the encoder, the finest first; the last four are used.
            train: passed on to the norm.
        """
        maps = maps[-NUM_MAPS:]
        width, size, dtype = self.width, maps[0].shape[1:3], maps[0].dtype
        fuse_mdd = self.param("fuse", truncated_normal(2.0), (len(maps), width, width), jnp.float32).astype(dtype)
        total_bhwd = 0.0
        for i, x_bhwc in enumerate(maps):
            project = nn.Dense(width, kernel_init=truncated_normal(1.0), dtype=dtype, name=f"project{i}")
            part_bhwd = jnp.einsum("bhwd,de->bhwe", project(x_bhwc), fuse_mdd[i])
            total_bhwd += resize_bilinear(part_bhwd, size=size)
        return nn.relu(BatchNorm(name="norm")(total_bhwd, train))
