"""Upper and lower case of texts, and the case of a vocabulary."""

import re
from collections.abc import Iterable
from typing import Literal

Case = Literal["keep", "lower", "upper"]
"""What is done to a text: nothing, or one case for all its letters."""

_special = re.compile("<[^<>]+>")


def in_case(text: str, case: Case) -> str:
    """Return the text in a case."""
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def find_only_case(tokens: Iterable[str]) -> Case:
    """Return the case of all letters of the tokens; "keep" if they have both cases, or none.

    Tokens such as `<OOV>` do not count.
    """
    letters = "".join(token for token in tokens if not _special.fullmatch(token))
    has_lower, has_upper = any(map(str.islower, letters)), any(map(str.isupper, letters))
    return "keep" if has_lower == has_upper else "lower" if has_lower else "upper"
