"""FunASR's settings beside ours: the table that `funasr_config` reads in both directions."""

from typing import Any, NamedTuple

PREDICTORS = {"CifPredictorV2": "conv", "CifPredictor": "depthwise"}
TOKENIZERS = ("CharTokenizer", "SentencepiecesTokenizer")


class Setting(NamedTuple):
    """One setting under both names."""

    section: str  # in FunASR's file
    key: str  # in that section
    ours: str  # path in `asr.config.Config`
    default: Any  # FunASR's, if the file does not state the setting


SETTINGS = (
    Setting("model_conf", "ctc_weight", "loss.ctc_weight", 0.5),
    Setting("model_conf", "lsm_weight", "loss.label_smoothing", 0.0),
    Setting("model_conf", "predictor_weight", "loss.quantity_weight", 0.0),
    Setting("model_conf", "length_normalized_loss", "loss.normaliser", False),
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
    Setting("frontend_conf", "dither", "features.dither", 1.0),
    Setting("frontend_conf", "lfr_m", "features.lfr_m", 1),
    Setting("frontend_conf", "lfr_n", "features.lfr_n", 1),
)
"""Settings of both sides. A default of None: FunASR has none, or (tail_threshold) one for each kind of predictor."""

WINDOWS = {"hanning": "hann"}  # analysis windows with a different name here
NORMALISERS = {False: "utterances", True: "tokens"}  # `length_normalized_loss` → divisor of the losses
TAIL_DEFAULTS = {"CifPredictorV3": 0.0, "CifPredictorV2": 0.0, "CifPredictor": 0.45}

FIXED = (
    ("", "model", "Paraformer"),
    ("", "encoder", "SANMEncoder"),
    ("", "decoder", "ParaformerSANMDecoder"),
    ("", "frontend", "WavFrontend"),
    ("", "normalize", None),
    ("model_conf", "share_embedding", False),
    ("model_conf", "use_1st_decoder_loss", False),
    ("model_conf", "ignore_id", -1),
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
    ("tokenizer_conf", "unk_symbol", "<unk>"),
    ("tokenizer_conf", "non_linguistic_symbols", None),
    ("ctc_conf", "ctc_type", "builtin"),
    ("ctc_conf", "reduce", True),
    ("ctc_conf", "extra_linear", True),
)
"""(section, key, value): another value would change the transcripts, the features or the loss. All keys but the five
classes may be absent."""

UNUSED, OF_TRAINING, OF_PROGRAM = "unused", "training", "program"

WITHOUT_EFFECT = {
    "": {
        OF_TRAINING: (
            *("specaug", "specaug_conf", "optim", "optim_conf", "scheduler", "scheduler_conf", "dataset"),
            *("dataset_conf", "train_conf", "train_data_set_list", "valid_data_set_list", "freeze_param"),
            *("lora_only", "lora_bias", "use_fsdp", "use_ddp", "use_deepspeed", "deepspeed_config", "debug"),
        ),
        OF_PROGRAM: (
            *("output_dir", "device", "seed", "batch_size", "batch_type", "num_workers", "ncpu", "ngpu"),
            *("log_level", "log_interval", "disable_log", "disable_pbar", "disable_update", "check_latest", "backend"),
            *("hub", "model_path", "model_revision", "is_training", "trust_remote_code", "vocab_size", "input_size"),
            *("cudnn_enabled", "cudnn_benchmark", "cudnn_deterministic", "enable_tf32", "framework", "task", "version"),
        ),
    },
    "model_conf": {},
    "encoder_conf": {
        UNUSED: (
            *("positional_dropout_rate", "pos_enc_class", "padding_idx", "positionwise_conv_kernel_size"),
            *("interctc_use_conditioning", "lora_rank", "lora_alpha", "lora_dropout"),
            *("tf2torch_tensor_name_prefix_torch", "tf2torch_tensor_name_prefix_tf"),
        )
    },
    "decoder_conf": {
        UNUSED: (
            *("positional_dropout_rate", "lora_rank", "lora_alpha", "lora_dropout"),
            *("chunk_multiply_factor", "tf2torch_tensor_name_prefix_torch", "tf2torch_tensor_name_prefix_tf"),
        ),
        OF_TRAINING: ("self_attention_dropout_rate",),
    },
    "predictor_conf": {UNUSED: ("tail_mask", "tf2torch_tensor_name_prefix_torch", "tf2torch_tensor_name_prefix_tf")},
    "frontend_conf": {UNUSED: ("filter_length_min", "filter_length_max")},
    "tokenizer_conf": {UNUSED: ("split_with_space", "space_symbol", "remove_non_linguistic_symbols")},
    "ctc_conf": {OF_TRAINING: ("dropout_rate", "ignore_nan_grad")},
}
"""Section → keys without effect on the transcripts. "unused": FunASR does not use them in a model of these classes.
"training": how it trained. "program": where and how its programs ran. docs/published_models.md gives the reasons."""

READ_ELSEWHERE = {
    "": ("predictor", "tokenizer", "init_param", "normalize_conf", *WITHOUT_EFFECT),
    "decoder_conf": ("num_blocks",),
    "predictor_conf": ("idim",),
    "frontend_conf": ("cmvn_file",),
    "tokenizer_conf": ("token_list", "seg_dict", "seg_dict_file", "bpemodel"),
}
"""Section → keys that are read or checked outside of the table."""

OTHER_MODELS = {
    "EParaformer": "E-Paraformer",
    "Conformer": "Conformer, which writes token after token",
    "Transformer": "Transformer, which writes token after token",
    "UniASR": "UniASR",
    "CTTransformer": "CT-Transformer, which adds punctuation to text",
    "CTTransformerStreaming": "CT-Transformer, which adds punctuation to text",
    "CAMPPlus": "CAM++, which tells speakers apart",
    "MonotonicAligner": "an aligner of times",
}
"""FunASR's name of other models → how a message describes them."""

PLAIN_MODEL = "iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"
"""ModelScope's name of the plain large model."""
