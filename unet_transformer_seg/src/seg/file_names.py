"""Turns untrusted names into file names: safe, distinct on every file system, and inside their folder."""

import unicodedata
from pathlib import Path

from seg.errors import UserError
from seg.untrusted import HARMFUL


def safe_path(name: str) -> str:
    """Return a relative path like `name` that is not hidden and stays inside its folder.

    Leading dots, control characters and lone surrogates become underscores.

    Args:
        name: untrusted, its parts separated by "/".
    """
    parts = [HARMFUL.sub("_", part) for part in name.split("/") if part]
    return "/".join("_" * (len(part) - len(rest := part.lstrip("."))) + rest for part in parts) or "_"


def name_key(name: str) -> str:
    """Return a key that is equal for names that are the same on some file system: case and composition are ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leaves `folder` by a link.

    Raises:
        UserError: naming the place of the link.
    """
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: a link at {path.parent} leads out of it; remove the link, or choose another folder")


def folder_links(folder: Path) -> list[Path]:
    """Return the links to folders below `folder`, which a recursive search does not follow."""
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_dir()]
