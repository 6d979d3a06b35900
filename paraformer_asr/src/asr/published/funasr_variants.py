"""The settings in which the other classes of FunASR's Paraformer differ from the plain one.

    Paraformer             plain
    BiCifParaformer        a second head of the predictor, for times
    SeacoParaformer        the same, and a branch for hot words
    ContextualParaformer   hot words in the last block of the decoder, no second head
    ParaformerStreaming    an encoder that hears chunks, and a decoder that hears no later tokens

Neither jax nor numpy is imported here, so that a mistake is answered in well under a second.
"""

from typing import Any, NamedTuple

from asr.published import funasr_settings as plain
from asr.published.funasr_settings import OF_TRAINING, UNUSED, Setting


class Table(NamedTuple):
    """The settings of one class, as `funasr_settings` has those of the plain one."""

    NAME: str  # our `model.name`
    PREDICTORS: dict[str, str]  # FunASR's class of the predictor → our `model.predictor.kind`
    SETTINGS: tuple[Setting, ...]
    FIXED: tuple[tuple[str, str, Any], ...]
    WITHOUT_EFFECT: dict[str, dict[str, tuple[str, ...]]]
    READ_ELSEWHERE: dict[str, tuple[str, ...]]
    ABSENT: dict[tuple[str, str], Any]  # fixed settings that must be stated, as FunASR's default is another value


INNER_DIM, INNER_DIM_DEFAULT = ("model_conf", "inner_dim"), 256
"""Width of the hot words, which must be the encoder's, and FunASR's default."""

_BRANCH = "seaco_decoder_conf"

_OF_TIMES = (
    Setting("predictor_conf", "smooth_factor2", "model.timestamps.smooth_factor", 1.0),
    Setting("predictor_conf", "noise_threshold2", "model.timestamps.noise_threshold", 0.0),
)
_OF_BRANCH = (
    Setting("model_conf", "NO_BIAS", "model.seaco.no_bias_id", 8377),
    Setting(_BRANCH, "attention_heads", "model.seaco.num_heads", 4),
    Setting(_BRANCH, "linear_units", "model.seaco.ffn_width", 2048),
    Setting(_BRANCH, "kernel_size", "model.seaco.kernel_size", 21),
    Setting(_BRANCH, "dropout_rate", "model.seaco.dropout", 0.1),
    Setting(_BRANCH, "src_attention_dropout_rate", "model.seaco.attention_dropout", 0.0),
)

_FIXED_OF_TIMES = (
    ("predictor_conf", "upsample_times", 3),
    ("predictor_conf", "upsample_type", "cnn_blstm"),
    ("predictor_conf", "use_cif1_cnn", False),
)
_FIXED_OF_BRANCH = (
    ("", "seaco_decoder", "ParaformerSANMDecoder"),
    ("model_conf", "bias_encoder_type", "lstm"),
    ("model_conf", "bias_encoder_bid", False),
    (_BRANCH, "att_layer_num", 6),
    (_BRANCH, "wo_input_layer", True),
    (_BRANCH, "use_output_layer", False),
    (_BRANCH, "normalize_before", True),
    (_BRANCH, "concat_after", False),
    (_BRANCH, "sanm_shfit", 0),
    (_BRANCH, "lora_list", None),
)
_ABSENT_OF_TIMES = {
    ("predictor_conf", "upsample_times"): 5,
    ("predictor_conf", "upsample_type"): "cnn",
    ("predictor_conf", "use_cif1_cnn"): True,
}
_ABSENT_OF_BRANCH = {(_BRANCH, "wo_input_layer"): False, (_BRANCH, "use_output_layer"): True}

_TRAINING_OF_BRANCH = (
    *("seaco_lsm_weight", "seaco_length_normal", "seaco_length_normalized_loss", "seaco_weight", "train_decoder"),
    "bias_encoder_dropout_rate",
)
_TRAINING_OF_CONTEXT = ("bias_encoder_dropout_rate", "target_buffer_length", "crit_attn_weight", "crit_attn_smooth")


def _fixed(model: str, *more: tuple[str, str, Any], **classes: str) -> tuple[tuple[str, str, Any], ...]:
    """Return the fixed settings of a class: those of the plain one, with other names of its parts, and more."""
    rows = ((section, key, classes.get(key, value)) for section, key, value in plain.FIXED)
    return tuple((*row[:2], model) if row[:2] == ("", "model") else row for row in rows) + more


BICIF = Table(
    NAME="bicif",
    PREDICTORS={"CifPredictorV3": "conv"},
    SETTINGS=plain.SETTINGS + _OF_TIMES,
    FIXED=_fixed("BiCifParaformer", *_FIXED_OF_TIMES),
    WITHOUT_EFFECT=plain.WITHOUT_EFFECT,
    READ_ELSEWHERE=plain.READ_ELSEWHERE,
    ABSENT=_ABSENT_OF_TIMES,
)

SEACO = Table(
    NAME="seaco",
    PREDICTORS=BICIF.PREDICTORS,
    SETTINGS=BICIF.SETTINGS + _OF_BRANCH,
    FIXED=_fixed("SeacoParaformer", *_FIXED_OF_TIMES, *_FIXED_OF_BRANCH),
    WITHOUT_EFFECT=plain.WITHOUT_EFFECT
    | {
        "model_conf": {OF_TRAINING: _TRAINING_OF_BRANCH},
        _BRANCH: {
            UNUSED: ("input_layer", "num_blocks", *plain.WITHOUT_EFFECT["decoder_conf"][UNUSED]),
            OF_TRAINING: ("self_attention_dropout_rate",),
        },
    },
    READ_ELSEWHERE=plain.READ_ELSEWHERE | {"": (*plain.READ_ELSEWHERE[""], _BRANCH), "model_conf": (INNER_DIM[1],)},
    ABSENT=_ABSENT_OF_TIMES | _ABSENT_OF_BRANCH,
)

CONTEXTUAL = Table(
    NAME="contextual",
    PREDICTORS={"CifPredictorV2": "conv"},
    SETTINGS=plain.SETTINGS,
    FIXED=tuple(
        row
        for row in _fixed(
            "ContextualParaformer",
            ("model_conf", "bias_encoder_type", "lstm"),
            ("model_conf", "use_decoder_embedding", False),
            decoder="ContextualParaformerDecoder",
        )
        if row[:2] not in (("decoder_conf", "wo_input_layer"), ("decoder_conf", "lora_list"))  # this class has neither
    ),
    WITHOUT_EFFECT=plain.WITHOUT_EFFECT | {"model_conf": {OF_TRAINING: _TRAINING_OF_CONTEXT}},
    READ_ELSEWHERE=plain.READ_ELSEWHERE | {"model_conf": (INNER_DIM[1],)},
    ABSENT={},
)

DECODER_SHIFT = ("decoder_conf", "sanm_shfit")
"""By how many tokens the decoder's memories are shifted to the past: half of a kernel in a model for streams."""

_CHUNKS = ("chunk_size", "stride", "pad_left", "encoder_att_look_back_factor", "decoder_att_look_back_factor")

STREAMING = Table(
    NAME="streaming",
    PREDICTORS={"CifPredictorV2": "conv"},
    SETTINGS=plain.SETTINGS,
    FIXED=tuple(
        ("encoder_conf", "input_layer", "pe_online") if row[:2] == ("encoder_conf", "input_layer") else row
        for row in _fixed("ParaformerStreaming", encoder="SANMEncoderChunkOpt", frontend="WavFrontendOnline")
        if row[:2] != DECODER_SHIFT
    ),
    WITHOUT_EFFECT=plain.WITHOUT_EFFECT
    | {"encoder_conf": plain.WITHOUT_EFFECT["encoder_conf"] | {OF_TRAINING: _CHUNKS}},
    READ_ELSEWHERE=plain.READ_ELSEWHERE | {"decoder_conf": (*plain.READ_ELSEWHERE["decoder_conf"], DECODER_SHIFT[1])},
    ABSENT={},
)

VARIANTS = {
    "BiCifParaformer": BICIF,
    "SeacoParaformer": SEACO,
    "ContextualParaformer": CONTEXTUAL,
    "ParaformerStreaming": STREAMING,
}
"""FunASR's class, `model` in its config → its table; `funasr_settings` itself is that of the plain one."""
