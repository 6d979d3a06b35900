"""Sentences of a transcript: words, times and signs in one list, in every format; segments that fail."""

import asyncio
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

import asr
from asr.config import Config
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import NonFiniteError, UserError
from asr.inference.failing import start_safely
from asr.inference.punctuation import load_punctuator
from asr.inference.recognition import NOTHING, Recognition
from asr.inference.transcript import Sentence
from asr.inference.transcription import GrowingTranscript, Heard, Place, Source, transcribe_segments
from asr.inference.typesetting import split_parts
from asr.inference.words import join_words
from asr.serve.formats import write_answer
from asr.serve.funasr_frames import Request, text_frame
from asr.serve.options import Options
from asr.serve.session import Event
from asr.serve.sse import transcript_events
from recorded_punctuation import ANSWERS, write_folder

PIPELINE = ANSWERS["pipeline"]
WORDS = sorted({*"你好们", *(part for answer in PIPELINE["answers"] for part in split_parts(answer["text"]))})
TOKENIZER = Tokenizer(with_special_tokens(WORDS), "funasr")
RATE_HZ = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("punctuation") / "ct-punc")


@pytest.fixture(scope="module")
def punctuator(folder):
    return load_punctuator(folder)


def recogniser(punctuator=None, **options):
    return SimpleNamespace(tokenizer=TOKENIZER, config=Config(), punctuator=punctuator, **options)


def recognition(text, pairs_ms, **fields):
    starts_ms, ends_ms = np.array(pairs_ms, np.float32).T
    ids = np.array([TOKENIZER.tokens.index(part) for part in split_parts(text)])
    return Recognition(ids, np.full(len(ids), 0.9, np.float32), starts_ms / 1000, ends_ms / 1000, **fields)


def transcribe(punctuator, answers=PIPELINE["answers"], segments_ms=PIPELINE["segments_ms"], num_ms=15270):
    growing = GrowingTranscript(recogniser(punctuator))
    for answer, (start_ms, end_ms) in zip(answers, segments_ms, strict=True):
        growing.add(start_ms * 16, end_ms * 16, recognition(answer["text"], answer["timestamp"]))
    return growing.finish(num_ms * 16, "talk.wav")


@pytest.fixture(scope="module")
def plain():
    return transcribe(None)


@pytest.fixture(scope="module")
def spoken(punctuator):
    return transcribe(punctuator)


# ── the sentences of a sound ──


def test_mode_exact_writes_the_text_of_funasrs_pipeline(folder):
    assert transcribe(load_punctuator(folder, ["mode=exact"])).text == PIPELINE["text"]


def test_words_times_and_signs_are_one_list(plain, spoken):
    assert [word.letters.lower() for word in spoken.words] == [word.text for word in plain.words]
    assert [(w.start_s, w.end_s) for w in spoken.words] == [(w.start_s, w.end_s) for w in plain.words]
    assert spoken.text == join_words(spoken.words)
    assert "".join(s.text for s in spoken.sentences).replace(" ", "") == spoken.text.replace(" ", "")
    assert spoken.tokens == plain.tokens and plain.sentences == ()
    for word in spoken.words:
        assert "".join(part.text for part in word.parts) == word.text


def test_a_border_between_two_chinese_segments_shifts_nothing(spoken):
    """FunASR's sentences end with an empty one, because the words at each such border count as one."""
    assert PIPELINE["sentence_info"][-1] == {"text": "。", "start": 14080, "end": 14530}
    # The second segment ends in 学 and the third begins with 天.
    place = next(i for i, word in enumerate(spoken.words) if round(word.start_s, 2) == 9.17)
    before, after = spoken.words[place - 1 : place + 1]
    assert (before.letters, after.letters, after.space_before) == ("学", "天", False)
    assert (round(before.end_s, 2), round(after.start_s, 2)) == (6.97, 9.17)
    words = list(spoken.words)
    for sentence in spoken.sentences:
        own = [words.pop(0)]
        while not own[-1].ends_sentence:
            own.append(words.pop(0))
        assert sentence == Sentence(own[0].start_s, own[-1].end_s, join_words(own))
    assert not words and spoken.sentences[-1].text.strip("。.?")


def test_chinese_segments_join_without_a_blank(punctuator):
    answers = [{"text": "你好", "timestamp": [[0, 100], [100, 200]]}, {"text": "们", "timestamp": [[0, 300]]}]
    transcript = transcribe(punctuator, answers, [[0, 500], [1000, 1500]])
    assert transcript.text == punctuator.punctuate("你好们") and " " not in transcript.text
    assert [s.text for s in transcript.segments] == [
        "".join(w.text for w in transcript.words[:2]),
        transcript.words[2].text,
    ]
    assert transcribe(punctuator, [], []).text == ""


def test_without_a_punctuator_nothing_changes(plain):
    assert "sentences" not in plain.to_plain() and "failures" not in plain.to_plain()
    assert not set(plain.text) & set("，。？、,.?")
    assert all(word.sign == "" for word in plain.words)


# ── formats ──


def test_json_and_tables_hold_the_sentences(spoken):
    rows = json.loads(spoken.to_json())["sentences"]
    assert [row["text"] for row in rows] == [s.text for s in spoken.sentences]
    table = spoken.to_tsv().splitlines()
    assert len(table) == len(spoken.sentences) + 1 and table[1].split("\t")[2] == spoken.sentences[0].text
    page = spoken._repr_html_()
    assert page.count("<tr>") == len(spoken.sentences) + 1
    assert page.count("<span") == len(spoken.words)


def test_each_cue_of_a_subtitle_ends_with_a_sign_unless_a_pause_ends_it(spoken, plain):
    blocks = spoken.to_srt().strip().split("\n\n")
    texts = [" ".join(block.split("\n")[2:]) for block in blocks]
    assert len(texts) > len(plain.to_srt().strip().split("\n\n"))
    for sentence in spoken.sentences:
        assert any(text.endswith(sentence.text[-2:]) for text in texts)
    assert all(mark not in text[:-1] for text in texts for mark in "。")


def test_a_cue_that_is_too_long_ends_with_its_last_comma():
    words = [asr.Word(f"word{i}", i * 0.3, i * 0.3 + 0.2, 1.0) for i in range(40)]
    words[7] = asr.Word("word7,", 2.1, 2.3, 1.0, sign=",")
    text = asr.Transcript("a.wav", 12.0, join_words(words), tuple(words)).to_srt()
    assert text.split("\n\n")[0].endswith("word7,")


def test_ctm_has_words_without_signs(spoken):
    assert [line.split()[4] for line in spoken.to_ctm().splitlines()] == [word.letters for word in spoken.words]


# ── the service ──


def test_the_answers_of_the_service_have_signs_and_sentences(spoken):
    options = Options("", "verbose_json", True, True, False, False, ())
    answer = json.loads(write_answer(spoken, options, {t: i for i, t in enumerate(TOKENIZER.tokens)}, ""))
    assert answer["text"] == spoken.text
    assert [(s["text"], s["start"]) for s in answer["segments"]] == [
        (s.text, round(s.start_s, 3)) for s in spoken.sentences
    ]
    assert sum(len(s["tokens"]) for s in answer["segments"]) == len(spoken.tokens)
    answer = json.loads(write_answer(spoken, Options("", "json", False, False, True, False, ()), {}, ""))
    assert "".join(token["token"] for token in answer["logprobs"]) == answer["text"] == spoken.text


def test_a_websocket_gets_the_text_with_signs_and_the_times_of_the_words(spoken, plain):
    frame = text_frame(Request(), Event(spoken))
    assert frame["text"] == spoken.text
    times = json.loads(frame["timestamp"])
    pieces = re.findall("[^ 。？，、?.,]+", spoken.text)  # as the HTML5 client counts
    assert len(times) == sum(1 if re.fullmatch("[A-Za-z]+", piece) else len(piece) for piece in pieces)
    assert times[:2] == [[560, 720], [720, 810]] and times[-1] == [14080, 14530]  # a sign takes no time
    clauses = frame["stamp_sents"]
    assert "".join(c["text_seg"] + c["punc"] for c in clauses).replace(" ", "") == spoken.text.replace(" ", "")
    assert [pair for c in clauses for pair in c["ts_list"]] == [
        [round(1000 * word.start_s), round(1000 * word.end_s)] for word in plain.words
    ]
    assert (clauses[-1]["start"], clauses[-1]["end"]) == (clauses[-1]["ts_list"][0][0], clauses[-1]["ts_list"][-1][1])
    assert "stamp_sents" not in text_frame(Request(), Event(plain))


@pytest.mark.parametrize("punctuates", [True, False])
def test_the_deltas_of_a_stream_joined_are_the_text(punctuator, punctuates, spoken, plain):
    async def recognise(decoded, **_):
        for answer, (start_ms, end_ms) in zip(PIPELINE["answers"], PIPELINE["segments_ms"], strict=True):
            wave = np.zeros(16 * (end_ms - start_ms), np.float32)
            yield SimpleNamespace(start=16 * start_ms, wave=wave), recognition(answer["text"], answer["timestamp"])

    engine = SimpleNamespace(transcriber=recogniser(punctuator if punctuates else None), recognise=recognise)

    async def collect():
        decoded = SimpleNamespace(num_samples=16 * 15270)
        return [event async for event in transcript_events(engine, decoded, logprobs=True)]

    *deltas, done = asyncio.run(collect())
    expected = (spoken if punctuates else plain).text
    assert len(deltas) > 1 and "".join(event["delta"] for event in deltas) == done["text"] == expected
    assert "".join(token["token"] for event in deltas for token in event["logprobs"]) == expected


# ── segments that fail ──


def heard_of(num_samples):
    heard = Heard(iter([np.ones(num_samples, np.float32)]), RATE_HZ)
    list(heard)
    return heard


def transcribe_with_failures(failures):
    source, items = Source(lambda: iter(()), "talk.wav"), []
    for number, failure in enumerate(failures):
        start = number * RATE_HZ
        result = recognition("你好", [[0, 200], [200, 400]]) if failure is None else failure
        items.append((Place(source, start, start + RATE_HZ), result))
    num_samples = len(failures) * RATE_HZ
    items.append((Place(source, num_samples, num_samples, heard_of(num_samples)), NOTHING))
    (outcome,) = transcribe_segments(recogniser(recognise_many=lambda items, *_, keep_failures: items), items)
    return outcome


def failed(error):
    return Recognition(*(np.zeros(0, np.float32) for _ in range(4)), failure=error)


def test_a_segment_that_fails_is_named_and_the_rest_is_kept():
    outcome = transcribe_with_failures([None, failed(RuntimeError("out of memory\nat line 3")), None])
    assert not outcome.error and outcome.transcript.text == "你好你好"
    (failure,) = outcome.transcript.failures
    assert (failure.start_s, failure.end_s, failure.reason) == (1.0, 2.0, "out of memory")
    assert outcome.transcript.to_plain()["failures"] == [{"start_s": 1.0, "end_s": 2.0, "reason": "out of memory"}]


def test_a_sound_of_which_every_segment_fails_is_an_error():
    outcome = transcribe_with_failures([failed(MemoryError())] * 2)
    assert outcome.error == "talk.wav: none of its segments could be recognised (2 failed: MemoryError)"


def test_what_fails_in_a_batch_is_tried_again_alone():
    calls = []

    def start(waves):
        calls.append([len(wave) for wave in waves])
        if len(waves) > 1 or len(waves[0]) == 7:
            raise RuntimeError(f"no room for {len(waves)}")
        return lambda: [SimpleNamespace(finite=len(waves[0]) != 9, failure=None)]

    waves = [np.zeros(size, np.float32) for size in (5, 7, 9)]
    finish = start_safely(start, waves, lambda error: SimpleNamespace(failure=error))
    first, second, third = finish()
    assert calls == [[5, 7, 9], [5], [7], [9]]
    assert first.failure is None and str(second.failure) == "no room for 1"
    assert isinstance(third.failure, NonFiniteError)
    rows = [SimpleNamespace(finite=finite, failure=None) for finite in (True, False)]
    first, second = start_safely(lambda waves: lambda: rows, waves[:2], lambda error: SimpleNamespace(failure=error))()
    assert first.failure is None and isinstance(second.failure, NonFiniteError)
    with pytest.raises(ValueError, match="a mistake"):
        start_safely(lambda waves: exec("raise ValueError('a mistake')"), waves, None)


def test_a_transcriber_keeps_the_punctuator_that_it_is_loaded_with(monkeypatch, folder, punctuator):
    monkeypatch.setattr("asr.inference.transcriber.load_transcriber", lambda *_: SimpleNamespace())
    assert asr.load(folder.parent, punct=folder).punctuator.punctuate("你好") == punctuator.punctuate("你好")
    assert asr.load(folder.parent, punct=punctuator).punctuator is punctuator
    assert asr.load(folder.parent).punctuator is None
    with pytest.raises(UserError, match="expected a run of asr.train"):
        asr.load(folder.parent, punct=folder.parent)
