"""The limits of the service: each is documented with its default, and refused if it makes no sense."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from asr.errors import UserError
from asr.serve.settings import MAY_BE_ZERO, MIB, ServeSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
NAMES = [field.name for field in dataclasses.fields(ServeSettings)]


def shown(value):
    return f"{value // MIB} MiB" if value >= MIB else f"{value:g}"


@pytest.mark.parametrize("name", NAMES)
def test_the_document_states_each_limit_with_its_default_and_meaning(name):
    meaning = re.search(rf"^    {name}: .*?  # (.*)$", inspect.getsource(ServeSettings), re.MULTILINE)[1]
    assert f"| `{name}` | {shown(getattr(ServeSettings(), name))} | {meaning} |\n" in DOCUMENT.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_positive(name):
    for value in (0, -1, float("nan")):
        if value == 0 and name in MAY_BE_ZERO:
            assert getattr(ServeSettings(**{name: value}), name) == 0
            continue
        with pytest.raises(UserError, match=f"limit {name}: expected a number above 0"):
            ServeSettings(**{name: value})
