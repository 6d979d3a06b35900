"""Punctuation models of FunASR, built here from random seeds: the same texts and classes, and folders it can read."""

import json
import random

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("funasr")

from funasr import AutoModel  # noqa: E402
from funasr.models.ct_transformer.model import CTTransformer  # noqa: E402
from funasr.models.ct_transformer_streaming.model import CTTransformerStreaming  # noqa: E402

from asr.inference.punctuation import load_punctuator  # noqa: E402
from asr.published.funasr_punctuation import save_funasr_punctuation  # noqa: E402

SIGNS = ["<unk>", "_", "，", "。", "？", "、"]
LATIN = ["hello", "world", "NASA", "iPhone", "2024", "it's", "ok", "a", "e-mail", "I"]
CHINESE = list("今天气很好我们去公园看书吧你知道北京大学在哪里")
WORDS = ["<unk>", "<s>", "</s>", *LATIN, *CHINESE]
SIZES = {
    "offline": {"width": 24, "heads": 3, "blocks": 2, "kernel": 7, "shift": 0},
    "offline of one block": {"width": 16, "heads": 2, "blocks": 1, "kernel": 3, "shift": 0},
    "offline with a wider embedding": {"width": 16, "heads": 2, "blocks": 3, "kernel": 5, "shift": 0, "embedding": 20},
    "streaming": {"width": 24, "heads": 3, "blocks": 4, "kernel": 7, "shift": 3},
    "streaming of one block": {"width": 16, "heads": 2, "blocks": 1, "kernel": 5, "shift": 2},
    "streaming without a shift": {"width": 16, "heads": 2, "blocks": 2, "kernel": 5, "shift": 0},
}


def settings(kind):
    size = SIZES[kind]
    width, streams = size["width"], kind.startswith("streaming")
    embedding = size.get("embedding", width)
    return {
        "model": "CTTransformerStreaming" if streams else "CTTransformer",
        "model_conf": {"embed_unit": embedding, "att_unit": width, "punc_list": SIGNS, "sentence_end_id": 3},
        "encoder": "SANMVadEncoder" if streams else "SANMEncoder",
        "encoder_conf": {
            "input_size": embedding,
            "output_size": width,
            "attention_heads": size["heads"],
            "linear_units": 20,
            "num_blocks": size["blocks"],
            "kernel_size": size["kernel"],
            "sanm_shfit": size["shift"],
            "input_layer": "pe",
            "selfattention_layer_type": "sanm",
        },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }


def write_folder(folder, kind, seed):
    """Write a model with random weights whose answers vary."""
    content = settings(kind)
    torch.manual_seed(seed)
    make = CTTransformerStreaming if kind.startswith("streaming") else CTTransformer
    parts = {name: content[name] for name in ("encoder", "encoder_conf")}
    model = make(**parts, vocab_size=len(WORDS), **content["model_conf"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.1 * torch.randn_like(parameter)
            elif "linear_out" in name or "fsmn" in name or name == "decoder.weight":
                parameter *= 3
        model.decoder.bias += torch.tensor([-9.0, 1.0, 0.0, -0.4, -0.8, -0.6])
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    (folder / "tokens.json").write_text(json.dumps(WORDS, ensure_ascii=False))
    places = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"token_list": "tokens.json"}}
    about = {"framework": "pytorch", "model": {"type": "funasr"}, "file_path_metas": places}
    (folder / "configuration.json").write_text(json.dumps(about))
    return folder


def draw_text(rng, most=90):
    """Return words of both scripts, some unknown, with and without blanks between them."""
    words = rng.choices([*LATIN, *CHINESE, "unknown", "字", "，", "x.", "é"], k=rng.randint(1, most))
    return "".join(word + rng.choice(["", " ", " "]) for word in words)


def open_theirs(folder):
    return AutoModel(model=str(folder), disable_update=True, device="cpu", disable_pbar=True, log_level="ERROR")


def answers_of(theirs, texts):
    answers = [theirs.generate(input=text)[0] for text in texts]
    return [(answer["text"], [int(x) for x in answer["punc_array"]]) for answer in answers]


def ours_of(punctuator, texts):
    found = [punctuator.analyse(text) for text in texts]
    return [(each.text, [SIGNS.index(sign or "_") for sign in each.signs]) for each in found]


@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind.startswith("offline")])
def test_an_offline_model_writes_the_same_texts_and_its_folder_goes_back(tmp_path, kind):
    folder, rng = write_folder(tmp_path / "theirs", kind, seed=11), random.Random(5)
    punctuator = load_punctuator(folder, ["mode=exact"])
    texts = [draw_text(rng) for _ in range(40)] + [draw_text(rng, 500) for _ in range(4)]
    expected = answers_of(open_theirs(folder), texts)
    assert ours_of(punctuator, texts) == expected
    assert len({i for _, classes in expected for i in classes}) >= 4  # else the comparison says little
    back = tmp_path / "back"
    back.mkdir()
    network = punctuator.network
    save_funasr_punctuation(back, punctuator.config, network.words, network.variables)
    assert answers_of(open_theirs(back), texts[:10]) == expected[:10]


@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind.startswith("streaming")])
def test_a_streaming_model_writes_the_same_texts_and_its_folder_goes_back(tmp_path, kind):
    folder, rng = write_folder(tmp_path / "theirs", kind, seed=3), random.Random(7)
    punctuator = load_punctuator(folder, ["mode=exact"])
    pieces = [[draw_text(rng, 30) for _ in range(6)] for _ in range(8)]
    theirs, expected = open_theirs(folder), []
    for texts in pieces:
        cache, stream = {}, punctuator.stream()
        for text in texts:
            answer = theirs.generate(input=text, cache=cache)[0]
            expected.append(answer["text"])
            assert stream.accept(text) == answer["text"]
            assert [SIGNS.index(sign or "_") for sign in stream.last.signs] == [int(x) for x in answer["punc_array"]]
    assert len(set("".join(expected)) & set("，。？、")) >= 3
    back = tmp_path / "back"
    back.mkdir()
    save_funasr_punctuation(back, punctuator.config, punctuator.network.words, punctuator.network.variables)
    assert open_theirs(back).generate(input=pieces[0][0], cache={})[0]["text"] == expected[0]
