"""Overfit one batch: the first thing to try with a new network, a new loss or new data.

    python scripts/tutorial_overfit_batch.py

A network that cannot learn four pictures by heart has a mistake in it, and this shows it within a minute on two
CPU cores. The training loop is written out with optax; the real one (`seg.training`) adds data, evaluation and
checkpoints to these same steps.
"""

import time

import jax
import numpy as np
import optax

from seg.config import DataConfig, LossConfig, ModelConfig, ToyConfig, TransformerConfig
from seg.data.toy_shapes import ToyShapes
from seg.data.transforms import make_preprocess
from seg.losses import build_loss
from seg.models import build_model, count_parameters

NUM_PICTURES, NUM_STEPS = 4, 150
DATA = DataConfig(size=(48, 48), toy=ToyConfig(max_shapes=3))
TRANSFORMER = TransformerConfig(num_layers=2, num_heads=4, dropout=0.0)
MODEL = ModelConfig(base_width=8, depth=3, num_classes=len(ToyShapes.classes), transformer=TRANSFORMER)


def main() -> None:
    """Train on one batch until the loss is near zero, and check that it got there."""
    image_bhwc, labels_bhw = load_batch()
    model, loss = build_model(MODEL), build_loss(LossConfig(name="ce_dice"))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))

    # The parameters are what the gradient changes; the batch statistics follow the data by themselves.
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), image_bhwc, False)
    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = optimizer.init(params)
    print(f"{count_parameters(params):,} parameters learn {NUM_PICTURES} pictures by heart\n")

    def objective(params, batch_stats):
        everything = {"params": params, "batch_stats": batch_stats}
        logits_bhwk, changed = model.apply(everything, image_bhwc, True, mutable=["batch_stats"])
        return loss(logits_bhwk, labels_bhw), changed["batch_stats"]

    @jax.jit
    def step(params, batch_stats, opt_state):
        (value, batch_stats), gradient = jax.value_and_grad(objective, has_aux=True)(params, batch_stats)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state, value

    start, losses = time.perf_counter(), []
    for number in range(NUM_STEPS + 1):
        params, batch_stats, opt_state, value = step(params, batch_stats, opt_state)
        losses.append(float(value))
        if number % 25 == 0:
            print(f"step {number:3}  loss {losses[-1]:.4f}  {time.perf_counter() - start:5.1f} s")

    logits_bhwk = jax.jit(model.apply, static_argnums=2)(
        {"params": params, "batch_stats": batch_stats}, image_bhwc, False
    )
    right = float((logits_bhwk.argmax(-1) == labels_bhw).mean())
    print(f"\n{right:.1%} of the pixels are right with the running statistics of the batch norms")
    assert losses[-1] < 0.1 * losses[0], f"the loss only fell from {losses[0]:.3f} to {losses[-1]:.3f}"
    assert right > 0.95, f"only {right:.1%} of the pixels are right"


def load_batch():
    """Return (image float32[b, h, w, 3] normalised, labels int32[b, h, w]) of the first training pictures."""
    toy = ToyShapes(DATA, "train")
    samples = [toy[i] for i in range(NUM_PICTURES)]
    image_bhwc, labels_bhw = (np.stack([getattr(s, name) for s in samples]) for name in ("image", "mask"))
    return make_preprocess(DATA)(image_bhwc, labels_bhw)


if __name__ == "__main__":
    main()
