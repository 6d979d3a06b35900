import json
import subprocess
import sys

import pytest

from asr.errors import UserError
from asr.inference.subtitles import MAX_CUE_S, MAX_LINE_CHARACTERS, make_cues, text_columns
from asr.inference.transcript import FORMATS, SUFFIXES, SegmentText, Transcript
from asr.inference.words import Token, Word, join_words


def words(text, start=0.0, seconds=0.4, gap=0.1):
    """Words that follow each other at even distances."""
    starts = [start + i * (seconds + gap) for i in range(len(text.split()))]
    return tuple(Word(w, s, s + seconds, 0.9) for w, s in zip(text.split(), starts, strict=True))


def transcript(*parts, file="sounds/some file.wav"):
    spoken = tuple(word for part in parts for word in part)
    segments = tuple(SegmentText(part[0].start_s, part[-1].end_s, join_words(part)) for part in parts)
    tokens = tuple(Token(f"▁{w.text}", w.start_s, w.end_s, w.confidence) for w in spoken)
    return Transcript(file, 12.3456789, " ".join(s.text for s in segments), spoken, tokens, segments)


def test_text_is_one_line():
    assert transcript(words("one two"), words("three", 3)).to_text() == "one two three\n"
    assert transcript().to_text() == "\n"


def test_json_holds_everything():
    spoken = (Word('"fünf"', 0.12345, 0.5, 0.987654),)
    content = transcript(spoken).to_json()
    assert content.count("\n") == 1
    assert "fünf" in content
    assert json.loads(content) == {
        "file": "sounds/some file.wav",
        "duration_s": 12.346,
        "text": '"fünf"',
        "words": [{"word": '"fünf"', "start_s": 0.123, "end_s": 0.5, "confidence": 0.9877}],
        "tokens": [{"token": '▁"fünf"', "start_s": 0.123, "end_s": 0.5, "confidence": 0.9877}],
        "segments": [{"start_s": 0.123, "end_s": 0.5, "text": '"fünf"'}],
    }


def test_srt_numbers_its_cues():
    assert transcript(words("good morning", 0.5), words("thank you", 3661.2)).to_srt() == (
        "1\n00:00:00,500 --> 00:00:01,400\ngood morning\n\n2\n01:01:01,200 --> 01:01:02,100\nthank you\n\n"
    )


def test_vtt_has_its_head_and_escapes():
    spoken = (Word("<i>", 1, 2, 1.0), Word("&", 2, 2.5, 1.0), Word("-->", 2.5, 3.5, 1.0))
    assert transcript(spoken).to_vtt() == "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\n&lt;i&gt; &amp; --&gt;\n"
    assert transcript(words("a", 1), words("b", 4)).to_vtt().split("\n\n") == [
        "WEBVTT",
        "00:00:01.000 --> 00:00:01.700\na",
        "00:00:04.000 --> 00:00:04.700\nb\n",
    ]


def test_an_arrow_cannot_pass_for_a_line_of_times():
    assert transcript((Word("a-->b", 1, 2, 1.0),)).to_srt().count("-->") == 1


def test_ctm_has_a_line_for_each_word():
    assert transcript(words("one two", 1.5)).to_ctm() == (
        "some_file 1 1.500 0.400 one 0.900\nsome_file 1 2.000 0.400 two 0.900\n"
    )


def test_ctm_fields_hold_no_blanks_and_the_unique_name():
    odd = (Word("a\u2009b", 0, 1, 0.9),)
    assert Transcript("x/same.wav", 1.0, "a b", odd, name="x/same 2").to_ctm() == "x/same_2 1 0.000 1.000 a_b 0.900\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.9995, "00:00:01.000"),
        (59.9996, "00:01:00.000"),
        (3599.9999, "01:00:00.000"),
        (0.0004, "00:00:00.000"),
        (360000.25, "100:00:00.250"),
    ],
)
def test_rounded_times_carry_over(seconds, shown):
    start = transcript((Word("a", seconds, seconds + 1, 1.0),)).to_vtt().splitlines()[2].split(" --> ")[0]
    assert start == shown


def test_nothing_said_gives_nothing():
    found = {name: write(transcript()) for name, write in FORMATS.items() if name != "json"}
    empty = {"text": "\n", "srt": "", "vtt": "WEBVTT\n", "tsv": "start_s\tend_s\ttext\n", "ctm": "", "rich": "\n"}
    assert found == empty
    assert json.loads(transcript().to_json())["words"] == []
    assert FORMATS.keys() == SUFFIXES.keys()


def check_cues(cues, text):
    assert " ".join(line for cue in cues for line in cue.lines) == text
    for cue in cues:
        assert len(cue.lines) <= 2
        assert all(len(line) <= MAX_LINE_CHARACTERS for line in cue.lines)
        assert 0 < cue.end_s - cue.start_s <= MAX_CUE_S
    for one, other in zip(cues, cues[1:], strict=False):
        assert one.end_s <= other.start_s


@pytest.mark.parametrize("seconds", [0.02, 0.15, 0.6, 3.1])
def test_cues_keep_all_words_within_the_limits(seconds):
    text = " ".join("abcdefghijklmnopqrstuvwxyz"[: 1 + i * 7 % 23] for i in range(200))
    cues = make_cues(words(text, seconds=seconds))
    check_cues(cues, text)
    lengths = [sum(map(len, cue.lines)) for cue in cues[:-1]]
    durations = [cue.end_s - cue.start_s for cue in cues[:-1]]
    assert all(n > 45 or s > 3 for n, s in zip(lengths, durations, strict=True))  # cues are filled


def test_two_lines_are_of_like_length():
    ((first, second),) = (cue.lines for cue in make_cues(words("some words that are " * 3, seconds=0.1)))
    assert abs(len(first) - len(second)) < 8


def test_a_pause_parts_two_cues():
    assert len(make_cues(words("a b") + words("c", 2.0))) == 2
    assert len(make_cues(words("a b") + words("c", 1.8))) == 1


def test_a_short_cue_stays_until_it_can_be_read_but_not_into_the_next():
    cues = make_cues((Word("a", 1, 1.06, 1.0), Word("b", 9, 9.06, 1.0), Word("c", 10.1, 10.1, 1.0)))
    assert [(cue.start_s, round(cue.end_s, 3)) for cue in cues] == [(1, 1.7), (9, 9.7), (10.1, 10.8)]
    early, _ = make_cues((Word("a", 1, 1.06, 1.0), Word("b", 1.5, 8.2, 1.0)))
    assert early.end_s == 1.5


def test_a_script_without_blanks_is_split_between_its_words():
    spoken = tuple(Word("今", i * 0.05, i * 0.05 + 0.05, 0.9, space_before=i == 0) for i in range(100))
    cues = make_cues(spoken)
    assert [[len(line) for line in cue.lines] for cue in cues] == [[21, 21], [21, 21], [16]]
    assert join_words(spoken) == "今" * 100


@pytest.mark.parametrize("write", [Transcript.to_srt, Transcript.to_vtt])
def test_no_line_of_wide_characters_is_too_long(write):
    mixed = "今日は good 안녕하세요 👍🏽 ＡＢＣ，"
    spoken = tuple(Word(c, i * 0.05, i * 0.05 + 0.05, 0.9, space_before=False) for i, c in enumerate(mixed * 9))
    lines = [line for line in write(transcript(spoken)).splitlines() if line and "-->" not in line]
    assert max(map(text_columns, lines)) in (41, 42)


def test_a_wide_token_that_is_too_long_is_split_at_its_characters():
    (first, last) = make_cues([Word("今" * 50, 0, 5, 0.9, (Token("今" * 50, 0, 5, 0.9),))])
    assert (first.lines, last.lines) == (("今" * 21, "今" * 21), ("今" * 8,))
    assert (first.start_s, last.start_s, last.end_s) == (0, 4.2, 5)


def test_no_line_begins_with_punctuation_that_belongs_to_the_line_before():
    spoken = tuple(
        Word(c, i * 0.1, i * 0.1 + 0.1, 0.9, space_before=False) for i, c in enumerate("今" * 14 + "，" + "今" * 13)
    )
    assert [line[0] for line in make_cues(spoken)[0].lines] == ["今", "今"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("你好", 4), ("Ａｶ", 3), ("e\u0301", 1), ("각", 2), ("\u1112\u1161\u11ab", 2), ("a\u200db", 2),
     ("👍🏽", 2), ("👨\u200d👩\u200d👧", 2), ("☀\ufe0f", 2), ("🇩🇪🇫🇷", 4), ("\u200b", 0)],
)  # fmt: skip
def test_columns_of_a_text(text, columns):
    assert text_columns(text) == columns


def test_a_very_long_word_is_split_at_its_tokens():
    parts = tuple(Token("abcdef", i * 0.2, i * 0.2 + 0.2, 0.9) for i in range(30))
    long = Word("abcdef" * 30, 0, 6, 0.9, parts)
    cues = make_cues((*words("x"), long, *words("y", 6)))
    assert "".join(line for cue in cues for line in cue.lines).replace(" ", "") == "x" + "abcdef" * 30 + "y"
    assert max(len(line) for cue in cues for line in cue.lines) <= MAX_LINE_CHARACTERS
    assert cues[0].lines[0].startswith("x abcdef")
    assert not any("f a" in line for cue in cues for line in cue.lines)  # no blank within the word
    assert len(make_cues([Word("z" * 100, 0, 1, 0.9)])) == 1  # nothing tells where it may be split


def test_the_formats_are_light():
    script = "import asr.inference.transcript, sys; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_tsv_is_a_table_of_the_segments():
    table = transcript(words("one two"), words("three", 3)).to_tsv()
    assert table == "start_s\tend_s\ttext\n0.000\t0.900\tone two\n3.000\t3.400\tthree\n"
    odd = Transcript("a.wav", 1.0, "a\tb", segments=(SegmentText(0, 1, "a\tb\nc"),))
    assert odd.to_tsv().splitlines()[1] == "0.000\t1.000\ta b c"


@pytest.mark.parametrize("name", FORMATS)
def test_save_writes_the_format_of_the_suffix(tmp_path, name):
    spoken = transcript(words("one two"))
    path = tmp_path / f"new/talk{SUFFIXES[name].upper()}"
    spoken.save(path)
    assert path.read_text() == FORMATS[name](spoken) == getattr(spoken, f"to_{name}")()


def test_save_refuses_another_suffix(tmp_path):
    with pytest.raises(UserError, match="talk.doc: expected one of the suffixes .txt, .json, .srt, .vtt, .tsv, .ctm"):
        transcript().save(tmp_path / "talk.doc")


def test_a_notebook_shows_the_segments_as_a_table_in_which_nothing_is_markup():
    spoken = (Word("<b>", 0.0, 0.5, 0.25), Word("good", 0.5, 1.0, 1.0))
    table = transcript(spoken, words("day", 3), file="<i>.wav")._repr_html_()
    assert "<b>" not in table and "<i>" not in table
    assert table.count("<tr>") == 3 and "&lt;i&gt;.wav (12.3 s)" in table
    assert '<span style="opacity:0.55" title="0.00–0.50 s, confidence 0.25">&lt;b&gt;</span> <span' in table
    many = Transcript("x", 1.0, "", segments=tuple(SegmentText(i, i + 1, "") for i in range(1000)))
    assert many._repr_html_().count("<tr>") == 202 and "… 800 more segments" in many._repr_html_()


def test_a_transcript_prints_as_its_text():
    assert str(transcript(words("one two"))) == "one two"
