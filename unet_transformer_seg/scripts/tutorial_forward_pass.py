"""Walk one picture through the hybrid network and print the shape after every stage.

    python scripts/tutorial_forward_pass.py

Runs in seconds on a CPU. The network has fresh parameters, so its answer means nothing yet; the shapes do.
Letters: b batch, h w rows and columns, c channels, k classes, s tokens, d model width, a heads.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seg.config import DataConfig, ModelConfig, ToyConfig, TransformerConfig
from seg.contracts import assert_shape, check_nan_inf
from seg.data.toy_shapes import ToyShapes
from seg.data.transforms import normalise
from seg.models import build_model, count_parameters
from seg.models.transformer import Transformer
from seg.models.unet import Decoder, Encoder, Heads, prepare_image
from seg.models.unet_transformer import Positions, map_to_tokens, tokens_to_map
from seg.ops.attention import attention_weights

DATA = DataConfig(size=(64, 96), toy=ToyConfig(max_shapes=3))
TRANSFORMER = TransformerConfig(num_layers=2, num_heads=4)
MODEL = ModelConfig(name="unet_transformer", base_width=16, depth=3, transformer=TRANSFORMER)


def main() -> None:
    """Take the network apart, run it piece by piece, and check that the pieces make the whole."""
    # A picture and its mask, as float 0…1 with the channels first. The networks want normalised values, the
    # channels last and a batch axis in front.
    toy = ToyShapes(DATA, "train")
    picture_chw, mask_hw = toy.generate_sample(0)
    dims = assert_shape(picture_chw, "C,H,W", "picture", C=3)
    assert_shape(mask_hw, "H,W", "mask", **dims)
    show("picture", picture_chw, "channels first, 0 to 1")
    image_bhwc = normalise(jnp.asarray(picture_chw.transpose(1, 2, 0))[None], *DATA.normalisation)
    show("image", image_bhwc, "channels last, normalised, a batch of one")

    config = ModelConfig(**{**vars(MODEL), "num_classes": len(toy.classes)})
    model = build_model(config)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), image_bhwc, False)
    print(f"{'':17} the network has {count_parameters(variables['params']):,} parameters\n")

    logits_bhwk = walk(config, variables, image_bhwc)

    # The whole network does the same in one call.
    whole_bhwk = jax.jit(model.apply, static_argnums=2)(variables, image_bhwc, False)
    np.testing.assert_allclose(logits_bhwk, whole_bhwk, atol=1e-3)
    print("\nThe pieces give what the whole gives.")


def walk(config: ModelConfig, variables, image_bhwc):
    """Return the logits float32[b, h, w, k], computed stage by stage with the parameters in `variables`."""
    # Nothing to fill up here: 64 × 96 holds 2³ = 8 in both directions. A stem would trade pixels for channels.
    x_bhwc = prepare_image(image_bhwc, config)
    show("prepared", x_bhwc, "what the encoder gets")

    # Down: each stage convolves twice; between stages, the largest of 2 × 2 pixels goes on.
    *skips, bottom_bhwc = Encoder(config).apply(part(variables, "encoder"), x_bhwc, False)
    for i, skip_bhwc in enumerate(skips):
        show(f"encoder stage {i}", skip_bhwc, "kept for the decoder: the skip connection")
    show("bottleneck", bottom_bhwc, "half the resolution of the last skip, twice its channels")

    # Through the transformer: each place of the bottleneck becomes a token that knows its row and column.
    names = ("bottleneck", "positions"), ("bottleneck", "transformer")
    placed_bhwc = Positions(config.transformer).apply(part(variables, *names[0]), bottom_bhwc)
    tokens_bsd = map_to_tokens(placed_bhwc)
    show("tokens", tokens_bsd, "the map read row by row; its channels are the model width")
    weights_basj = first_attention(variables["params"]["bottleneck"]["transformer"]["blocks"], tokens_bsd)
    show("attention", weights_basj, f"batch, heads, from, to; rows sum to {float(weights_basj[0, 0, 0].sum()):.3f}")
    tokens_bsd = Transformer(config.transformer).apply(part(variables, *names[1]), tokens_bsd, train=False)
    show("transformer", tokens_bsd, f"after {config.transformer.num_layers} blocks and a layer norm")
    x_bhwc = tokens_to_map(tokens_bsd, bottom_bhwc.shape[1:3])
    show("map", x_bhwc, "the tokens laid back in rows and columns")

    # Up: each stage doubles the resolution and joins the skip connection of its size.
    maps = Decoder(config).apply(part(variables, "decoder"), x_bhwc, skips, False)
    for i, map_bhwc in reversed(list(enumerate(maps))):
        show(f"decoder stage {i}", map_bhwc, "joined with the skip connection of this size")

    # One score per class and pixel; the largest one wins, softmax turns them into probabilities.
    logits_bhwk, _ = Heads(config).apply(part(variables, "heads"), maps, image_bhwc.shape[1:3], False)
    check_nan_inf(logits_bhwk, "logits")
    show("logits", logits_bhwk, "a score for each class at each pixel")
    show("prediction", logits_bhwk.argmax(-1), "the class of the highest score")
    return logits_bhwk


def first_attention(blocks, x_bsd):
    """Return the weights float32[b, a, s, j] of the first block, by the formulas of attention."""
    params = jax.tree.map(lambda leaf: leaf[0], blocks)  # the first axis counts the layers
    centred_bsd = x_bsd - x_bsd.mean(-1, keepdims=True)
    normal_bsd = centred_bsd / jnp.sqrt(jnp.square(centred_bsd).mean(-1, keepdims=True) + 1e-6)
    query, key = params["attention"]["query"], params["attention"]["key"]  # a fresh norm has scale 1, bias 0
    q_bsae = jnp.einsum("bsd,dae->bsae", normal_bsd, query["kernel"]) + query["bias"]
    k_bjae = jnp.einsum("bjd,dae->bjae", normal_bsd, key["kernel"])
    return attention_weights(q_bsae, k_bjae)


def part(variables, *path: str):
    """Return the parameters and batch statistics of one piece of the network."""
    parts = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        parts[collection] = tree
    return parts


def show(name: str, x, comment: str) -> None:
    """Print one line: the name, the shape, what it is."""
    print(f"{name:17} {list(x.shape)!s:18} {comment}")


if __name__ == "__main__":
    main()
