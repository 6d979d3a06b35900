"""Names and layouts: our arrays of each model that FunASR publishes, and its tensors with the same values."""

from asr.config import ModelConfig
from asr.models import seaco
from asr.published.mapping import AS_IS, LINEAR, Layout, Pair

DEPTHWISE = Layout(lambda w_o1k: w_o1k[:, 0].T, lambda w_ko: w_ko.T[:, None])
"""`Conv1d.weight` of torch with one group for each channel: output channels o, kernel taps k."""

CONV1D = Layout(lambda w_oik: w_oik.transpose(2, 1, 0), lambda w_kio: w_kio.transpose(2, 1, 0))
"""`Conv1d.weight` of torch."""

TRANSPOSED_CONV1D = Layout(lambda w_iok: w_iok.transpose(2, 0, 1), lambda w_kio: w_kio.transpose(1, 2, 0))
"""`ConvTranspose1d.weight` of torch."""

POINTWISE = Layout(lambda w_oi1: w_oi1[..., 0].T, lambda w_io: w_io.T[..., None])
"""`Conv1d.weight` of torch with a kernel of one tap."""

CTC_HEAD = "ctc.ctc_lo"  # prefix of the tensors of the CTC head
EMBEDDING = "decoder.embed.0.weight"  # of the tokens


def funasr_pairs(config: ModelConfig) -> list[Pair]:
    """Return every array of an unrolled model with FunASR's tensor of the same values."""
    decoder = config.decoder
    pairs = _norm("encoder/norm", "encoder.after_norm")
    for number in range(config.encoder.num_layers):
        theirs = f"encoder.encoders.{number - 1}" if number else "encoder.encoders0.0"
        pairs += _encoder_block(f"encoder/block{number}", theirs)
    if config.name == "sense_voice":
        return pairs + _of_sense_voice(config)
    pairs += _predictor(config.predictor.kind)
    pairs += [_pair("decoder/embedding", EMBEDDING)]
    is_contextual = config.name == "contextual"  # the last block goes by a name of its own
    for number in range(decoder.num_layers - is_contextual):
        pairs += _decoder_block(f"decoder/block{number}", f"decoder.decoders.{number}", attends=True)
    for number in range(decoder.num_memory_layers):
        pairs += _decoder_block(f"decoder/memory_block{number}", f"decoder.decoders2.{number}", attends=False)
    for number in range(decoder.num_ffn_layers):
        ours, theirs = f"decoder/ffn_block{number}", f"decoder.decoders3.{number}"
        pairs += _norm(f"{ours}/norm1", f"{theirs}.norm1") + _decoder_ffn(ours, theirs)
    pairs += _norm("decoder/norm", "decoder.after_norm") + _dense("decoder/output", "decoder.output_layer")
    pairs += _timestamps() if config.name in ("seaco", "bicif") else []
    pairs += {"seaco": _seaco, "contextual": _contextual}.get(config.name, list)()
    return pairs + (_dense("ctc", CTC_HEAD) if config.ctc_head else [])


def _of_sense_voice(config: ModelConfig) -> list[Pair]:
    """Return the pairs behind the encoder's first stack."""
    pairs = [_pair("queries", "embed.weight"), *_norm("encoder/late_norm", "encoder.tp_norm"), *_dense("ctc", CTC_HEAD)]
    for number in range(config.sense_voice.num_late_layers):
        pairs += _encoder_block(f"encoder/late_block{number}", f"encoder.tp_encoders.{number}")
    return pairs


def _encoder_block(ours: str, theirs: str) -> list[Pair]:
    return [
        *_norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_dense(f"{ours}/qkv", f"{theirs}.self_attn.linear_q_k_v"),
        _pair(f"{ours}/memory/kernel", f"{theirs}.self_attn.fsmn_block.weight", DEPTHWISE),
        *_dense(f"{ours}/out", f"{theirs}.self_attn.linear_out"),
        *_norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *_dense(f"{ours}/ffn/expand", f"{theirs}.feed_forward.w_1"),
        *_dense(f"{ours}/ffn/contract", f"{theirs}.feed_forward.w_2"),
    ]


def _predictor(kind: str) -> list[Pair]:
    layout = CONV1D if kind == "conv" else DEPTHWISE
    return [
        _pair("predictor/conv_kernel", "predictor.cif_conv1d.weight", layout),
        _pair("predictor/conv_bias", "predictor.cif_conv1d.bias"),
        *_dense("predictor", "predictor.cif_output"),
    ]


def _decoder_block(ours: str, theirs: str, *, attends: bool) -> list[Pair]:
    pairs = [
        *_norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_decoder_ffn(ours, theirs),
        *_norm(f"{ours}/norm2", f"{theirs}.norm2"),
        _pair(f"{ours}/memory/kernel", f"{theirs}.self_attn.fsmn_block.weight", DEPTHWISE),
    ]
    if not attends:
        return pairs
    return [
        *pairs,
        *_norm(f"{ours}/norm3", f"{theirs}.norm3"),
        *_dense(f"{ours}/q", f"{theirs}.src_attn.linear_q"),
        *_dense(f"{ours}/kv", f"{theirs}.src_attn.linear_k_v"),
        *_dense(f"{ours}/out", f"{theirs}.src_attn.linear_out"),
    ]


def _timestamps() -> list[Pair]:
    """Return the pairs of the second head of the predictor."""
    theirs = "predictor.blstm"
    return [
        _pair("timestamps/conv_kernel", "predictor.upsample_cnn.weight", TRANSPOSED_CONV1D),
        _pair("timestamps/conv_bias", "predictor.upsample_cnn.bias"),
        *_lstm("timestamps/forward", theirs, "l0"),
        *_lstm("timestamps/backward", theirs, "l0_reverse"),
        _pair("timestamps/output_kernel", "predictor.cif_output2.weight", LINEAR),
        _pair("timestamps/output_bias", "predictor.cif_output2.bias"),
    ]


def _seaco() -> list[Pair]:
    """Return the pairs of the branch that compares tokens with hot words."""
    ours, theirs = "hotword_decoder", "seaco_decoder"
    pairs = _dense("hotword_output", "hotword_output_layer") + _norm(f"{ours}/norm", f"{theirs}.after_norm")
    for number in range(seaco.NUM_ENCODER_LAYERS):
        pairs += _lstm(f"hotword_encoder/layer{number}", "bias_encoder", f"l{number}")
    for number in range(seaco.NUM_BLOCKS):
        pairs += _decoder_block(f"{ours}/block{number}", f"{theirs}.decoders.{number}", attends=True)
    ours, theirs = f"{ours}/ffn_block0", f"{theirs}.decoders3.0"
    return pairs + _norm(f"{ours}/norm1", f"{theirs}.norm1") + _decoder_ffn(ours, theirs)


def _contextual() -> list[Pair]:
    """Return the pairs of the last block, whose attention to hot words has names of its own."""
    ours, theirs = "decoder/last_block", "decoder.bias_decoder"
    return [
        *_decoder_block(ours, "decoder.last_decoder", attends=True),
        *_norm(f"{ours}/hotword_norm", f"{theirs}.norm3"),
        *_dense(f"{ours}/hotword_q", f"{theirs}.src_attn.linear_q"),
        *_dense(f"{ours}/hotword_kv", f"{theirs}.src_attn.linear_k_v"),
        *_dense(f"{ours}/hotword_out", f"{theirs}.src_attn.linear_out"),
        _pair(f"{ours}/mix/kernel", "decoder.bias_output.weight", POINTWISE),
        _pair("hotword_embedding", "bias_embed.weight"),
        *_lstm("hotword_encoder/layer0", "bias_encoder", "l0"),
    ]


def _lstm(ours: str, theirs: str, layer: str) -> list[Pair]:
    return [
        _pair(f"{ours}/input_kernel", f"{theirs}.weight_ih_{layer}", LINEAR),
        _pair(f"{ours}/state_kernel", f"{theirs}.weight_hh_{layer}", LINEAR),
        _pair(f"{ours}/input_bias", f"{theirs}.bias_ih_{layer}"),
        _pair(f"{ours}/state_bias", f"{theirs}.bias_hh_{layer}"),
    ]


def _decoder_ffn(ours: str, theirs: str) -> list[Pair]:
    """Return the pairs of the decoder's feed-forward network: a norm inside, and no second bias."""
    return [
        *_dense(f"{ours}/ffn/expand", f"{theirs}.feed_forward.w_1"),
        *_norm(f"{ours}/ffn/norm", f"{theirs}.feed_forward.norm"),
        _pair(f"{ours}/ffn/contract/kernel", f"{theirs}.feed_forward.w_2.weight", LINEAR),
    ]


def _dense(ours: str, theirs: str) -> list[Pair]:
    return [_pair(f"{ours}/kernel", f"{theirs}.weight", LINEAR), _pair(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Pair]:
    return [_pair(f"{ours}/scale", f"{theirs}.weight"), _pair(f"{ours}/bias", f"{theirs}.bias")]


def _pair(ours: str, theirs: str, layout: Layout = AS_IS) -> Pair:
    return Pair(f"params/{ours}", theirs, layout)
