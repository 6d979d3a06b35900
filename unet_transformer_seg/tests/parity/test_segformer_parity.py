"""SegFormer as transformers saves it: logits at the size of the image, and class maps.

`python tests/parity/test_segformer_parity.py` writes the recording that the plain tests compare with.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from seg.checkpoints.safetensors_file import read_safetensors, write_safetensors  # noqa: E402
from seg.models import build_model  # noqa: E402
from seg.models.mix_transformer import VARIANTS  # noqa: E402
from seg.published.published_model import open_published  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawn_tensors import NARROW_MIT, draw_image, draw_tensor  # noqa: E402

RECORDED = Path(__file__).parents[1] / "recorded" / "segformer.npz"


def beside(name):
    """Import a file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compare = beside("differences").compare


def write_model(folder, sizes, classes, width=256, channels=3):
    """Write a folder of `save_pretrained` whose weights are drawn by their names, and return the model."""
    config = transformers.SegformerConfig(
        hidden_sizes=list(sizes.widths),
        depths=list(sizes.blocks),
        num_labels=classes,
        decoder_hidden_size=width,
        num_channels=channels,
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    tensors, _ = read_safetensors(folder / "model.safetensors")
    drawn = {name: draw_tensor(name, x.shape) if x.dtype.kind == "f" else x for name, x in tensors.items()}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", drawn)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, use_safetensors=True)
    return model.float().eval()


def answer(model, image_bhwc):
    """Return the logits at the size of the image, as `post_process_semantic_segmentation` enlarges them."""
    with torch.no_grad():
        logits = model(torch.tensor(image_bhwc).permute(0, 3, 1, 2)).logits
        logits = torch.nn.functional.interpolate(logits, image_bhwc.shape[1:3], mode="bilinear", align_corners=False)
    return logits.permute(0, 2, 3, 1).numpy()


def infer(published, image):
    model = build_model(published.config.model)
    compiled = jax.jit(lambda v, x: model.apply(v, x, False), compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(compiled(published.variables, image))


@pytest.mark.parametrize(("name", "classes", "width"), [("mit_b0", 5, 256), ("mit_b1", 1, 256), ("mit_b2", 3, 768)])
def test_logits_and_class_maps(tmp_path, name, classes, width):
    theirs = write_model(tmp_path, VARIANTS[name], classes, width)
    published = open_published("segformer", tmp_path)
    for size in ((64, 96), (75, 101)):
        logits, expected = infer(published, draw_image(*size)), answer(theirs, draw_image(*size))
        compare(f"segformer {name}", logits[..., 1:] - logits[..., :1] if classes == 1 else logits, expected)


def test_the_images_of_a_processor(tmp_path):
    write_model(tmp_path, VARIANTS["mit_b0"], 3)
    processor = transformers.SegformerImageProcessor if hasattr(transformers, "SegformerImageProcessor") else None
    settings = json.loads(processor(size={"height": 128, "width": 160}).to_json_string())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    data = open_published("segformer", tmp_path).config.data
    assert data.size == (128, 160) and data.mean == pytest.approx((0.485, 0.456, 0.406))


def record():
    """Write what transformers answers for a narrow SegFormer of three classes."""
    with tempfile.TemporaryDirectory() as folder:
        logits = answer(write_model(Path(folder), NARROW_MIT, 3, width=8), draw_image(33, 38))
    np.savez_compressed(RECORDED, y=logits)


if __name__ == "__main__":
    record()
