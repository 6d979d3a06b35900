"""How many columns a text fills where every character has one cell, or two, as in a terminal or a subtitle.

Chinese characters, kana, Hangul syllables, full-width forms and emoji fill two columns; marks that join the character
before them fill none, nor do the further members of an emoji sequence.
"""

import unicodedata

JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"


def text_columns(text: str) -> int:
    """Return the number of columns of a text.

    Reference: Unicode Standard Annex 11 (East Asian Width) and Technical Standard 51 (emoji sequences).
    """
    columns, last, joined, flag = 0, 0, False, False
    for character in text:
        if joined or "\U0001f3fb" <= character <= "\U0001f3ff" and last:  # within a sequence; a tone of skin
            joined = False
            continue
        joined = character == JOINER and last == 2
        width = _columns(character, last)
        half_flag = "\U0001f1e6" <= character <= "\U0001f1ff"  # two letters make one flag of two columns
        columns += 0 if half_flag and flag else width
        flag = half_flag and not flag
        last = width or last
    return columns


def _columns(character: str, last: int) -> int:
    """Return the columns that a character adds behind one of `last` columns."""
    if character == EMOJI_STYLE:  # the character before is drawn as an emoji
        return 1 if last == 1 else 0
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc") or "\u1160" <= character <= "\u11ff":
        return 0  # the vowels and final consonants of Hangul join the consonant before
    is_flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return 2 if is_flag or unicodedata.east_asian_width(character) in ("W", "F") else 1
