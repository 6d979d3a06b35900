"""Punctuation: FunASR's answers as they were recorded, and ours where FunASR's are wrong."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import asr
from asr.errors import UserError
from asr.inference.punctuation import Punctuator, load_punctuator
from asr.inference.punctuation_windows import LONG_WINDOW, NEW_WORDS, Part, Windows
from asr.inference.typesetting import split_parts, split_text
from recorded_punctuation import ANSWERS, recorded_logits, write_folder

OFFLINE, STREAMING = ANSWERS["offline"]["answers"], ANSWERS["streaming"]["answers"]
SIGNS = ("<unk>", "_", "，", "。", "？", "、")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("punctuation")
    return {kind: write_folder(folder / kind, kind) for kind in ("offline", "streaming")}


@pytest.fixture(scope="module")
def offline(folders):
    return load_punctuator(folders["offline"])


@pytest.fixture(scope="module")
def exact(folders):
    return asr.load(folders["offline"], overrides=["mode=exact"])


@pytest.fixture(scope="module")
def streaming(folders):
    return load_punctuator(folders["streaming"])


@pytest.fixture(scope="module")
def exact_streaming(folders):
    return load_punctuator(folders["streaming"], ["mode=exact"])


def scripted(punctuator, signs, mode="natural"):
    """The punctuator with a network that puts these signs behind the words "0", "1", … and none behind others."""
    config = dataclasses.replace(punctuator.config, mode=mode)
    made = Punctuator(config, [*map(str, range(len(signs))), "<unk>"], punctuator.network.variables)

    def score(numbers, num_old=0):
        names = ["_" if number >= len(signs) else signs[number] or "_" for number in numbers]
        return np.array([[float(sign == name) for sign in SIGNS] for name in names], np.float32)

    made.network.score = score
    return made


def count_up(number):
    return " ".join(map(str, range(number)))


# ── FunASR's answers ──


def classes(signs):
    return "".join(str(SIGNS.index(sign or "_")) for sign in signs)


@pytest.mark.parametrize("answer", [a for a in OFFLINE if "note" not in a], ids=lambda a: a["text"][:12] or "empty")
def test_mode_exact_writes_funasrs_text_and_classes(exact, answer):
    found = exact.analyse(answer["text"])
    assert found.text == answer["out"] and classes(found.signs) == answer["classes"]


def test_mode_exact_cuts_a_long_sentence_at_its_last_comma(exact):
    (answer,) = (a for a in OFFLINE if "note" in a)
    variables = jax.tree.map(np.array, exact.network.variables)
    variables["params"]["output"]["bias"][3:5] -= 50
    found = Punctuator(exact.config, exact.network.words, variables).analyse(answer["text"])
    assert found.text == answer["out"] and classes(found.signs) == answer["classes"]


@pytest.mark.parametrize("pieces", STREAMING, ids=lambda p: p[0]["text"][:12])
def test_mode_exact_streams_as_funasr_does(exact_streaming, pieces):
    stream = exact_streaming.stream()
    for piece in pieces:
        assert stream.accept(piece["text"]) == piece["out"]
        assert classes(stream.last.signs) == piece["classes"]
    assert exact_streaming.punctuate(pieces[0]["text"]) == pieces[0]["out"]


def test_the_scores_are_funasrs(exact, exact_streaming):
    words = split_parts(OFFLINE[3]["text"])  # the second window: the end of the first one, and 20 words more
    expected = recorded_logits("offline")
    window = words[19 : 19 + len(expected)]
    np.testing.assert_allclose(score_words(exact, window), expected, atol=1e-4)
    (_, old, new, *_), expected = STREAMING[0], recorded_logits("streaming")
    words = [*(word.strip() for word in old["next_pre_text"]), *new["text"]]
    found = score_words(exact_streaming, words, len(old["next_pre_text"]))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def score_words(punctuator, words, num_old=0):
    return punctuator.network.score([p.number for word in words for p in punctuator.network.parts(word, 0)], num_old)


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_the_padding_of_a_window_changes_nothing(request, kind):
    network = request.getfixturevalue(kind).network
    numbers = [*range(3, 33)]
    scores_tc = network.score(numbers, 4)
    longer = np.array([numbers + [9] * 66], np.int32)
    again_tc = np.asarray(network._score(network.variables, longer, np.array([30]), np.array([4])))[0, :30]
    np.testing.assert_allclose(scores_tc, again_tc, atol=1e-5)


def test_only_the_last_layer_of_a_streaming_model_sees_later_words_and_old_words_see_no_new_one(streaming):
    score = streaming.network.score
    first, second = score([5, 6, 7, 8, 9, 10], 4), score([5, 6, 7, 8, 33, 44], 4)
    np.testing.assert_allclose(first[:3], second[:3], atol=1e-6)  # closed: all old words but the last
    assert np.abs(first[3] - second[3]).max() > 1e-3  # the last old word waits for what follows


# ── ours, where FunASR's are wrong ──


def test_words_keep_their_capitals_and_no_blank_begins_the_text(offline, exact):
    assert exact.punctuate("NASA iPhone 2024 ok") == " Nasa, iPhone. 2024, ok."
    assert offline.punctuate("NASA iPhone 2024 ok") == "NASA, iPhone. 2024, ok."
    assert offline.punctuate("hello world please send").startswith("Hello world")


def test_only_a_sentence_end_makes_a_capital_and_a_cut_without_one_makes_none(offline):
    signs = [""] * 260
    signs[199] = "，"
    script = scripted(offline, signs)
    text = " ".join(f"w{i}" if i % 20 == 0 else str(i) for i in range(260))
    assert script.punctuate(text).count("W") == 2  # the first word, and the one after the comma that became a stop
    assert "199. W200" in script.punctuate(text)
    signs[199] = ""
    assert scripted(offline, signs).punctuate(text).count("W") == 1
    exact = scripted(offline, ["", "", "", "。"] + [""] * 256, "exact")
    assert exact.punctuate("a b c 3 d e") == " A b c 3. D e."


def test_a_sentence_end_behind_the_first_or_second_word_is_used(offline):
    for place in (0, 1):
        signs = [""] * 30
        signs[place] = "。"
        for mode, number in (("natural", place + 1), ("exact", 0)):
            network = scripted(offline, signs, mode).network
            windows = Windows(network.config, network.score)
            (group,) = windows.push([Part(str(i), i, i, True) for i in range(21)])
            assert len(group) == number


def test_a_class_that_is_no_sign_is_never_written(offline):
    unknown = scripted(offline, ["<unk>", ""])
    unknown.network.score = lambda numbers, num_old=0: np.array([[9, 1, 2, 0, 0, 0]] * len(numbers), np.float32)
    assert unknown.punctuate("0 1") == "0, 1."
    assert scripted(offline, ["<unk>", ""], "exact").punctuate("0 1") == " 0<unk> 1."


@pytest.mark.parametrize("kind", ["offline", "exact", "streaming", "exact_streaming"])
def test_an_empty_text_stays_empty_in_pieces_too(request, kind):
    punctuator = request.getfixturevalue(kind)
    assert punctuator.punctuate("") == punctuator.punctuate(" \n\u3000") == ""
    if kind != "exact":
        stream = punctuator.stream()
        assert stream.accept("") == stream.accept("  ", final=True) == ""
        first = stream.accept("hello world please")
        assert stream.accept("") == "" and first + stream.accept("", final=True)


def test_a_stream_is_one_text_whose_signs_cover_its_words(streaming, offline):
    pieces = [piece["text"] for piece in STREAMING[1]]
    for punctuator in (streaming, offline):
        stream, text, words, signs = punctuator.stream(), "", [], []
        for number, piece in enumerate(pieces, 1):
            text += stream.accept(piece, final=number == len(pieces))
            words += stream.last.words
            signs += stream.last.signs
        assert "".join(text.lower().split(" ")).translate(str.maketrans("", "", ",.?")) == "".join(pieces).replace(
            " ", ""
        )
        assert text[0] == "H" and text[-1] in ".?" and ", " in text
        assert [w.lower() for w in words] == " ".join(pieces).split() and len(signs) == len(words)
    assert text == offline.punctuate(" ".join(pieces))


def test_a_stream_begins_anew_after_its_end(streaming):
    stream = streaming.stream()
    pieces = ["hello world", "please send it"]
    first = [stream.accept(pieces[0]), stream.accept(pieces[1], final=True)]
    assert first == [stream.accept(pieces[0]), stream.accept(pieces[1], final=True)]
    assert first[0].startswith("Hello")


def test_a_stream_reads_a_bounded_number_of_old_words(streaming):
    script, seen = scripted(streaming, [""]), []
    inner = script.network.score
    script.network.score = lambda numbers, num_old=0: seen.append(len(numbers)) or inner(numbers, num_old)
    stream = script.stream()
    for _ in range(50):
        stream.accept("a b c d e f g h i j")
    assert max(seen) <= LONG_WINDOW + NEW_WORDS and len(stream._old) == LONG_WINDOW


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气很好。我们去公园，吧", "今天天气很好。我，们，去。公园，吧。"),
        ("。", "。"),
        ("，。？", "，。？"),
        ("hello, world?", "Hello, world?"),
        ("iPhone world", "iPhone world."),
        ("“hello world”", "“Hello world”."),
        ("a\ud800b", None),
        ("\x00\x1b[31m 好", None),
        ("für Öl", "Für Öl."),
        ("👍", "👍."),
    ],
)
def test_signs_of_the_text_stay_and_odd_characters_pass(offline, text, expected):
    out = scripted(offline, [""]).punctuate(text) if expected and "天" not in text else offline.punctuate(text)
    if expected and "天" not in text:
        assert out == expected
    assert [c for c in out.lower() if c.isalnum()] == [c for c in text.lower() if c.isalnum()]
    doubled = [pair for pair in zip(out, out[1:], strict=False) if set(pair) <= set("，。？、,.?")]
    assert len(doubled) == max(len(text) - 1, 0) * (text == "，。？")


def test_chinese_and_latin_are_set_as_in_print(offline):
    script = scripted(offline, ["，", "。", "、", ""])
    assert script.punctuate("今天 0 world 1 我 们 2 go") == "今天 0, world 1. 我们 2, go."
    assert script.signs(["0", "好", "2", "it."]) == [",", "", ",", ""]
    assert split_text("今天hello，3.5世界 ok") == [
        ("今", False), ("天", False), ("hello", False), ("，", False), ("3.5", False), ("世", False), ("界", False),
        ("ok", True),
    ]  # fmt: skip


def test_no_sign_stands_within_a_word(offline):
    script = scripted(offline, ["。"])
    script.network._numbers = dict.fromkeys("für", 0)
    assert script.signs(["für", "x"]) == [".", "."]
    parts = script.network.parts("für", 0)
    assert [part.text for part in parts] == ["f", "ü", "r"]
    windows = Windows(script.network.config, script.network.score)
    ((*decided, last),) = windows.push(parts * 7 + parts[:1])
    assert {sign for part, sign in decided if not part.is_last} == {""} and last == (parts[-1], "。")


@pytest.mark.parametrize("kind", ["offline", "exact"])
def test_words_without_a_letter_get_no_sign(request, kind):
    punctuator = request.getfixturevalue(kind)
    assert punctuator.signs([]) == [] and punctuator.signs(["", " "]) == ["", ""]
    one, blank, last = punctuator.signs(["ok", "", "hello"])
    assert blank == "" and last in (".", "?", "。")


def test_a_long_text_takes_windows_of_bounded_length(offline):
    script, seen = scripted(offline, ["，"]), []
    inner = script.network.score
    script.network.score = lambda numbers, num_old=0: seen.append(len(numbers)) or inner(numbers, num_old)
    assert len(script.punctuate("a " * 3000).split()) == 3000
    assert max(seen) <= LONG_WINDOW + NEW_WORDS and len(seen) < 160
    endless = scripted(offline, [""], "exact")
    with pytest.raises(UserError, match="mode exact reads at most 4096 together"):
        endless.punctuate("a " * 5000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.punctuate(b"text"), "text: expected a str, found bytes"),
        (lambda p: p.punctuate("a" * ((1 << 24) + 1)), "text: expected at most 16777216 characters"),
        (lambda p: p.signs("words"), "words: expected a sequence of texts, found 'words'"),
        (lambda p: p.signs(["a", 3]), "words: expected a sequence of texts"),
        (
            lambda p: Punctuator(dataclasses.replace(p.config, mode="exact"), p.network.words, {}).stream(),
            "streams a CT",
        ),
    ],
)
def test_what_is_no_text_is_refused(offline, call, message):
    with pytest.raises(UserError, match=message):
        call(offline)


# ── the documentation ──


def listed_examples():
    """The rows (text, signs, exact, natural) of the table of modes."""
    text = (Path(__file__).parents[1] / "docs/punctuation.md").read_text()
    table = text[text.index("| text | signs |") :].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", row) for row in table.splitlines()[2:]]


@pytest.mark.parametrize(("text", "signs", "exactly", "naturally"), listed_examples())
def test_the_examples_of_the_documentation(offline, text, signs, exactly, naturally):
    """The signs are those behind each word as FunASR cuts them, signs of the text itself included."""
    parts, signs = split_parts(text), signs.split()
    assert len(parts) == len(signs)
    for mode, expected in (("exact", exactly), ("natural", naturally)):
        script = scripted(offline, [], mode)
        numbers = {part: number for number, part in enumerate(parts)}
        script.network._numbers = numbers | {part.strip("，。"): number for part, number in numbers.items()}
        script.network.score = lambda found, num_old=0: np.array(
            [[float(sign == signs[number]) for sign in SIGNS] for number in found], np.float32
        )
        assert script.punctuate(text) == expected
