"""Which installed fonts can write a text."""

import functools
import logging
from collections.abc import Collection, Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

log = logging.getLogger("asr")

PREFERRED = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
)
"""Searched for each character in this order, as far as they are installed; then all others."""

WITHOUT_LETTERS = ("Last Resort", "cmex", "cmmi", "cmsy", "STIXNonUnicode", "STIXSize")
"""Beginnings of the names of fonts that have boxes or signs in the places of letters."""

NUM_NAMED = 20

_named: set[str] = set()


def find_fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the font families that write the texts, and the characters that none of the installed ones has.

    Those characters are named in a warning, once in a process.
    """
    wanted = {character for text in texts for character in text if character.isprintable() and character != " "}
    installed = _installed()
    families, missing = [], set(wanted)
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
    while "\0\0" in shown:
        shown = shown.replace("\0\0", "\0")
    return shown.replace("\0", "…")


@functools.cache
def _installed() -> dict[str, str]:
    """Return family → file, of the upright face of normal weight where there is one."""
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
        return frozenset()  # a damaged font writes nothing


def _rank(family: str) -> tuple[int, str]:
    return (PREFERRED.index(family) if family in PREFERRED else len(PREFERRED)), family
