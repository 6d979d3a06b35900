"""Parts from outside the package are refused by name before training, without compiling anything."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import seg
from seg.custom import CustomParts, check_loss, check_metrics, check_model
from seg.errors import UserError
from seg.models import build_model

CONFIG = seg.Config(
    data=seg.DataConfig(size=(8, 8)),
    model=seg.ModelConfig(num_classes=2),
    training=seg.TrainingConfig(batch_size=4, accumulate=2),
)
EXAMPLE = np.eye(2, dtype=np.int64)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([len], "metrics: expected a mapping of names to functions, found list"),
        ({3: len}, "metrics: expected names of printable characters, found 3"),
        ({"step": len}, "metrics: 'step' is a name in the record already"),
        ({"own": 0.5}, r"metrics\['own'\]: expected a function, found float"),
        (
            {"own": lambda *a: 1 / 0},
            r"metrics\['own'\]: failed on a perfect prediction \(ZeroDivisionError: division by zero",
        ),
        ({"own": lambda *a: "0.5"}, r"metrics\['own'\]: expected a number, found '0.5'"),
        ({"own": lambda *a: np.ones(2)}, r"metrics\['own'\]: expected a number, found array"),
    ],
)
def test_a_metric_that_cannot_be_recorded_is_refused_by_name(metrics, message):
    with pytest.raises(UserError, match=message):
        check_metrics(metrics, {"step"}, EXAMPLE)


def test_a_metric_that_gives_a_number_passes():
    check_metrics(
        {"a": lambda *a: 1, "b": lambda *a: np.float32(np.nan), "c": lambda *a: jnp.float32(0.5)}, {"step"}, EXAMPLE
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (0.5, "loss: expected a function .*, found float"),
        (lambda logits, labels: logits[..., 0], r"loss: expected a scalar float32\[\], found float32\[2, 8, 8\]"),
        (lambda logits, labels: labels.sum(), r"loss: expected a scalar float32\[\], found int32\[\]"),
        (lambda logits, labels: None, "loss: .* found NoneType"),
        (lambda logits: logits.sum(), "loss: failed on arrays of the run's shapes .TypeError: .*2 were given"),
    ],
)
def test_a_loss_that_is_no_scalar_function_is_refused(loss, message):
    with pytest.raises(UserError, match=message):
        check_loss(loss, CONFIG)
    check_loss(seg.dice_loss, CONFIG)


class Network(nn.Module):
    answer: object

    @nn.compact
    def __call__(self, image_bhwc, train):
        return self.answer(nn.Dense(2)(image_bhwc))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: (x, x), "model: expected logits .* found tuple"),
        (lambda x: x[..., :1], r"model: expected logits float32\[1, 8, 8, 2\] .* found float32\[1, 8, 8, 1\]"),
        (lambda x: x @ x, "model: failed on arrays of the run's shapes .TypeError"),
    ],
)
def test_a_model_whose_logits_do_not_fit_is_refused(answer, message):
    with pytest.raises(UserError, match=message):
        check_model(Network(answer), CONFIG)
    check_model(Network(lambda x: x), CONFIG)


@pytest.mark.parametrize("model", [3, lambda config: "network"])
def test_a_model_that_is_no_module_is_refused(model):
    with pytest.raises(
        UserError, match="model: expected a Flax module, or a function of config.model .*found (int|str)"
    ):
        build_model(CONFIG.model, model)


class Blank(seg.SegmentationDataset):
    """Two black images of class 0."""

    def __init__(self, *names):
        self.classes = seg.make_class_table(names)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return seg.Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), str(index))


def test_a_validation_set_of_other_classes_is_refused():
    with pytest.raises(UserError, match="val_set.classes: expected those of train_set, sky, road; found road, sky"):
        CustomParts(train_set=Blank("sky", "road"), val_set=Blank("road", "sky")).mark(CONFIG)
    assert CustomParts(train_set=Blank("a", "b"), val_set=Blank("a", "b")).mark(CONFIG).data.dataset == "custom"


def test_a_data_set_without_classes_is_refused():
    unnamed = Blank("a", "b")
    del unnamed.classes
    with pytest.raises(UserError, match="train_set.classes: expected a table made by seg.make_class_table"):
        CustomParts(train_set=unnamed, val_set=Blank("a", "b")).mark(CONFIG)
