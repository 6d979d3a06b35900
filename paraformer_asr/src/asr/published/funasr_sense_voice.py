"""FunASR's settings of SenseVoice beside ours, in the same tables as those of Paraformer in `funasr_settings`."""

from asr.published import funasr_settings as paraformer
from asr.published.funasr_settings import UNUSED, Setting

MODEL = "SenseVoiceSmall"

SETTINGS = (
    Setting("model_conf", "lsm_weight", "loss.label_smoothing", 0.0),
    Setting("model_conf", "length_normalized_loss", "loss.normaliser", False),
    Setting("encoder_conf", "output_size", "model.encoder.width", 256),
    Setting("encoder_conf", "attention_heads", "model.encoder.num_heads", 4),
    Setting("encoder_conf", "linear_units", "model.encoder.ffn_width", 2048),
    Setting("encoder_conf", "num_blocks", "model.encoder.num_layers", 6),
    Setting("encoder_conf", "tp_blocks", "model.sense_voice.num_late_layers", 0),
    Setting("encoder_conf", "kernel_size", "model.encoder.kernel_size", 11),
    Setting("encoder_conf", "dropout_rate", "model.encoder.dropout", 0.1),
    Setting("encoder_conf", "attention_dropout_rate", "model.encoder.attention_dropout", 0.0),
    *(setting for setting in paraformer.SETTINGS if setting.section == "frontend_conf"),
)

FIXED = (
    ("", "model", MODEL),
    ("", "encoder", "SenseVoiceEncoderSmall"),
    ("", "frontend", "WavFrontend"),
    ("", "tokenizer", "SentencepiecesTokenizer"),
    ("", "normalize", None),
    ("model_conf", "ignore_id", -1),
    ("model_conf", "blank_id", 0),
    ("model_conf", "sos", 1),
    ("model_conf", "eos", 2),
    ("encoder_conf", "normalize_before", True),
    ("encoder_conf", "concat_after", False),
    ("encoder_conf", "sanm_shfit", 0),
    *(fixed for fixed in paraformer.FIXED if fixed[0] in ("frontend_conf", "ctc_conf")),
)

WITHOUT_EFFECT = {
    "": paraformer.WITHOUT_EFFECT[""],
    "model_conf": {},
    "encoder_conf": {
        UNUSED: (
            *("input_layer", "pos_enc_class", "positional_dropout_rate", "padding_idx", "selfattention_layer_type"),
            *("positionwise_layer_type", "positionwise_conv_kernel_size", "stochastic_depth_rate"),
        )
    },
    **{section: paraformer.WITHOUT_EFFECT[section] for section in ("frontend_conf", "ctc_conf")},
    "tokenizer_conf": {
        UNUSED: ("unk_symbol", *paraformer.WITHOUT_EFFECT["tokenizer_conf"][UNUSED], "non_linguistic_symbols")
    },
}

READ_ELSEWHERE = {
    "": ("init_param", "normalize_conf", *WITHOUT_EFFECT),
    "frontend_conf": ("cmvn_file",),
    "tokenizer_conf": ("bpemodel", "token_list"),
}

CONSTANTS = {
    "model.name": "sense_voice",
    "model.ctc_head": True,
    "model.sampling_ratio": 0.0,
    "loss.ctc_weight": 1.0,
    "loss.ctc_normaliser": "utterances",
    "inference.decoder": "ctc",
}
"""Our settings that all these models share."""
