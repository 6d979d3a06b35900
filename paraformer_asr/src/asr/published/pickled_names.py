"""What the pickle of a file of weights may name: the parts of tensors, things that count for nothing, and no programs.

People save an epoch, a learning rate or all settings of a run beside the weights, as objects of any package. Such an
object becomes a placeholder here: its package is neither imported nor run. Python's own library holds the functions
that an attack needs, and weights need none of them: a file that names one is refused, but for its types of plain data.
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
"""Types of Python's library that people save beside weights, and what pickles need to write them."""

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
"""Names of modules in other versions of Python."""


class Placeholder:
    """Stands for an object of another package; it swallows what a pickle does with it.

    Attributes:
        what: name of its class or function, `package.name`.
    """

    what = ""

    def __new__(cls, *_: Any, **__: Any):
        """Return a placeholder, whatever the arguments are."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Swallow an item."""

    def append(self, _value: Any) -> None:
        """Swallow an element; so do `extend` and `add`."""

    extend = add = append


def is_placeholder(value: Any) -> bool:
    """Return whether a value stands for an object of another package, or for a class or function of one."""
    return isinstance(value, Placeholder) or (isinstance(value, type) and issubclass(value, Placeholder))


def is_of_a_program(module: str, name: str) -> bool:
    """Return whether a name is one of Python's own library and no plain data."""
    module = OLD_MODULES.get(module, module)
    top = module.split(".")[0]
    return top in sys.stdlib_module_names and name not in PLAIN_DATA.get(module, ())


def placeholder_class(module: str, name: str) -> type[Placeholder]:
    """Return the class that stands for a name; it may be called, and made new, as a pickle does both."""
    return type("Placeholder", (Placeholder,), {"what": f"{module}.{name}"})
