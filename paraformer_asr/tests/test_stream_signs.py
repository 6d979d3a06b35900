"""Signs in the text of a stream: what is decided stays, and the words are those of the text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.inference.punctuation import load_punctuator
from asr.inference.stream_signs import StreamSigns
from asr.inference.typesetting import needs_space
from recorded_punctuation import ANSWERS, write_folder
from tiny_stream import make_transcriber, random_wave, stream_all

WORDS = [word for word in ANSWERS["streaming"]["words"] if word.isalnum()]
SIGNS = re.compile(r"[,.?，。？、]")


def letters(text):
    """Return a text without what punctuation may change; no blank follows a wide sign."""
    text = SIGNS.sub("", text).lower()
    return text if text.isascii() else text.replace(" ", "")


@pytest.fixture(scope="module", params=["streaming", "offline"])
def punctuator(request, tmp_path_factory):
    return load_punctuator(write_folder(tmp_path_factory.mktemp("punct"), request.param))


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    return load_punctuator(write_folder(tmp_path_factory.mktemp("punct"), "streaming"))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_text_that_grows_keeps_its_words_and_its_decided_signs(streaming, data):
    text, words = "", data.draw(st.sampled_from([WORDS, [word for word in WORDS if word.isascii()]]))
    for word in data.draw(st.lists(st.sampled_from(words), max_size=30)):
        text += " " * (bool(text) and needs_space(text[-1], word)) + word
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    signs, before = StreamSigns(streaming), ""
    for cut in [*cuts, len(text)]:
        shown = signs.push(text[:cut])
        assert letters(shown) == letters(text[:cut])
        decided = before.rstrip().rpartition(" ")[0]
        assert shown.startswith(decided)  # all but the last word, which may still have grown
        before = shown if " " in shown else ""


def test_events_have_signs_with_a_model_for_streams_only(punctuator):
    transcriber = make_transcriber()
    transcriber.punctuator = punctuator
    events = stream_all(transcriber.stream(), random_wave(8.0))
    assert len(events) > 5 and events[-1].final
    for event in events:
        assert letters(event.punctuated) == letters(event.partial)
    assert any(SIGNS.search(event.punctuated) for event in events) == punctuator.config.streaming
    assert SIGNS.search(events[-1].transcript.text)
