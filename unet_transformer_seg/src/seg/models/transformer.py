"""A pre-norm transformer encoder over a sequence of tokens.

Letters: b batch, s tokens, j tokens attended to (j = s), d model width, a heads, e width of a head,
f feed-forward width, l layers.

Initialisation: xavier for every projection, and the two that write into the residual stream start smaller by
1/√(2·layers), so that the stream's spread does not grow with the depth (Radford et al., 2019). They are not zero:
every parameter receives a gradient from the first step on.

Reference: Vaswani et al., 2017; norms before the branches as in Dosovitskiy et al., 2021.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import TransformerConfig
from seg.models.layers import Dropout, LayerNorm, xavier_uniform
from seg.ops.attention import attention, attention_weights


class Transformer(nn.Module):
    """`num_layers` blocks one after the other, then a layer norm: float[b, s, d] → float[b, s, d].

    The blocks are one compiled block in a loop (`nn.scan`): their parameters carry a leading axis l, and compile
    time does not grow with the depth. Pass `mutable=["attention"]` to get the attention weights of all blocks too,
    float32[l, b, a, s, j] under `weights`; otherwise they are not stored.
    """

    config: TransformerConfig  # layers, heads, rates
    remat: bool = False  # compute a block's activations again in the backward pass instead of keeping them

    @nn.compact
    def __call__(self, x_bsd, mask_bsj=None, *, train: bool):
        """Return the tokens after all blocks.

        Args:
            x_bsd: float[b, s, d], tokens with their positions.
            mask_bsj: bool[b, s, j], True where token s may attend to token j; None admits everything.
            train: apply dropout and stochastic depth (key `dropout`).
        """
        layers = self.config.num_layers
        block = nn.remat(Block, static_argnums=(4,), prevent_cse=False) if self.remat else Block
        blocks = nn.scan(
            block,
            variable_axes={"params": 0, "attention": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=layers,
        )
        # Deeper blocks are skipped more often: later ones refine, the first ones are needed by all the rest.
        rates_l = skip_rates(self.config.stochastic_depth, layers)
        x_bsd, _ = blocks(self.config, name="blocks")(x_bsd, rates_l, mask_bsj, train)
        return LayerNorm(name="norm")(x_bsd)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): float[b, s, d] → float[b, s, d]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_bsd, skip_rate, mask_bsj, train: bool):
        """Return (tokens float[b, s, d], None), the pair that `nn.scan` expects.

        `skip_rate` is the probability that a branch of this block is skipped for an image.
        """
        # Pre-norm: the residual stream itself is never normalised, so gradients reach the first block unchanged.
        normal_bsd = LayerNorm(name="attention_norm")(x_bsd)
        branch_bsd = MultiHeadAttention(self.config, name="attention")(normal_bsd, mask_bsj)
        x_bsd += self._regularise(branch_bsd, skip_rate, train)
        normal_bsd = LayerNorm(name="feed_forward_norm")(x_bsd)
        branch_bsd = FeedForward(self.config, name="feed_forward")(normal_bsd, train)
        x_bsd += self._regularise(branch_bsd, skip_rate, train)
        return x_bsd, None

    def _regularise(self, branch_bsd, skip_rate, train: bool):
        """Return the branch after dropout; in training it is skipped at `skip_rate`, image by image."""
        branch_bsd = Dropout(self.config.dropout)(branch_bsd, train)
        if not train or self.config.stochastic_depth == 0:
            return branch_bsd
        # One draw for an image, not for a value: its whole branch stays or goes. Dividing keeps the expected value.
        keep_b11 = jax.random.bernoulli(self.make_rng("dropout"), 1 - skip_rate, (branch_bsd.shape[0], 1, 1))
        return branch_bsd * (keep_b11 / (1 - skip_rate)).astype(branch_bsd.dtype)


class MultiHeadAttention(nn.Module):
    """Attention with explicit projections to queries, keys and values: float[b, s, d] → float[b, s, d]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_bsd, mask_bsj=None, source_bjd=None):
        """Return the attention's result.

        Args:
            x_bsd: float[b, s, d], the tokens.
            mask_bsj: bool[b, s, j], True where token s may attend to token j; None admits everything.
            source_bjd: float[b, j, d], the tokens attended to; by default `x_bsd` itself.
        """
        source_bjd = x_bsd if source_bjd is None else source_bjd
        d, a = x_bsd.shape[-1], self.config.num_heads
        if d % a:
            raise ValueError(f"attention: {a} heads do not divide the model width {d}")
        # Each head compares tokens in a subspace of its own, of d / a dimensions.
        heads = {"features": (a, d // a), "kernel_init": xavier_uniform(), "dtype": x_bsd.dtype}
        q_bsae = nn.DenseGeneral(name="query", **heads)(x_bsd)
        # No bias: q·bias is the same for all tokens j, so the softmax would cancel it.
        k_bjae = nn.DenseGeneral(name="key", use_bias=False, **heads)(source_bjd)
        v_bjae = nn.DenseGeneral(name="value", **heads)(source_bjd)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "weights", attention_weights(q_bsae, k_bjae, mask_bsj))
        out_bsae = attention(q_bsae, k_bjae, v_bjae, mask_bsj, implementation=self.config.attention)
        init = residual_init(self.config.num_layers)
        return nn.DenseGeneral(d, axis=(-2, -1), kernel_init=init, dtype=x_bsd.dtype, name="out")(out_bsae)


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them, token by token: float[b, s, d] → float[b, s, d]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_bsd, train: bool):
        """Return the two layers' result, with dropout when `train`."""
        d = x_bsd.shape[-1]
        f = int(d * self.config.mlp_ratio)
        hidden_bsf = nn.Dense(f, kernel_init=xavier_uniform(), dtype=x_bsd.dtype, name="dense1")(x_bsd)
        # The exact GELU, as in the published weights; the tanh form differs in the fourth digit.
        hidden_bsf = nn.gelu(hidden_bsf, approximate=False)
        hidden_bsf = Dropout(self.config.dropout)(hidden_bsf, train)
        init = residual_init(self.config.num_layers)
        return nn.Dense(d, kernel_init=init, dtype=x_bsd.dtype, name="dense2")(hidden_bsf)


def skip_rates(last: float, num_layers: int):
    """Return float32[l], the rate at which each block's branches are skipped, rising linearly to `last`."""
    return last * jnp.arange(1, num_layers + 1, dtype=jnp.float32) / num_layers


def residual_init(num_layers: int):
    """Return xavier with the variance divided by 2·num_layers, the number of branches that add to the stream."""
    return xavier_uniform(1 / (2 * max(num_layers, 1)))
