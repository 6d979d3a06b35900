"""Every setting of a run, with its type, range, default and meaning.

A config file is YAML with the sections below; a setting that it leaves out has the default given here.
`asr.config.parsing` refuses unknown keys, wrong types and values out of range, `asr.config.rules` contradictory
settings. None of them imports jax or numpy: a mistake in a config is reported in well under a second.
"""

import dataclasses
from typing import Literal

from asr.config.fields import section, setting
from asr.config.hotword_models import SeacoConfig, TimestampsConfig
from asr.config.sense_voice import SenseVoiceConfig
from asr.config.streaming import StreamingConfig
from asr.config.toy import ToyConfig
from asr.config.voice_activity import FsmnSizes, SpeechLabelsConfig


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """From sound to the encoder's input frames: filterbank, stacking, normalisation."""

    sample_rate_hz: int = setting(16000, "sample rate in Hz; sound at other rates is resampled", 4000, 48000)
    num_mels: int = setting(80, "mel filters", 4, 256)
    frame_length_ms: float = setting(25.0, "length of the analysis window, in ms", 1, 200)
    frame_shift_ms: float = setting(10.0, "hop between two windows, in ms", 1, 200)
    window: Literal["hamming", "hann", "povey"] = setting("hamming", "shape of the analysis window")
    low_frequency_hz: float = setting(20.0, "lower edge of the lowest filter, in Hz", 0, 24000)
    high_frequency_hz: float = setting(0.0, "upper edge of the highest filter; 0: half the sample rate", 0, 24000)
    preemphasis: float = setting(0.97, "pre-emphasis coefficient", 0, 1)
    dither: float = setting(0.0, "standard deviation of the noise added in training, in 16-bit steps", 0, 1000)
    lfr_m: int = setting(7, "frames stacked into one (low frame rate, LFR)", 1, 31)
    lfr_n: int = setting(6, "frames between the starts of two stacks", 1, 31)
    utterance_mean: bool = setting(
        False, "subtract each utterance's mean of every mel filter: its level and microphone no longer matter"
    )
    cmvn: Literal["dataset", "file", "none", "init"] = setting(
        "dataset",
        "mean and variance normalisation: dataset: from the training split; file: Kaldi's; init: the initial model's",
    )
    cmvn_file: str = setting("", "statistics for cmvn: file, in Kaldi's text format (am.mvn)")

    @property
    def input_dim(self) -> int:
        """Width of one stacked frame."""
        return self.num_mels * self.lfr_m

    @property
    def output_shift_ms(self) -> float:
        """Time from one stacked frame to the next, in ms."""
        return self.frame_shift_ms * self.lfr_n


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The acoustic encoder. The defaults are those of paraformer-large."""

    kind: Literal["sanm", "conformer", "conv"] = setting("sanm", "kind of encoder block")
    num_layers: int = setting(50, "number of blocks", 1, 200)
    width: int = setting(512, "model width, also of the decoder", 4, 4096)
    num_heads: int = setting(4, "attention heads; must divide the width", 1, 64)
    ffn_width: int = setting(2048, "width of the feed-forward network", 4, 16384)
    kernel_size: int = setting(11, "kernel size of the memory or convolution, in frames; odd", 1, 127)
    dropout: float = setting(0.1, "dropout rate after each sublayer", 0, 0.9)
    attention_dropout: float = setting(0.0, "dropout rate on attention weights; explicit attention only", 0, 0.9)
    input_dropout: float = setting(0.0, "dropout rate on the input, after position encoding", 0, 0.9)
    position: Literal["sincos", "none"] = setting("sincos", "position encoding")
    causal: bool = setting(False, "hide later frames from attention and memory")
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of attention")
    scan: bool = setting(False, "compile one block for all layers (lax.scan): faster compilation of deep encoders")


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """The continuous integrate-and-fire predictor."""

    kind: Literal["conv", "depthwise"] = setting("conv", "full convolution (CIF V2), or depthwise with a residual (V1)")
    left_frames: int = setting(1, "context of the convolution before a frame, in frames", 0, 15)
    right_frames: int = setting(1, "context of the convolution after a frame, in frames", 0, 15)
    dropout: float = setting(0.1, "dropout rate after the convolution; depthwise only", 0, 0.9)
    smooth_factor: float = setting(1.0, "factor on the weights", 0.01, 10)
    noise_threshold: float = setting(0.0, "subtracted from the weights, which are then clipped at 0", 0, 0.9)
    tail_threshold: float = setting(
        0.45, "weight appended after the last frame in decoding; 0: none, the count is rounded", 0, 0.99
    )
    initial_bias: float = setting(0.0, "initial bias before the sigmoid; −1.5: one token per 5 frames", -10, 10)
    append_eos: bool = setting(True, "count the end of sentence as a token (predictor_bias 1)")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The parallel decoder. The defaults are those of paraformer-large."""

    num_layers: int = setting(16, "blocks with memory and cross-attention", 0, 100)
    num_memory_layers: int = setting(0, "further blocks with memory only", 0, 100)
    num_ffn_layers: int = setting(1, "feed-forward blocks at the end", 0, 100)
    num_heads: int = setting(4, "attention heads; must divide the encoder's width", 1, 64)
    ffn_width: int = setting(2048, "width of the feed-forward network", 4, 16384)
    kernel_size: int = setting(11, "kernel size of the memory, in tokens; odd", 1, 127)
    dropout: float = setting(0.1, "dropout rate after each sublayer", 0, 0.9)
    attention_dropout: float = setting(0.0, "dropout rate on attention weights; explicit attention only", 0, 0.9)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are paraformer-large, 220 million parameters with its 8,404 tokens."""

    name: Literal["paraformer", "streaming", "seaco", "contextual", "bicif", "sense_voice", "vad", "custom"] = setting(
        "paraformer", "architecture; seaco, contextual, bicif: published, not trained; custom: passed to asr.train"
    )
    vocab_size: int = setting(0, "number of tokens; 0: from the tokenizer", 0, 1_000_000)
    input_dim: int = setting(0, "width of an input frame; 0: num_mels · lfr_m", 0, 100_000)
    sampling_ratio: float = setting(0.75, "glancing sampler: share of wrong tokens revealed in training; 0: off", 0, 1)
    ctc_head: bool = setting(False, "add a CTC output to the encoder, trained with loss.ctc_weight")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "dtype of activations; parameters and sums are float32")
    remat: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    encoder: EncoderConfig = section(EncoderConfig)
    predictor: PredictorConfig = section(PredictorConfig)
    decoder: DecoderConfig = section(DecoderConfig)
    timestamps: TimestampsConfig = section(TimestampsConfig)
    seaco: SeacoConfig = section(SeacoConfig)
    sense_voice: SenseVoiceConfig = section(SenseVoiceConfig)
    streaming: StreamingConfig = section(StreamingConfig)
    vad: FsmnSizes = section(FsmnSizes)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training utterance. 0, or a single speed: off."""

    speeds: tuple[float, ...] = setting((1.0,), "playback speeds; one is drawn for each utterance and epoch", 0.5, 2)
    gain_db: float = setting(20.0, "largest change of the level up or down, in dB", 0, 40)
    noise_probability: float = setting(0.0, "probability of added white noise", 0, 1)
    noise_snr_db: tuple[float, float] = setting((15.0, 40.0), "range of the signal-to-noise ratio, in dB", -20, 100)
    max_mel_warp: float = setting(0.0, "largest stretch of the frequency axis, up or down: other vocal tracts", 0, 0.5)
    num_mel_masks: int = setting(0, "SpecAugment: number of frequency masks", 0, 10)
    max_mel_width: int = setting(10, "widest frequency mask, in mel filters", 0, 256)
    num_time_masks: int = setting(0, "SpecAugment: number of time masks", 0, 50)
    max_time_width: int = setting(20, "longest time mask, in frames before stacking", 0, 1000)
    max_time_share: float = setting(0.2, "longest time mask, as a share of the utterance", 0, 1)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set, and how its utterances are prepared."""

    dataset: Literal["toy_seq2seq", "jsonl", "kaldi", "tsv", "custom"] = setting(
        "toy_seq2seq", "kind of data set; custom: passed to asr.train as train_set and val_set"
    )
    root: str = setting("", "folder of the splits; relative paths of sound files start here")
    train_split: str = setting(
        "train",
        "jsonl: a file; kaldi: a folder with wav.scp and text; tsv: values of the column split, such as train+dev",
    )
    val_split: str = setting("val", "the same for validation")
    test_split: str = setting("test", "the same for the final test")
    tsv_file: str = setting("manifest.tsv", "tsv: table in the root with the columns path, text and split")
    min_seconds: float = setting(0.1, "shortest training utterance used, in seconds", 0, 60)
    channel: int = setting(0, "channel used, from 1; 0: the mean, or the loudest channel if they cancel", 0, 64)
    max_seconds: float = setting(30.0, "longest training utterance used, in seconds", 0.1, 3600)
    num_buckets: int = setting(4, "number of batch shapes; utterances of similar length share a shape", 1, 64)
    num_threads: int = setting(2, "threads that read and decode sound; 0: none, in the main thread", 0, 256)
    prefetch: int = setting(4, "batches prepared in advance", 1, 256)
    toy: ToyConfig = section(ToyConfig)
    speech_labels: SpeechLabelsConfig = section(SpeechLabelsConfig)
    augment: AugmentConfig = section(AugmentConfig)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The vocabulary."""

    kind: Literal["characters", "bpe", "file", "funasr", "init"] = setting(
        "characters",
        "units; file: a list, one token per line or JSON; funasr: a published model's; init: the initial model's",
    )
    vocab_size: int = setting(200, "bpe: pieces to learn from the training texts", 8, 100_000)
    file: str = setting("", "kind file: the list of tokens; kind funasr: folder of the published model")
    text_case: Literal["keep", "lower", "upper"] = setting("keep", "case of the texts: keep, lower or upper")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training loss; each term is a sum over the batch, divided by the number of tokens or utterances."""

    name: Literal["paraformer", "custom"] = setting(
        "paraformer", "the terms below; custom: passed to asr.train as loss"
    )
    label_smoothing: float = setting(0.1, "share of the target spread over the vocabulary", 0, 0.9)
    quantity_weight: float = setting(1.0, "weight of the quantity loss |N − Σ alpha|", 0, 100)
    ctc_weight: float = setting(0.0, "weight w of the CTC loss; the cross-entropy has 1 − w", 0, 1)
    normaliser: Literal["tokens", "utterances"] = setting(
        "tokens", "divisor of the sums; FunASR: tokens with length_normalized_loss, else utterances"
    )
    ctc_normaliser: Literal["tokens", "utterances"] = setting("tokens", "divisor of the CTC loss; FunASR: utterances")
    mwer_weight: float = setting(0.0, "weight of the minimum word error rate loss, for fine-tuning", 0, 100)
    mwer_candidates: int = setting(4, "hypotheses per utterance, drawn by masking its best tokens", 2, 64)
    mwer_mask_share: float = setting(0.2, "share of tokens that a hypothesis replaces by the second best", 0, 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated. Norms and biases have no weight decay."""

    learning_rate: float = setting(1e-3, "peak learning rate", 1e-9, 100)
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = setting("cosine", "learning-rate decay after the warm-up")
    warmup_fraction: float = setting(0.05, "share of the steps in which the learning rate rises linearly", 0, 1)
    weight_decay: float = setting(1e-2, "decoupled decay (AdamW)", 0, 10)
    b1: float = setting(0.9, "decay of the first moment", 0, 0.9999)
    b2: float = setting(0.98, "decay of the second moment", 0, 0.99999)
    clip_norm: float = setting(1.0, "clip gradients to this global norm; 0: off", 0)
    freeze: tuple[str, ...] = setting((), "prefixes of the parameters to freeze; `*` matches within one component")
    rate_factors: dict[str, float] = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "prefix of parameters → factor on their learning rate; the longest prefix wins"},
    )
    layer_decay: float = setting(1.0, "learning-rate factor per encoder block towards the sound; 1: off", 0.01, 1)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, its evaluations and checkpoints."""

    batch_seconds: float = setting(60.0, "seconds of sound per update, with padding, over all devices", 0.1)
    accumulate: int = setting(1, "equal parts of a batch, computed one after another (gradient accumulation)", 1, 1024)
    num_epochs: int = setting(20, "passes over the training data", 1)
    eval_every_epochs: int = setting(1, "epochs between evaluations; each saves a checkpoint", 1)
    log_every_steps: int = setting(10, "steps between log lines", 1)
    ema_decay: float = setting(0.0, "decay of the averaged weights used for evaluation; 0: off", 0, 0.99999)
    early_stop: int = setting(0, "stop after this many evaluations without a lower error rate; 0: never", 0)
    select_by: Literal["auto", "wer", "cer", "ter"] = setting(
        "auto",
        "error rate that selects the best checkpoint: of words, characters or tokens; auto: characters for texts "
        "without spaces between words, such as Chinese, else words",
    )
    keep_checkpoints: int = setting(2, "number of newest checkpoints kept", 1, 1000)
    keep_best: int = setting(1, "number of best checkpoints kept, for averaging", 1, 1000)
    num_sample_pictures: int = setting(2, "validation utterances whose alignment is drawn at each evaluation", 0, 64)
    row_multiple: int = setting(0, "rows of a batch are a multiple of this; 0: of the number of devices", 0)
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop", "stop: end the run at a NaN or infinite loss or gradient; skip: leave that step out"
    )
    watchdog_minutes: float = setting(30.0, "minutes without a step, batch or checkpoint until abort; 0: never", 0)
    tensorboard: bool = setting(False, "write TensorBoard files (needs the extra `tensorboard`)")
    keep_freed: bool = setting(
        False, "CPU: keep the memory that a step frees for the next one: faster, but up to twice the memory"
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged: data · fsdp devices."""

    data: int = setting(0, "number of copies of the state, each with its part of a batch; 0: all devices / fsdp", 0)
    fsdp: int = setting(1, "devices over which a copy of parameters and moments is sharded", 1)


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How sound of any length is transcribed."""

    decoder: Literal["cif", "ctc", "ctc_beam"] = setting("cif", "parallel decoder, or CTC: greedy or beam search")
    batch_size: int = setting(8, "segments per batch", 1, 1024)
    dtype: Literal["model", "auto", "float32", "bfloat16", "int8"] = setting("model", "precision; model: model.dtype")
    max_segment_s: float | None = setting(None, "longest segment after splitting, in s; null: from trained_s", 1, 120)
    trained_s: tuple[float, float, float] = setting(
        (0.0, 0.0, 0.0),
        "durations of the training utterances in seconds, as augmented: median, 95th percentile, maximum; 0: unknown",
        0,
    )
    whole_up_to_s: float = setting(0.0, "sound up to this many seconds is neither split nor trimmed", 0, 120)
    min_silence_s: float = setting(0.3, "shortest silence at which sound is split, in seconds", 0.05, 10)
    silence_db: float = setting(40.0, "silence is this many dB below the loudest frames nearby", 5, 100)
    hotword_weight: float = setting(1.5, "bonus per token of a hot word, in nats; 0: ignore hot words", 0, 100)
    hotword_candidates: int = setting(8, "tokens tried at a position, of all and of those in hot words", 1, 1000)
    hotword_scale: float = setting(1.0, "seaco, contextual: strength of hot words; see docs/hotwords.md", 0, 10)
    beam_size: int = setting(10, "paths kept with hot words, or prefixes kept by ctc_beam", 1, 1000)
    language_model: str = setting("", "ctc_beam: n-gram model in ARPA format")
    language_model_weight: float = setting(0.5, "ctc_beam: factor on the language model's log probabilities", 0, 10)
    length_bonus: float = setting(0.0, "ctc_beam: bonus per token or word", -10, 10)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    name: str = setting("run", "part of the name of the run directory")
    seed: int = setting(0, "seed of initialisation, data order, augmentation and dropout", 0, 2**31 - 1)
    runs_dir: str = setting("runs", "folder for run directories")
    init: str = setting("", "model folder or run directory to take initial weights from; empty: random weights")
    features: FeaturesConfig = section(FeaturesConfig)
    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    loss: LossConfig = section(LossConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    training: TrainingConfig = section(TrainingConfig)
    mesh: MeshConfig = section(MeshConfig)
    inference: InferenceConfig = section(InferenceConfig)
