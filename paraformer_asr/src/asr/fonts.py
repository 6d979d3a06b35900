"""Finds installed fonts that can write a text."""

import functools
import logging
import re
from collections.abc import Collection, Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

log = logging.getLogger("asr")

PREFERRED = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC")
PREFERRED += ("Microsoft YaHei",)
"""Fonts that are searched first, in this order."""

WITHOUT_LETTERS = ("Last Resort", "cmex", "cmmi", "cmsy", "STIXNonUnicode", "STIXSize")
"""Prefixes of fonts that draw boxes or signs in place of letters."""

NUM_NAMED = 20  # most characters that a warning names

_named: set[str] = set()


def find_fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the font families that write the texts, and the characters that no installed font has.

    A warning names those characters, once in a process.
    """
    missing = {character for text in texts for character in text if character.isprintable() and character != " "}
    families, installed = [], _installed()
    for family in sorted(installed, key=_rank):
        has = _characters(installed[family]) if missing or family in PREFERRED else frozenset()
        if family in PREFERRED or missing & has:
            families.append(family)
        missing -= has
    if new := sorted(missing - _named):
        _named.update(new)
        more = f" and {len(new) - NUM_NAMED} more" if len(new) > NUM_NAMED else ""
        log.warning(
            "no installed font has %s%s: pictures show the numbers of such tokens instead; a font such as Noto Sans "
            "CJK has Chinese, Japanese and Korean letters",
            " ".join(new[:NUM_NAMED]),
            more,
        )
    return families, missing


def without(text: str, missing: Collection[str]) -> str:
    """Return a text with "…" in place of each run of characters that cannot be drawn."""
    shown = "".join("\0" if character in missing else character for character in text)
    return re.sub("\0+", "…", shown)


@functools.cache
def _installed() -> dict[str, str]:
    files: dict[str, str] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda e: (e.style != "normal", str(e.weight) != "400")):
        if not entry.name.startswith(WITHOUT_LETTERS):
            files.setdefault(entry.name, entry.fname)
    return files


@functools.cache
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()  # a damaged font has no characters


def _rank(family: str) -> tuple[int, str]:
    return (PREFERRED.index(family) if family in PREFERRED else len(PREFERRED)), family
