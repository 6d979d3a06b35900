"""A transcript in each format that `response_format` names.

Reference: OpenAI's interface; the compression ratio is Whisper's: bytes of a text over those of its zlib stream.
"""

import collections
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from asr.inference.transcript import SegmentText, Sentence, Transcript
from asr.inference.words import Token, Word
from asr.serve.options import Options

UNKNOWN_LANGUAGE = "und"
"""The code of BCP 47 for a language that is not determined."""
MIN_PROBABILITY = 1e-10
ROUNDING_S = 1e-3
"""Times of tokens are float32: in hours of sound they are this exact."""

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
TEXTS: dict[str, Callable[[Transcript], str]] = {
    "text": Transcript.to_text,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
}


def write_answer(transcript: Transcript, options: Options, token_ids: Mapping[str, int], language: str) -> str:
    """Return the body of an answer.

    Args:
        transcript: of the sound.
        options: of the client.
        token_ids: of the model, by the texts of its tokens.
        language: of the model; "" if it is not known.
    """
    if options.response_format in TEXTS:
        return TEXTS[options.response_format](transcript)
    usage = {"type": "duration", "seconds": round(transcript.duration_s, 3)}
    if options.response_format == "json":
        logprobs = {"logprobs": list(list_logprobs(transcript.words))} if options.logprobs else {}
        content = {"text": transcript.text, **logprobs, "usage": usage}
    else:
        content = {
            "task": "transcribe",
            "language": language or _heard_language(transcript) or UNKNOWN_LANGUAGE,
            "duration": round(transcript.duration_s, 3),
            "text": transcript.text,
            **({"words": [_word(word) for word in transcript.words]} if options.words else {}),
            **({"segments": list(_segments(transcript, token_ids))} if options.segments else {}),
            "usage": usage,
        }
    return to_json(content)


def to_json(content: Mapping[str, Any]) -> str:
    """Return one line of JSON, which every browser reads: no NaN."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def list_logprobs(words: Sequence[Word], *, continues: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the tokens of words; joined they are the text of the words.

    Args:
        words: in order.
        continues: a text comes before them, so that the first one may begin with a blank.
    """
    for number, word in enumerate(words):
        blank = " " if word.space_before and (number or continues) else ""
        for part in word.parts:
            text, blank = blank + part.text, ""
            yield {"token": text, "bytes": list(text.encode()), "logprob": _logprob(part.confidence)}


def _word(word: Word) -> dict[str, Any]:
    times = {"start": round(word.start_s, 3), "end": round(word.end_s, 3)}
    return {"word": word.text, **times, "confidence": round(word.confidence, 4)}


def _segments(transcript: Transcript, token_ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the sentences, or else the segments, with all fields that the clients of OpenAI require."""
    rest, segments = collections.deque(transcript.tokens), transcript.sentences or transcript.segments
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        tokens = []
        while rest and (is_last or rest[0].end_s <= segment.end_s + ROUNDING_S):
            tokens.append(rest.popleft())
        yield _segment(number, segment, tokens, token_ids)


def _segment(
    number: int, segment: SegmentText | Sentence, tokens: Sequence[Token], token_ids: Mapping[str, int]
) -> dict[str, Any]:
    text = segment.text.encode()
    logprobs = [_logprob(token.confidence) for token in tokens]
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [token_ids[token.text] for token in tokens],
        "temperature": 0.0,
        "avg_logprob": round(sum(logprobs) / max(len(logprobs), 1), 6),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": 0.0,
        **(segment.tags if isinstance(segment, SegmentText) else {}),
    }


def _heard_language(transcript: Transcript) -> str:
    """Return the language that the model heard in the first segment with speech; "" of a model that does not tell."""
    heard = (segment.language for segment in transcript.segments)
    return next((language for language in heard if language not in ("", "nospeech")), "")


def _logprob(probability: float) -> float:
    return round(math.log(max(probability, MIN_PROBABILITY)), 6)
