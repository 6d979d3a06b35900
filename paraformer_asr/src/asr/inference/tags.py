"""The tags that SenseVoice writes into its text, and the text with emoji in their place.

    <|en|><|HAPPY|><|Speech|><|woitn|>good morning
    language en, emotion HAPPY, event Speech; text "good morning"; rich text "good morning😊"

Neither jax nor numpy is imported here.
"""

import collections
import re
from typing import NamedTuple

LANGUAGES = ("zh", "en", "yue", "ja", "ko", "nospeech")

EMOTIONS = {
    "NEUTRAL": "",
    "HAPPY": "😊",
    "SAD": "😔",
    "ANGRY": "😡",
    "FEARFUL": "😰",
    "DISGUSTED": "🤢",
    "SURPRISED": "😮",
}
EVENTS = {
    "BGM": "🎼",
    "Speech": "",
    "Applause": "👏",
    "Laughter": "😀",
    "Cry": "😭",
    "Sneeze": "🤧",
    "Breath": "",
    "Cough": "🤧",
}
WITHOUT_EMOJI = ("EMO_UNKNOWN", "Sing", "Speech_Noise", "GBG", "Event_UNK", "withitn", "woitn")

NOTHING_HEARD = "<|nospeech|><|Event_UNK|>"

_language = re.compile(f"<\\|(?:{'|'.join(LANGUAGES)})\\|>")
_other = re.compile(f"<\\|({'|'.join((*EMOTIONS, *EVENTS, *WITHOUT_EMOJI))})\\|>")
_any = re.compile(r"<\|([^<|>]+)\|>")
_feelings = {emoji for emoji in EMOTIONS.values() if emoji}
_sounds = {emoji for emoji in EVENTS.values() if emoji} | {"😷"}
_emoji = re.compile(f" ?({'|'.join(_feelings | _sounds)}) ?")


class Tags(NamedTuple):
    """What a text's first tag of each kind says; empty without one."""

    language: str = ""
    emotion: str = ""
    event: str = ""
    tagged: str = ""  # the text with all of its tags


def read_tags(tagged: str) -> Tags:
    """Return the tags of a text."""
    names = _any.findall(tagged)

    def first(*kinds: str) -> str:
        return next((name for name in names if name in kinds), "")

    events = *EVENTS, "Sing", "Speech_Noise", "GBG", "Event_UNK"
    return Tags(first(*LANGUAGES), first(*EMOTIONS, "EMO_UNKNOWN"), first(*events), tagged)


def rich_text(tagged: str) -> str:
    """Return a text with emoji instead of its tags, as FunASR's `rich_transcription_postprocess` does.

    A language tag begins a part. The events of a part stand in front of it, its most frequent emotion behind it. An
    emoji that the neighbouring part already has there is left out.
    """
    first, *parts = map(_with_emoji, _language.split(tagged.replace(NOTHING_HEARD, "❓")))
    text, last_sound = " " + first, None
    for part in parts:
        if last_sound and part[:1] == last_sound:
            part = part[1:]
        if not part:
            continue
        last_sound = part[0] if part[0] in _sounds else None
        if part[-1] in _feelings and part[-1] == text[-1]:
            text = text[:-1]
        text += part.strip()
    return text.replace("The.", " ").strip()


def _with_emoji(part: str) -> str:
    count = collections.Counter(_other.findall(part))
    sounds = "".join(reversed([emoji for name, emoji in EVENTS.items() if count[name]]))
    feeling = EMOTIONS[max(EMOTIONS, key=count.__getitem__)]
    return _emoji.sub(r"\1", sounds + _other.sub("", part) + feeling).strip()
