"""FunASR answers the same whatever a setting says that is listed as without effect."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr.frontends.wav_frontend import WavFrontend  # noqa: E402
from funasr.models.paraformer.model import Paraformer  # noqa: E402
from funasr.tokenizer.char_tokenizer import CharTokenizer  # noqa: E402

from asr.published.funasr_settings import WITHOUT_EFFECT  # noqa: E402

RECORDED = Path(__file__).parents[1] / "recorded" / "funasr_tiny"
PARTS = ("encoder", "encoder_conf", "decoder", "decoder_conf", "predictor", "predictor_conf")
OTHER = {
    "positional_dropout_rate": 0.5,
    "self_attention_dropout_rate": 0.5,
    "dropout_rate": 0.5,
    "pos_enc_class": "StreamSinusoidalPositionEncoder",
    "padding_idx": 3,
    "positionwise_conv_kernel_size": 3,
    "interctc_use_conditioning": True,
    "lora_rank": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.5,
    "tf2torch_tensor_name_prefix_torch": "x",
    "tf2torch_tensor_name_prefix_tf": "y",
    "chunk_multiply_factor": [2],
    "tail_mask": False,
    "filter_length_min": 100,
    "filter_length_max": 200,
    "split_with_space": False,
    "space_symbol": "_",
    "remove_non_linguistic_symbols": True,
    "ignore_nan_grad": False,
}
"""A value that says something else than the default."""
CASES = [
    (section, key)
    for section, kinds in WITHOUT_EFFECT.items()
    if section  # what stands outside of the sections never reaches the modules
    for keys in kinds.values()
    for key in keys
]


def answer(change=None):
    """Return what FunASR's modules make of the recorded sound: features, logits and tokens of a text."""
    content = yaml.safe_load((RECORDED / "config.yaml").read_text())
    content["model_conf"]["ctc_weight"], content["ctc_conf"] = 0.3, {}
    if change:
        section, key, value = change
        content[section][key] = value
    torch.manual_seed(0)
    tokenizer = CharTokenizer(
        token_list=str(RECORDED / "tokens.json"), seg_dict=str(RECORDED / "seg_dict"), **content["tokenizer_conf"]
    )
    parts = {name: copy.deepcopy(content[name]) for name in (*PARTS, "ctc_conf")}
    model = Paraformer(**parts, **content["model_conf"], input_size=56, vocab_size=len(tokenizer.token_list))
    rng, state = np.random.default_rng(0), torch.load(RECORDED / "model.pt")
    state |= {f"ctc.ctc_lo.{n}": torch.tensor(rng.normal(size=s)) for n, s in (("weight", (16, 16)), ("bias", 16))}
    model.load_state_dict(state)
    model.eval()
    frontend = WavFrontend(str(RECORDED / "am.mvn"), **content["frontend_conf"], dither=0.0)
    with np.load(RECORDED / "answers.npz") as file:
        wave = torch.tensor(file["wave"].astype(np.float32) / 32768)[None]
    with torch.no_grad():
        features, lengths = frontend(wave, torch.tensor([wave.shape[1]]))
        hidden, lengths = model.encode(features, lengths)
        acoustic, count, *_ = model.calc_predictor(hidden, lengths)
        logits = model.decoder(hidden, lengths, acoustic, count.round().long())[0]
        ctc = model.ctc.log_softmax(hidden)
    return [features.numpy(), logits.numpy(), ctc.numpy(), tokenizer.encode("hello 今天 a b hell")]


@pytest.fixture(scope="module")
def expected():
    return answer()


@pytest.mark.parametrize(("section", "key"), CASES, ids=str)
def test_a_setting_that_is_listed_as_without_effect_has_none(expected, section, key):
    for one, other in zip(answer((section, key, OTHER[key])), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_comparison_would_notice_an_effect(expected):
    for change in (("predictor_conf", "smooth_factor", 0.7), ("frontend_conf", "window", "povey")):
        assert not np.array_equal(answer(change)[1], expected[1])
