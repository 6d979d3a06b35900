"""What a transcription says: tokens and words with their times, and the text."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Token:
    """One unit of the model's output.

    Attributes:
        text: as it stands in the vocabulary.
        start_s: when it begins, from the start of the sound.
        end_s: when it ends.
        confidence: the model's probability, 0 to 1.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Word:
    """What stands between two blanks, or one character of a script that is written without them.

    Attributes:
        text: without blanks.
        start_s: when it begins, from the start of the sound.
        end_s: when it ends.
        confidence: of its least certain token.
        parts: the tokens that it was made of, their texts as they stand in the word.
        space_before: a blank stands between it and the word before.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    parts: tuple[Token, ...] = ()
    space_before: bool = True


@dataclasses.dataclass(frozen=True)
class SegmentText:
    """What was said in one segment.

    Attributes:
        start_s: when the segment begins, from the start of the sound.
        end_s: when it ends.
        text: its words.
    """

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was said in one file.

    Attributes:
        file: the path, as it was given.
        duration_s: of the sound.
        text: of all segments, a blank between two of them.
        words: in order.
        tokens: in order; special tokens are left out.
        segments: in order.
        name: what results are called, no two files alike; empty for the stem of the file.
    """

    file: str
    duration_s: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()
    segments: tuple[SegmentText, ...] = ()
    name: str = ""
