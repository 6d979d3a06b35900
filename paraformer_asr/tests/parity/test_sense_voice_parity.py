"""SenseVoice, and Paraformer with a sentencepiece model, of random seeds: the same logits, text and tags."""

import io
import json
import random

import numpy as np
import pytest
import sentencepiece
import soundfile
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr import AutoModel  # noqa: E402
from funasr.models.paraformer.model import Paraformer  # noqa: E402
from funasr.models.sense_voice.model import SenseVoiceSmall  # noqa: E402
from funasr.utils.postprocess_utils import rich_transcription_postprocess, sentence_postprocess  # noqa: E402

import asr  # noqa: E402
from asr.data.cmvn import save_cmvn  # noqa: E402
from asr.data.frontend import Cmvn  # noqa: E402
from asr.data.text.funasr_text import join  # noqa: E402
from asr.inference.ctc_programs import make_read  # noqa: E402
from asr.inference.loading import load_parts  # noqa: E402
from asr.inference.tags import EMOTIONS, EVENTS, LANGUAGES, WITHOUT_EMOJI, rich_text  # noqa: E402
from asr.published.funasr import save_funasr  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

TEXT = [
    "the cat sat on the mat",
    "send it to me",
    "good morning",
    "今天天气很好",
    "我们去公园",
    "在哪里看书",
    "we read",
]
TAGS = [f"<|{name}|>" for name in ("zh", "en", "NEUTRAL", "HAPPY", "EMO_UNKNOWN", "Speech", "BGM", "withitn", "woitn")]
FRONTEND = {"fs": 16000, "window": "hamming", "frame_length": 25, "frame_shift": 10, "lfr_m": 7, "lfr_n": 6}


def train_pieces(tags=TAGS, vocab_size=72, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        user_defined_symbols=tags,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def sense_voice_settings(width=16, heads=4, blocks=2, late=2, kernel=11):
    sizes = {"output_size": width, "attention_heads": heads, "linear_units": 24, "num_blocks": blocks}
    sizes |= {"tp_blocks": late, "kernel_size": kernel, "input_layer": "pe", "normalize_before": True, "sanm_shfit": 0}
    return {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": sizes | {"selfattention_layer_type": "sanm"},
    }


PARAFORMER = {
    "model": "Paraformer",
    "model_conf": {"ctc_weight": 0.0, "predictor_bias": 1, "sampling_ratio": 0.0, "length_normalized_loss": True},
    "encoder": "SANMEncoder",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2, "input_layer": "pe"}
    | {"kernel_size": 5, "selfattention_layer_type": "sanm"},
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {"attention_heads": 2, "linear_units": 24, "num_blocks": 2, "att_layer_num": 2, "kernel_size": 5}
    | {"sanm_shfit": 0},
    "predictor": "CifPredictorV2",
    "predictor_conf": {"idim": 16, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
}
SIZES = {
    "published form": (sense_voice_settings(), 4),
    "one stack": (sense_voice_settings(width=24, heads=2, blocks=3, late=0, kernel=5), 6),
    "deeper behind": (sense_voice_settings(width=8, heads=1, blocks=1, late=3), 8),
    "paraformer": (PARAFORMER, 4),
}


def write_folder(folder, size, seed=0, pieces=None):
    """A folder with FunASR's own module of random weights, whose answers vary."""
    content, num_mels = SIZES[size]
    pieces = pieces or train_pieces(TAGS if content["model"] == "SenseVoiceSmall" else [])
    torch.manual_seed(seed)
    kind = {"SenseVoiceSmall": SenseVoiceSmall, "Paraformer": Paraformer}[content["model"]]
    vocab_size = sentencepiece.SentencePieceProcessor(model_proto=pieces).get_piece_size()
    settings = {key: value for key, value in content.items() if key not in ("model", "model_conf")}
    model = kind(**settings, **content["model_conf"], input_size=num_mels * 7, vocab_size=vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.2 * torch.randn_like(parameter)
            elif any(part in name for part in ("fsmn", "ctc_lo", "output_layer", "linear_out")):
                parameter *= 4
        if kind is SenseVoiceSmall:  # no token is the best everywhere
            hidden = model.eval().encoder(4 * torch.randn(1, 40, num_mels * 7), torch.tensor([40]))[0][0]
            model.ctc.ctc_lo.bias.copy_(-model.ctc.ctc_lo.weight @ hidden.mean(0))
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "tiny.model").write_bytes(pieces)
    content = content | {"tokenizer": "SentencepiecesTokenizer", "frontend": "WavFrontend"}
    content["tokenizer_conf"] = {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True}
    content["frontend_conf"] = FRONTEND | {"n_mels": num_mels, "dither": 0.0, "cmvn_file": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    rng, width = np.random.default_rng(0), num_mels * 7
    save_cmvn(
        folder / "am.mvn", Cmvn(rng.normal(-13, 1, width).astype("f4"), rng.uniform(0.2, 0.4, width).astype("f4"))
    )
    places = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"bpemodel": "tiny.model"}}
    places["frontend_conf"] = {"cmvn_file": "am.mvn"}
    about = {"framework": "pytorch", "model": {"type": "funasr"}, "file_path_metas": places}
    (folder / "configuration.json").write_text(json.dumps(about))
    return folder


def draw_wave(seconds, seed):
    """Tones that change every 80 ms, in 16 bits."""
    rng, time_n = np.random.default_rng(seed), np.arange(round(seconds * 16000)) / 16000
    tones_hz = rng.uniform(150, 6000, 100)[(time_n * 12).astype(int)]
    wave_n = 0.3 * np.sin(2 * np.pi * tones_hz * time_n) + 0.01 * rng.standard_normal(len(time_n))
    return np.round(wave_n * 32767).astype(np.int16)


WAVES = [draw_wave(seconds, seed) for seed, seconds in enumerate((1.0, 1.6, 0.7))]


def open_theirs(folder):
    return AutoModel(model=str(folder), disable_update=True, disable_pbar=True, device="cpu")


def their_texts(folder, model=None, **options):
    model, texts = model or open_theirs(folder), []
    for number, wave in enumerate(WAVES):
        soundfile.write(folder / f"{number}.wav", wave, 16000)
        texts.append(model.generate(input=str(folder / f"{number}.wav"), **options)[0]["text"])
    return texts


def our_transcripts(folder, *overrides):
    return asr.load(folder, overrides=["inference.batch_size=3", *overrides]).transcribe(WAVES, rate=16000)


@pytest.mark.parametrize("size", [size for size in SIZES if size != "paraformer"])
def test_text_and_tags_of_sense_voice_are_the_same(size, tmp_path):
    folder, texts = write_folder(tmp_path / "model", size, seed=len(size)), set()
    theirs = open_theirs(folder)
    for options in ({}, {"language": "yue", "use_itn": True}, {"language": "ja"}, {"language": "nospeech"}):
        expected = their_texts(folder, theirs, **options)
        found = our_transcripts(folder, *(f"model.sense_voice.{key}={value}" for key, value in options.items()))
        assert [transcript.tagged for transcript in found] == expected
        assert [transcript.rich for transcript in found] == list(map(rich_transcription_postprocess, expected))
        texts |= set(expected)
    assert len(texts) > 6


def test_logits_are_the_same_in_a_batch_as_theirs_alone(tmp_path):
    folder = write_folder(tmp_path / "model", "published form", seed=5)
    config, _, cmvn, variables = load_parts(folder)
    longest = max(map(len, WAVES))
    wave_bn = np.stack([np.pad(wave / np.float32(32768), (0, longest - len(wave))) for wave in WAVES])
    lengths_b = np.array([len(wave) for wave in WAVES], np.int32)
    read = make_read(config, cmvn)(variables, wave_bn.astype(np.float32), lengths_b)
    theirs = open_theirs(folder)
    kept = []
    theirs.model.ctc.log_softmax = lambda hidden: kept.append(theirs.model.ctc.ctc_lo(hidden)) or kept[-1]
    their_texts(folder, theirs)
    for logits_tv, length, expected in zip(read.logits_btv, read.frame_lengths_b, kept, strict=True):
        assert length == expected.shape[1]
        np.testing.assert_allclose(logits_tv[:length], expected[0].detach().numpy(), atol=1e-4)


def test_an_unknown_emotion_is_banned_as_there(tmp_path):
    folder = write_folder(tmp_path / "model", "published form", seed=2)
    theirs = open_theirs(folder)
    tensors = theirs.model.state_dict()
    banned = 3 + TAGS.index("<|EMO_UNKNOWN|>")
    tensors["ctc.ctc_lo.bias"][banned] += 20.0  # written often
    torch.save(tensors, folder / "model.pt")
    theirs = open_theirs(folder)
    theirs.model.emo_dict["unk"] = banned  # of the published vocabulary it is 25009
    assert all("EMO_UNKNOWN" in text for text in their_texts(folder, theirs))
    expected = their_texts(folder, theirs, ban_emo_unk=True)
    found = our_transcripts(folder, "model.sense_voice.ban_emo_unk=true")
    assert [transcript.tagged for transcript in found] == expected
    assert not any("EMO_UNKNOWN" in text for text in expected)


@pytest.mark.parametrize("size", ["published form", "paraformer"])
def test_funasr_reads_the_folder_that_is_written_back_and_hears_the_same(size, tmp_path):
    folder, back = write_folder(tmp_path / "model", size, seed=3), tmp_path / "back"
    back.mkdir()
    save_funasr(back, *load_parts(folder))
    before, after = (torch.load(path / "model.pt", weights_only=True) for path in (folder, back))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert (back / "bpe.model").read_bytes() == (folder / "tiny.model").read_bytes()
    dither = {"frontend_conf": {"dither": 0.0}}
    theirs = AutoModel(model=str(back), disable_update=True, disable_pbar=True, device="cpu", **dither)
    assert their_texts(back, theirs) == their_texts(folder)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_paraformer_with_pieces_writes_the_same_text(rule, tmp_path):
    pieces = train_pieces([], normalization_rule_name=rule)
    folder = write_folder(tmp_path / "model", "paraformer", seed=4, pieces=pieces)
    expected = [" ".join(text.split()) for text in their_texts(folder)]  # blanks in a row are one here
    assert [transcript.text for transcript in our_transcripts(folder)] == expected
    assert all(expected) and len(set(expected)) == 3


def test_tags_become_emoji_as_there():
    rng = random.Random(0)
    names = [*LANGUAGES, *EMOTIONS, *EVENTS, *WITHOUT_EMOJI]
    units = [f"<|{name}|>" for name in names] + ["<|nospeech|><|Event_UNK|>", " ", "  ", "a", "The.", "好", "😊", "🎼"]
    for _ in range(5000):
        text = "".join(rng.choices(units, k=rng.randint(0, 14)))
        assert rich_text(text) == rich_transcription_postprocess(text), text


def test_lists_of_pieces_are_joined_as_there():
    """Of a `CharTokenizer`: a piece ending in `@@` is joined to the next, while `▁` is a letter like others."""
    rng, tokens = random.Random(0), ["▁the", "▁cat", "s", "he@@", "llo", "wor@@", "ld", "▁", "i", "'s", "ing"]
    for _ in range(2000):
        row = rng.choices(tokens, k=rng.randint(0, 8))
        assert join(row) == sentence_postprocess(list(row))[0], row
