"""Every setting of a run, with its type, range, default and meaning, in one place.

A config file is YAML with the sections below; what it leaves out takes the default given here. The reader
(`asr.config.reader`) refuses unknown keys, wrong types and values outside the ranges; `asr.config.rules` refuses what
cannot go together. None of them imports jax or numpy, so that a mistake in a config is answered in well under a second.
"""

import dataclasses
from typing import Literal


def setting(default, meaning: str, low: float | None = None, high: float | None = None):
    """Return a dataclass field with its meaning and its inclusive range."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


def section(section_type: type):
    """Return a dataclass field that holds another section with its defaults."""
    return dataclasses.field(default_factory=section_type, metadata={})


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """From sound to the frames that the encoder sees: filterbank, stacking, normalisation."""

    sample_rate_hz: int = setting(16000, "sound of any other rate is resampled to it", 4000, 48000)
    num_mels: int = setting(80, "mel filters", 4, 256)
    frame_length_ms: float = setting(25.0, "length of the analysis window", 1, 200)
    frame_shift_ms: float = setting(10.0, "distance of two windows", 1, 200)
    window: Literal["hamming", "hann", "povey"] = setting("hamming", "shape of the analysis window")
    low_frequency_hz: float = setting(20.0, "lower edge of the lowest filter", 0, 24000)
    high_frequency_hz: float = setting(0.0, "upper edge of the highest filter; 0: half the sample rate", 0, 24000)
    preemphasis: float = setting(0.97, "coefficient of the first difference before the transform", 0, 1)
    dither: float = setting(0.0, "standard deviation of added noise in training, in units of a 16-bit step", 0, 1000)
    lfr_m: int = setting(7, "frames stacked into one (low frame rate)", 1, 31)
    lfr_n: int = setting(6, "frames between two stacks", 1, 31)
    cmvn: Literal["dataset", "file", "none", "init"] = setting(
        "dataset", "mean and variance normalisation: of the training split, of a Kaldi file, none, of the model in init"
    )
    cmvn_file: str = setting("", "for cmvn: file, the statistics in Kaldi's text form (am.mvn)")

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

    kind: Literal["sanm", "conformer", "conv"] = setting("sanm", "blocks that the encoder is made of")
    num_layers: int = setting(50, "blocks", 1, 200)
    width: int = setting(512, "model width, of the decoder too", 4, 4096)
    num_heads: int = setting(4, "attention heads; must divide the width", 1, 64)
    ffn_width: int = setting(2048, "width of the feed-forward network", 4, 16384)
    kernel_size: int = setting(11, "frames that the memory or the convolution sees; odd", 1, 127)
    dropout: float = setting(0.1, "dropout rate after each sub-layer", 0, 0.9)
    attention_dropout: float = setting(0.0, "dropout rate on the attention weights; explicit attention only", 0, 0.9)
    input_dropout: float = setting(0.0, "dropout rate on the input after the positions", 0, 0.9)
    position: Literal["sincos", "none"] = setting("sincos", "encoding of the position in time")
    causal: bool = setting(False, "no frame sees a later one (attention and memory)")
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of the attention")
    scan: bool = setting(False, "one compiled block for all layers (lax.scan): short compilation of deep encoders")


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """The continuous integrate-and-fire predictor."""

    kind: Literal["conv", "depthwise"] = setting("conv", "full convolution (CIF V2), or depthwise with residual (V1)")
    left_frames: int = setting(1, "frames before the present one that the convolution sees", 0, 15)
    right_frames: int = setting(1, "frames after it", 0, 15)
    dropout: float = setting(0.1, "dropout rate after the convolution; depthwise only", 0, 0.9)
    smooth_factor: float = setting(1.0, "factor on the weights", 0.01, 10)
    noise_threshold: float = setting(0.0, "subtracted from the weights; what is left below 0 is 0", 0, 0.9)
    tail_threshold: float = setting(
        0.45, "weight added behind the last frame when decoding; 0: none, the count is rounded", 0, 0.99
    )
    initial_bias: float = setting(0.0, "start of the bias before the sigmoid; −1.5: one token in 5 frames", -10, 10)
    append_eos: bool = setting(True, "the end of sentence is a token of its own (predictor_bias 1)")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The parallel decoder. The defaults are those of paraformer-large."""

    num_layers: int = setting(16, "blocks with memory and cross attention", 0, 100)
    num_memory_layers: int = setting(0, "blocks with memory alone, after those", 0, 100)
    num_ffn_layers: int = setting(1, "feed-forward blocks at the end", 0, 100)
    num_heads: int = setting(4, "attention heads; must divide the encoder's width", 1, 64)
    ffn_width: int = setting(2048, "width of the feed-forward network", 4, 16384)
    kernel_size: int = setting(11, "tokens that the memory sees; odd", 1, 127)
    dropout: float = setting(0.1, "dropout rate after each sub-layer", 0, 0.9)
    attention_dropout: float = setting(0.0, "dropout rate on the attention weights; explicit attention only", 0, 0.9)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are paraformer-large, 220 million parameters with its 8,404 tokens."""

    name: Literal["paraformer"] = setting("paraformer", "architecture")
    vocab_size: int = setting(0, "0 takes it from the tokenizer", 0, 1_000_000)
    input_dim: int = setting(0, "width of an input frame; 0: num_mels · lfr_m", 0, 100_000)
    sampling_ratio: float = setting(0.75, "glancing sampler: share of the wrong tokens shown in training; 0: off", 0, 1)
    ctc_head: bool = setting(False, "a CTC output on the encoder, trained with loss.ctc_weight")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "compute dtype; parameters and sums are float32")
    remat: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    encoder: EncoderConfig = section(EncoderConfig)
    predictor: PredictorConfig = section(PredictorConfig)
    decoder: DecoderConfig = section(DecoderConfig)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training utterance. 0, or a single value, switches a change off."""

    speeds: tuple[float, ...] = setting((1.0,), "playing speeds, one is drawn for each utterance and epoch", 0.5, 2)
    gain_db: float = setting(20.0, "largest change of the level to either side", 0, 40)
    noise_probability: float = setting(0.0, "probability of added white noise", 0, 1)
    noise_snr_db: tuple[float, float] = setting((15.0, 40.0), "range of the signal-to-noise ratio", -20, 100)
    num_mel_masks: int = setting(0, "SpecAugment: bands of mel filters set to the mean", 0, 10)
    max_mel_width: int = setting(10, "widest band, in filters", 0, 256)
    num_time_masks: int = setting(0, "SpecAugment: stretches of time set to the mean", 0, 50)
    max_time_width: int = setting(20, "longest stretch, in frames before stacking", 0, 1000)
    max_time_share: float = setting(0.2, "longest stretch as a share of the utterance", 0, 1)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The generated speech: letters as pairs of gliding tones."""

    num_train: int = setting(512, "training utterances", 1)
    num_val: int = setting(64, "validation utterances", 1)
    num_test: int = setting(64, "test utterances", 1)
    num_letters: int = setting(10, "different letters", 2, 26)
    max_words: int = setting(3, "most words in one utterance", 1, 50)
    max_word_letters: int = setting(4, "most letters in one word", 1, 50)
    noise: float = setting(0.02, "standard deviation of the noise, 1 = full scale", 0, 1)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the utterances come from and how they reach the model."""

    dataset: Literal["toy_seq2seq", "jsonl", "kaldi", "tsv"] = setting("toy_seq2seq", "kind of data set")
    root: str = setting("", "folder that the splits, and relative paths of sound files, start from")
    train_split: str = setting(
        "train", "jsonl: a file; kaldi: a folder with wav.scp and text; tsv: values of its column split, as train+dev"
    )
    val_split: str = setting("val", "the same for validation")
    test_split: str = setting("test", "the same for the final test")
    tsv_file: str = setting("manifest.tsv", "tsv: the table in the root, with columns path, text and split")
    min_seconds: float = setting(0.1, "shorter training utterances are left out", 0, 60)
    channel: int = setting(0, "channel of the sound, from 1; 0: their mean, or the loudest where they cancel", 0, 64)
    max_seconds: float = setting(30.0, "longer training utterances are left out", 0.1, 3600)
    num_buckets: int = setting(4, "batch shapes: utterances of similar length are padded to one of so many", 1, 64)
    num_threads: int = setting(2, "threads that read and decode sound", 0, 256)
    prefetch: int = setting(4, "batches prepared ahead", 1, 256)
    toy: ToyConfig = section(ToyConfig)
    augment: AugmentConfig = section(AugmentConfig)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """What a token is."""

    kind: Literal["characters", "bpe", "file", "funasr", "init"] = setting(
        "characters", "units; file: one token a line, or a JSON list; funasr: of a published model; init: of that model"
    )
    vocab_size: int = setting(
        200, "bpe: pieces to learn from the training texts, special tokens not counted", 8, 100_000
    )
    file: str = setting("", "for kind: file, the list of tokens; for funasr, the folder of the published model")
    text_case: Literal["keep", "lower", "upper"] = setting("keep", "what is done to the texts first")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What training minimises; every term is a sum over the batch, divided by its number of tokens or of utterances."""

    label_smoothing: float = setting(0.1, "share of the target spread over the vocabulary", 0, 0.9)
    quantity_weight: float = setting(1.0, "weight of |token count − sum of the predictor's weights|", 0, 100)
    ctc_weight: float = setting(0.0, "weight w of the CTC loss; the cross entropy has 1 − w", 0, 1)
    normaliser: Literal["tokens", "utterances"] = setting(
        "tokens", "what the sums are divided by; FunASR: tokens with length_normalized_loss, else utterances"
    )
    ctc_normaliser: Literal["tokens", "utterances"] = setting(
        "tokens", "what the sum of the CTC loss is divided by; utterances, as in FunASR, gives it more weight"
    )
    mwer_weight: float = setting(0.0, "weight of the minimum word error rate loss, for fine-tuning", 0, 100)
    mwer_candidates: int = setting(4, "hypotheses of an utterance, drawn by masking its best tokens", 2, 64)
    mwer_mask_share: float = setting(0.2, "share of the tokens that a candidate replaces by the second best", 0, 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters follow the gradient. Weight decay spares norms and biases."""

    learning_rate: float = setting(1e-3, "peak learning rate", 1e-9, 100)
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = setting("cosine", "decay after the warm-up")
    warmup_fraction: float = setting(0.05, "share of the steps in which the rate rises linearly", 0, 1)
    weight_decay: float = setting(1e-2, "decoupled decay (AdamW)", 0, 10)
    b1: float = setting(0.9, "decay of the first moment", 0, 0.9999)
    b2: float = setting(0.98, "decay of the second moment", 0, 0.99999)
    clip_norm: float = setting(1.0, "largest global gradient norm; 0: not clipped", 0)
    freeze: tuple[str, ...] = setting((), "parameters that stay as they are, by the beginnings of their names")
    rate_factors: dict[str, float] = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "beginning of a name → factor on the learning rate; the longest one counts"},
    )
    layer_decay: float = setting(1.0, "factor on the rate for each encoder block towards the sound; 1: none", 0.01, 1)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and bookkeeping of a run."""

    batch_seconds: float = setting(60.0, "seconds of sound, padding counted, in one update over all devices", 0.1)
    accumulate: int = setting(1, "parts that a batch is computed in, one after the other", 1, 1024)
    num_epochs: int = setting(20, "passes over the training data", 1)
    eval_every_epochs: int = setting(1, "epochs between evaluations, each with a checkpoint", 1)
    log_every_steps: int = setting(10, "steps between log lines", 1)
    ema_decay: float = setting(0.0, "decay of the averaged weights used for evaluation; 0: none", 0, 0.99999)
    early_stop: int = setting(0, "evaluations without a lower error rate before stopping; 0: never", 0)
    select_by: Literal["auto", "wer", "cer", "ter"] = setting(
        "auto",
        "error rate of words, characters or tokens; lowest is best; auto: characters for texts without blanks "
        "between words, as Chinese, words for others",
    )
    keep_checkpoints: int = setting(2, "newest checkpoints kept", 1, 1000)
    keep_best: int = setting(1, "best checkpoints kept, for averaging", 1, 1000)
    num_sample_pictures: int = setting(2, "validation utterances whose alignment is drawn at each evaluation", 0, 64)
    row_multiple: int = setting(0, "rows of a batch are a multiple of it; 0: of the number of devices", 0)
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop", "a step whose loss or gradient is NaN or infinite ends the run, or is left out"
    )
    watchdog_minutes: float = setting(
        30.0, "so long without a completed step, evaluated batch or checkpoint, and the run ends; 0: never", 0
    )
    tensorboard: bool = setting(False, "write TensorBoard files (needs the extra 'tensorboard')")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged: data · fsdp of them."""

    data: int = setting(0, "groups that each hold the whole state; 0: as many as there are devices for", 0)
    fsdp: int = setting(1, "devices that parameters and moments are spread over", 1)


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How sound of any length is transcribed."""

    decoder: Literal["cif", "ctc", "ctc_beam"] = setting("cif", "parallel decoder, or the CTC head: greedy or beam")
    batch_size: int = setting(8, "segments computed at once", 1, 1024)
    max_segment_s: float | None = setting(
        None, "longer sound is split at its silences, at the latest here; null: as trained_s says", 1, 120
    )
    trained_s: tuple[float, float, float] = setting(
        (0.0, 0.0, 0.0),
        "lengths of the training utterances, as training saw them: median, 95 %, longest; 0: unknown",
        0,
    )
    whole_up_to_s: float = setting(0.0, "sound up to this length is neither split nor trimmed", 0, 120)
    min_silence_s: float = setting(0.3, "shortest silence that may split", 0.05, 10)
    silence_db: float = setting(40.0, "so far below the loudest frames of its surroundings is silence", 5, 100)
    beam_size: int = setting(10, "ctc_beam: prefixes kept", 1, 1000)
    language_model: str = setting("", "ctc_beam: an n-gram model in ARPA form")
    language_model_weight: float = setting(0.5, "ctc_beam: factor on its log probabilities", 0, 10)
    length_bonus: float = setting(0.0, "ctc_beam: added for each token or word", -10, 10)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    name: str = setting("run", "goes into the name of the run directory")
    seed: int = setting(0, "of the initialisation, the data order, augmentation and dropout", 0, 2**31 - 1)
    runs_dir: str = setting("runs", "where run directories are made")
    init: str = setting("", "a model folder or run directory whose weights the run begins with; empty: random ones")
    features: FeaturesConfig = section(FeaturesConfig)
    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    loss: LossConfig = section(LossConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    training: TrainingConfig = section(TrainingConfig)
    mesh: MeshConfig = section(MeshConfig)
    inference: InferenceConfig = section(InferenceConfig)
