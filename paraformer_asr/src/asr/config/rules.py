"""Refuses contradictory settings; `asr.config.parsing` has checked each one by itself."""

import json
from operator import attrgetter

from asr.config import (
    Config,
    FeaturesConfig,
    FsmnSizes,
    ModelConfig,
    SenseVoiceConfig,
    SpeechLabelsConfig,
    StreamingConfig,
)
from asr.config.voice_activity import FRAME_MS
from asr.errors import UserError

NEEDED_BY_VAD = {
    "features.frame_shift_ms": FRAME_MS,
    "features.lfr_n": 1,
    "features.utterance_mean": False,
    "model.ctc_head": False,
    "model.predictor.append_eos": False,
    "loss.label_smoothing": 0,
    "loss.mwer_weight": 0,
    "inference.dtype": "model",
}
"""Setting → its only value with model.name vad: a label every 10 ms, and the cross-entropy of the labels alone."""


def check_config(config: Config) -> None:
    """Refuse settings that contradict each other."""
    _check_features(config.features)
    _check_model(config.model, config.features)
    data = config.data
    if data.dataset not in ("toy_seq2seq", "custom") and not data.root:
        raise UserError("data.root: the folder of the data set is missing; give it as data.root=FOLDER")
    if data.min_seconds > data.max_seconds:
        raise UserError(f"data.min_seconds {data.min_seconds} is above data.max_seconds {data.max_seconds}")
    if not data.augment.speeds:
        raise UserError("data.augment.speeds: expected at least one speed; [1.0] changes nothing")
    if data.augment.noise_snr_db[0] > data.augment.noise_snr_db[1]:
        raise UserError(f"data.augment.noise_snr_db: expected [low, high], found {list(data.augment.noise_snr_db)}")
    if (config.tokenizer.kind in ("file", "funasr")) != bool(config.tokenizer.file):
        raise UserError("tokenizer.file is needed with, and only with, tokenizer.kind: file or funasr")
    _check_init(config)
    _check_hotwords(config)
    if config.loss.ctc_weight and not config.model.ctc_head:
        raise UserError(
            f"loss.ctc_weight is {config.loss.ctc_weight:g}, but the model has no CTC head: set model.ctc_head: true, "
            "or loss.ctc_weight: 0"
        )
    if config.model.ctc_head and not config.loss.ctc_weight:
        raise UserError(
            "model.ctc_head: nothing trains the head while loss.ctc_weight is 0: set loss.ctc_weight (0.3 is usual), "
            "or model.ctc_head: false"
        )
    _check_sense_voice(config)
    _check_vad(config)
    _check_streaming(config.model, config.features)
    if config.model.name == "custom" and config.inference.dtype != "model":
        raise UserError(f"inference.dtype: {config.inference.dtype} needs a model of this package; leave it out")
    if config.inference.decoder != "cif" and not config.model.ctc_head:
        raise UserError(f"inference.decoder: {config.inference.decoder} needs a model trained with model.ctc_head")


def check_trainable(model: ModelConfig, place: str) -> None:
    """Refuse the published networks with parts that no loss here would train; `place` begins the message."""
    if model.name in ("seaco", "contextual", "bicif", "sense_voice"):
        raise UserError(f"{place}: {model.name} is a published model to transcribe with; train model.name: paraformer")
    if model.name == "streaming" and model.streaming.compat != "none":
        raise UserError(
            f"{place}: training follows the arithmetic of model.streaming.compat=none, found "
            f"{model.streaming.compat}; leave it out"
        )


def _check_sense_voice(config: Config) -> None:
    model, encoder = config.model, config.model.encoder
    if model.name != "sense_voice":
        if model.sense_voice != SenseVoiceConfig():
            raise UserError(f"model.sense_voice: settings of model.name: sense_voice, but this model is {model.name}")
        return
    if (encoder.kind, encoder.position, encoder.causal, encoder.scan) != ("sanm", "sincos", False, False):
        raise UserError("model.name: sense_voice needs the encoder's kind sanm and position sincos, no causal, no scan")
    if not model.ctc_head or config.inference.decoder == "cif":
        raise UserError("model.name: sense_voice needs model.ctc_head: true and inference.decoder: ctc or ctc_beam")


def _check_vad(config: Config) -> None:
    if config.model.name != "vad":
        if (config.model.vad, config.data.speech_labels) != (FsmnSizes(), SpeechLabelsConfig()):
            expected = "model.vad, data.speech_labels: settings of model.name: vad"
            raise UserError(f"{expected}, but this model is {config.model.name}")
        return
    for key, needed in NEEDED_BY_VAD.items():
        if (value := attrgetter(key)(config)) != needed:
            raise UserError(f"{key}: model.name: vad needs {json.dumps(needed)}, found {json.dumps(value)}")


def _check_streaming(model: ModelConfig, features: FeaturesConfig) -> None:
    encoder, streaming = model.encoder, model.streaming
    if model.name != "streaming":
        if streaming != StreamingConfig():
            raise UserError(
                f"model.streaming: settings of model.name: streaming, but this model is {model.name}; "
                "model.streaming={} takes them back"
            )
        return
    if (encoder.kind, encoder.causal, encoder.scan) != ("sanm", False, False):
        raise UserError("model.name: streaming needs the encoder's kind sanm, no causal, no scan")
    if features.utterance_mean:
        raise UserError("features.utterance_mean: a stream has no mean before its end; not for model.name streaming")
    for chunk_size in (streaming.chunk_size, *streaming.training_chunks):
        streaming.with_chunks(chunk_size)


def _check_features(features: FeaturesConfig) -> None:
    nyquist_hz = features.sample_rate_hz / 2
    high_hz = features.high_frequency_hz or nyquist_hz
    if not features.low_frequency_hz < high_hz <= nyquist_hz:
        raise UserError(
            f"features: expected low_frequency_hz < high_frequency_hz ≤ {nyquist_hz:g} (half of sample_rate_hz), "
            f"found {features.low_frequency_hz:g} and {high_hz:g}"
        )
    if (features.cmvn == "file") != bool(features.cmvn_file):
        raise UserError("features.cmvn_file is needed with, and only with, features.cmvn: file")


def _check_hotwords(config: Config) -> None:
    model, branch = config.model, config.model.seaco
    if model.name != "seaco":
        return
    if model.encoder.width % branch.num_heads or branch.kernel_size % 2 == 0:
        raise UserError(
            f"model.seaco: expected num_heads that divide model.encoder.width {model.encoder.width} and an odd "
            f"kernel_size, found {branch.num_heads} and {branch.kernel_size}"
        )
    if model.vocab_size and branch.no_bias_id >= model.vocab_size:
        raise UserError(
            f"model.seaco.no_bias_id: expected one of the {model.vocab_size} tokens, found {branch.no_bias_id}"
        )
    if config.inference.hotword_scale > 1:
        raise UserError(
            f"inference.hotword_scale: with model.name seaco it is a share, 0 to 1, found "
            f"{config.inference.hotword_scale:g}"
        )


def _check_init(config: Config) -> None:
    for key, value in (("tokenizer.kind", config.tokenizer.kind), ("features.cmvn", config.features.cmvn)):
        if value == "init" and not config.init:
            raise UserError(f"{key}: init is that of the model that the run begins with; name it by init=FOLDER")
    for pattern, factor in config.optimizer.rate_factors.items():
        if not 0 < factor <= 1000:
            raise UserError(
                f"optimizer.rate_factors[{pattern}]: expected a factor above 0, at most 1000, found {factor:g}; "
                "optimizer.freeze keeps parameters as they are"
            )


def _check_model(model: ModelConfig, features: FeaturesConfig) -> None:
    encoder, decoder = model.encoder, model.decoder
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        if encoder.width % part.num_heads:
            raise UserError(
                f"model.{name}.num_heads {part.num_heads} does not divide model.encoder.width {encoder.width}"
            )
        if part.kernel_size % 2 == 0:
            raise UserError(f"model.{name}.kernel_size: expected an odd number, found {part.kernel_size}")
        if part.attention_dropout and encoder.attention != "explicit":
            raise UserError(f"model.{name}.attention_dropout needs model.encoder.attention: explicit")
    if decoder.num_layers + decoder.num_memory_layers + decoder.num_ffn_layers == 0:
        raise UserError("model.decoder: expected at least one layer of any kind")
    if model.input_dim not in (0, features.input_dim):
        raise UserError(
            f"model.input_dim is {model.input_dim}, but features.num_mels · features.lfr_m = {features.input_dim}"
        )
    # The SAN-M encoder adds the positions to its input as it is, the others to the model width.
    if encoder.position == "sincos" and encoder.kind == "sanm" and features.input_dim % 2 and model.name != "vad":
        raise UserError(
            f"model.encoder.position: sincos needs an even input width, num_mels · lfr_m = {features.input_dim}"
        )
    if encoder.position == "sincos" and encoder.kind != "sanm" and encoder.width % 2:
        raise UserError(f"model.encoder.position: sincos needs an even model.encoder.width, found {encoder.width}")
