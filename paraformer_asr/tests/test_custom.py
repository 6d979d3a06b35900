"""Parts from outside the package are refused by name before training, without compiling anything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asr
from asr.custom import CustomParts, check_loss, check_metrics, check_model
from asr.errors import UserError
from asr.models import build_model

CONFIG = asr.load_config("toy", ["model.vocab_size=20", "model.encoder.num_layers=1", "model.decoder.num_layers=1"])
CONFIG = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, input_dim=CONFIG.features.input_dim))
EXAMPLE = ["one two"]
OUTPUTS = jax.eval_shape(lambda: {"logits": jnp.zeros((2, 3, 20))})


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
        (
            lambda outputs, *tokens: outputs["logits"][:, 0, 0],
            r"loss: expected a scalar float32\[\], found float32\[2\]",
        ),
        (lambda outputs, *tokens: tokens[0].sum(), r"loss: expected a scalar float32\[\], found int32\[\]"),
        (lambda outputs, *tokens: None, "loss: .* found NoneType"),
        (
            lambda outputs: outputs["logits"].sum(),
            "loss: failed on arrays of the run's shapes .TypeError: .*3 were given",
        ),
    ],
)
def test_a_loss_that_is_no_scalar_function_is_refused(loss, message):
    with pytest.raises(UserError, match=message):
        check_loss(loss, OUTPUTS)
    check_loss(lambda outputs, *tokens: outputs["logits"].sum(), OUTPUTS)


class Vector(asr.Paraformer):
    def __call__(self, *inputs, train):
        return super().__call__(*inputs, train=train).token_count_b


class Narrow(asr.Paraformer):
    def decode(self, *inputs):
        hypotheses = super().decode(*inputs)
        return hypotheses.replace(logits_buv=hypotheses.logits_buv[..., 1:])


class Failing(asr.Paraformer):
    def encode(self, features_bti):
        return features_bti


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Vector, r"model: __call__ .*: expected logits_buv \[2, 3, 20\], found float32\[2\]"),
        (Narrow, r"model: decode .*: expected logits_buv \[2, 3, 20\], found float32\[2, 3, 19\]"),
        (Failing, "model: failed on arrays of the run's shapes .TypeError"),
    ],
)
def test_a_model_whose_logits_do_not_fit_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        check_model(model(CONFIG.model), CONFIG)


def test_the_outputs_of_a_model_are_what_the_losses_read():
    outputs = check_model(asr.Paraformer(CONFIG.model), CONFIG)
    assert (outputs.logits_buv.shape, outputs.token_count_b.shape) == ((2, 3, 20), (2,))


@pytest.mark.parametrize("model", [3, lambda config: "network"])
def test_a_model_that_is_no_module_is_refused(model):
    with pytest.raises(
        UserError, match="model: expected a Flax module, or a function of config.model .*found (int|str)"
    ):
        build_model(CONFIG.model, model)


class Silence(asr.SpeechDataset):
    """Two seconds of silence; `parts` replaces what a method returns."""

    def __init__(self, **parts):
        wave_n = np.zeros(16000, np.float32)
        default = {"durations_s": np.ones(2), "texts": ["one", "two"], "names": ["a", "b"]}
        self.parts = default | {"utterance": asr.Utterance(wave_n, 16000, "one", "a")} | parts

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.parts["utterance"]

    def durations_s(self):
        return self.parts["durations_s"]

    def texts(self):
        return self.parts["texts"]

    def names(self):
        return self.parts["names"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (3, "val_set: expected a subclass of asr.SpeechDataset, found int"),
        (Silence(durations_s=[1.0, 1.0]), r"val_set.durations_s\(\): expected seconds float64\[2\], .*found list"),
        (Silence(durations_s=np.array([1, -1.0])), r"val_set.durations_s\(\): .* none negative"),
        (Silence(texts=["one"]), r"val_set.texts\(\): expected 2 texts, found 1"),
        (Silence(names=["a", 2]), r"val_set.names\(\): expected 2 texts, found 2: \['a', 2\]"),
        (Silence(utterance=None), r"val_set: Silence\[0\]: expected an asr.Utterance, found NoneType"),
    ],
)
def test_a_malformed_data_set_is_refused(dataset, message):
    with pytest.raises(UserError, match=message):
        CustomParts(train_set=Silence(), val_set=dataset).mark(CONFIG)
    assert CustomParts(train_set=Silence(), val_set=Silence()).mark(CONFIG).data.dataset == "custom"
