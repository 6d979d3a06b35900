"""The names of FunASR's settings and of ours, side by side: the table that `funasr_config` reads in both directions."""

from typing import Any, NamedTuple

PREDICTORS = {"CifPredictorV2": "conv", "CifPredictor": "depthwise"}


class Setting(NamedTuple):
    """One setting under both names.

    Attributes:
        section: in FunASR's file.
        key: in that section.
        ours: path in `asr.config.Config`.
        default: FunASR's, where the file says nothing.
    """

    section: str
    key: str
    ours: str
    default: Any


SETTINGS = (
    Setting("model_conf", "ctc_weight", "loss.ctc_weight", 0.5),
    Setting("model_conf", "lsm_weight", "loss.label_smoothing", 0.0),
    Setting("model_conf", "predictor_weight", "loss.quantity_weight", 0.0),
    Setting("model_conf", "predictor_bias", "model.predictor.append_eos", 0),
    Setting("model_conf", "sampling_ratio", "model.sampling_ratio", 0.2),
    Setting("encoder_conf", "output_size", "model.encoder.width", 256),
    Setting("encoder_conf", "attention_heads", "model.encoder.num_heads", 4),
    Setting("encoder_conf", "linear_units", "model.encoder.ffn_width", 2048),
    Setting("encoder_conf", "num_blocks", "model.encoder.num_layers", 6),
    Setting("encoder_conf", "kernel_size", "model.encoder.kernel_size", 11),
    Setting("encoder_conf", "dropout_rate", "model.encoder.dropout", 0.1),
    Setting("encoder_conf", "attention_dropout_rate", "model.encoder.attention_dropout", 0.0),
    Setting("decoder_conf", "attention_heads", "model.decoder.num_heads", 4),
    Setting("decoder_conf", "linear_units", "model.decoder.ffn_width", 2048),
    Setting("decoder_conf", "att_layer_num", "model.decoder.num_layers", 6),
    Setting("decoder_conf", "kernel_size", "model.decoder.kernel_size", 21),
    Setting("decoder_conf", "dropout_rate", "model.decoder.dropout", 0.1),
    Setting("decoder_conf", "src_attention_dropout_rate", "model.decoder.attention_dropout", 0.0),
    Setting("predictor_conf", "l_order", "model.predictor.left_frames", None),
    Setting("predictor_conf", "r_order", "model.predictor.right_frames", None),
    Setting("predictor_conf", "dropout", "model.predictor.dropout", 0.1),
    Setting("predictor_conf", "smooth_factor", "model.predictor.smooth_factor", 1.0),
    Setting("predictor_conf", "noise_threshold", "model.predictor.noise_threshold", 0.0),
    Setting("predictor_conf", "tail_threshold", "model.predictor.tail_threshold", None),
    Setting("frontend_conf", "fs", "features.sample_rate_hz", 16000),
    Setting("frontend_conf", "n_mels", "features.num_mels", 80),
    Setting("frontend_conf", "window", "features.window", "hamming"),
    Setting("frontend_conf", "frame_length", "features.frame_length_ms", 25),
    Setting("frontend_conf", "frame_shift", "features.frame_shift_ms", 10),
    Setting("frontend_conf", "lfr_m", "features.lfr_m", 1),
    Setting("frontend_conf", "lfr_n", "features.lfr_n", 1),
)
"""What both sides have. A default of None: FunASR has none, or (tail_threshold) one for each kind of predictor."""

WINDOWS = {"hanning": "hann"}
"""Analysis windows that have another name here."""

TAIL_DEFAULTS = {"CifPredictorV2": 0.0, "CifPredictor": 0.45}

FIXED = (
    ("", "model", "Paraformer"),
    ("", "encoder", "SANMEncoder"),
    ("", "decoder", "ParaformerSANMDecoder"),
    ("", "frontend", "WavFrontend"),
    ("", "tokenizer", "CharTokenizer"),
    ("model_conf", "share_embedding", False),
    ("model_conf", "length_normalized_loss", True),
    ("model_conf", "use_1st_decoder_loss", False),
    ("model_conf", "blank_id", 0),
    ("model_conf", "sos", 1),
    ("model_conf", "eos", 2),
    ("encoder_conf", "input_layer", "pe"),
    ("encoder_conf", "normalize_before", True),
    ("encoder_conf", "concat_after", False),
    ("encoder_conf", "positionwise_layer_type", "linear"),
    ("encoder_conf", "selfattention_layer_type", "sanm"),
    ("encoder_conf", "interctc_layer_idx", []),
    ("encoder_conf", "sanm_shfit", 0),
    ("encoder_conf", "lora_list", None),
    ("decoder_conf", "input_layer", "embed"),
    ("decoder_conf", "use_output_layer", True),
    ("decoder_conf", "wo_input_layer", False),
    ("decoder_conf", "normalize_before", True),
    ("decoder_conf", "concat_after", False),
    ("decoder_conf", "sanm_shfit", 0),
    ("decoder_conf", "lora_list", None),
    ("predictor_conf", "threshold", 1.0),
    ("frontend_conf", "snip_edges", True),
    ("frontend_conf", "upsacle_samples", True),
)
"""(section, key, value): with any other value the network or its features would be others. All but those of the
section "" may be absent."""

WITHOUT_EFFECT = {
    "encoder_conf": {"positional_dropout_rate", "pos_enc_class"},
    "decoder_conf": {"num_blocks", "positional_dropout_rate", "self_attention_dropout_rate", "pos_enc_class"},
    "predictor_conf": {"idim", "tail_mask"},
    "frontend_conf": {"cmvn_file", "dither"},
}
"""Keys that are read elsewhere, or that change no answer."""

TRAINED_OTHERWISE = {"length_normalized_loss"}
"""Fixed settings that concern training alone: another value is no obstacle."""

ARITHMETIC_SECTIONS = ("encoder_conf", "decoder_conf", "predictor_conf")
"""Sections in which a key that is not known here might change the network."""
