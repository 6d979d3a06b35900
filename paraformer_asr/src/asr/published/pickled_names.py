"""Names that the pickle of a weights file may use: tensor parts, plain data and inert placeholders, but no programs.

Training programs save epochs, learning rates or whole configurations beside the weights, as objects of any package.
Such an object becomes a placeholder: its package is neither imported nor run. An attack needs functions of Python's
standard library, and weights need none: a pickle that names one is refused, except for types of plain data.
"""

import sys
from typing import Any

REMEDY = "load it with torch and save model.state_dict()"

PLAIN_DATA = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "builtins": {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object"}
    | {"long", "range", "set", "slice", "str", "tuple", "type", "unicode", "xrange"},
    "collections": {"deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "enum": {"Enum", "IntEnum"},
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "types": {"SimpleNamespace"},
    "typing": {"Any", "Dict", "List", "Optional", "Tuple", "Union"},
    "uuid": {"UUID"},
}
"""Standard-library types that are saved beside weights, and the functions that pickles rebuild them with."""

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
"""Module names of other Python versions → ours."""


class Placeholder:
    """Stands in for an object of another package; whatever a pickle does with it has no effect.

    Attributes:
        what: qualified name of its class or function.
    """

    what = ""

    def __new__(cls, *_: Any, **__: Any):
        """Return a placeholder; the arguments are dropped."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Drop an item."""

    def append(self, _value: Any) -> None:
        """Drop an element, as `extend` and `add` do."""

    extend = add = append


def is_placeholder(value: Any) -> bool:
    """Return whether a value stands in for an object, class or function of another package."""
    return isinstance(value, Placeholder) or (isinstance(value, type) and issubclass(value, Placeholder))


def is_of_a_program(module: str, name: str) -> bool:
    """Return whether a name belongs to Python's standard library and is not plain data."""
    module = OLD_MODULES.get(module, module)
    top = module.split(".")[0]
    return top in sys.stdlib_module_names and name not in PLAIN_DATA.get(module, ())


def placeholder_class(module: str, name: str) -> type[Placeholder]:
    """Return a class that stands in for a name; a pickle may call it or use it as a type."""
    return type("Placeholder", (Placeholder,), {"what": f"{module}.{name}"})
