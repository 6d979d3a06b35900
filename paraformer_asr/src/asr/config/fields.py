"""How a setting and a section of the config are declared."""

import dataclasses


def setting(default, meaning: str, low: float | None = None, high: float | None = None):
    """Return a dataclass field with its meaning and its inclusive range."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


def section(section_type: type):
    """Return a dataclass field that holds another section with its defaults."""
    return dataclasses.field(default_factory=section_type, metadata={})
