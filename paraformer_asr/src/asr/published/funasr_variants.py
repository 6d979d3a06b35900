"""The settings in which the other classes of FunASR's Paraformer differ from the plain one.

    Paraformer             plain
    BiCifParaformer        a second head of the predictor, for times
    SeacoParaformer        the same, and a branch for hot words
    ContextualParaformer   hot words in the last block of the decoder, no second head

Neither jax nor numpy is imported here, so that a mistake is answered in well under a second.
"""

import dataclasses
from typing import Any

from asr.published import funasr_settings as plain
from asr.published.funasr_settings import OF_TRAINING, UNUSED, Setting


@dataclasses.dataclass(frozen=True)
class Variant:
    """How one class of FunASR is read.

    Attributes:
        name: our `model.name`.
        predictors: FunASR's classes of the predictor → our `model.predictor.kind`.
        classes: FunASR's names of other parts than those of the plain model, by their key.
        settings: further ones of both sides.
        fixed: (section, key, FunASR's default, the value that is read here): another one would change the transcripts.
        without_effect: section → class → keys, as in `funasr_settings.WITHOUT_EFFECT`.
        has_inner_dim: `model_conf.inner_dim` must repeat the encoder's width.
        not_written: (section, key) of settings of the plain model that this class does not know.
    """

    name: str
    predictors: dict[str, str]
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    fixed: tuple[tuple[str, str, Any, Any], ...] = ()
    without_effect: dict[str, dict[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    has_inner_dim: bool = False
    not_written: tuple[tuple[str, str], ...] = ()


TIMES = {"CifPredictorV3": "conv"}
INNER_DIM_DEFAULT = 256  # FunASR's, if `model_conf.inner_dim` is left out

_TIME_SETTINGS = (
    Setting("predictor_conf", "smooth_factor2", "model.timestamps.smooth_factor", 1.0),
    Setting("predictor_conf", "noise_threshold2", "model.timestamps.noise_threshold", 0.0),
)
_TIME_FIXED = (
    ("predictor_conf", "upsample_times", 5, 3),
    ("predictor_conf", "upsample_type", "cnn", "cnn_blstm"),
    ("predictor_conf", "use_cif1_cnn", True, False),
)
_BRANCH = "seaco_decoder_conf"
_SEACO_SETTINGS = (
    Setting("model_conf", "NO_BIAS", "model.seaco.no_bias_id", 8377),
    Setting(_BRANCH, "attention_heads", "model.seaco.num_heads", 4),
    Setting(_BRANCH, "linear_units", "model.seaco.ffn_width", 2048),
    Setting(_BRANCH, "kernel_size", "model.seaco.kernel_size", 21),
    Setting(_BRANCH, "dropout_rate", "model.seaco.dropout", 0.1),
    Setting(_BRANCH, "src_attention_dropout_rate", "model.seaco.attention_dropout", 0.0),
)
_SEACO_FIXED = (
    ("model_conf", "bias_encoder_type", "lstm", "lstm"),
    ("model_conf", "bias_encoder_bid", False, False),
    (_BRANCH, "att_layer_num", 6, 6),
    (_BRANCH, "input_layer", "embed", "embed"),
    (_BRANCH, "wo_input_layer", False, True),
    (_BRANCH, "use_output_layer", True, False),
    (_BRANCH, "normalize_before", True, True),
    (_BRANCH, "concat_after", False, False),
    (_BRANCH, "sanm_shfit", 0, 0),
    (_BRANCH, "lora_list", None, None),
)
_SEACO_TRAINING = (
    *("seaco_lsm_weight", "seaco_length_normal", "seaco_length_normalized_loss", "seaco_weight", "train_decoder"),
    "bias_encoder_dropout_rate",
)
_CONTEXTUAL_TRAINING = ("bias_encoder_dropout_rate", "target_buffer_length", "crit_attn_weight", "crit_attn_smooth")

VARIANTS = {
    "Paraformer": Variant("paraformer", plain.PREDICTORS),
    "BiCifParaformer": Variant("bicif", TIMES, settings=_TIME_SETTINGS, fixed=_TIME_FIXED),
    "SeacoParaformer": Variant(
        "seaco",
        TIMES,
        classes={"seaco_decoder": "ParaformerSANMDecoder"},
        settings=_TIME_SETTINGS + _SEACO_SETTINGS,
        fixed=_TIME_FIXED + _SEACO_FIXED,
        without_effect={
            "model_conf": {OF_TRAINING: _SEACO_TRAINING},
            _BRANCH: {
                UNUSED: (*plain.WITHOUT_EFFECT["decoder_conf"][UNUSED], "num_blocks"),
                OF_TRAINING: ("self_attention_dropout_rate",),
            },
        },
        has_inner_dim=True,
    ),
    "ContextualParaformer": Variant(
        "contextual",
        {"CifPredictorV2": "conv"},
        classes={"decoder": "ContextualParaformerDecoder"},
        fixed=(("model_conf", "bias_encoder_type", "lstm", "lstm"), ("model_conf", "use_decoder_embedding", False, False)),
        without_effect={"model_conf": {OF_TRAINING: _CONTEXTUAL_TRAINING}},
        has_inner_dim=True,
        not_written=(("decoder_conf", "wo_input_layer"),),
    ),
}
"""FunASR's class, `model` in its config → what is particular to it."""

CLASSES = {variant.name: model for model, variant in VARIANTS.items()}
"""Our `model.name` → FunASR's class."""
