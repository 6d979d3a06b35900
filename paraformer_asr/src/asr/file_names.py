"""Names of strangers' files as names of ours: safe, told apart on every file system, and inside their folder."""

import unicodedata
from pathlib import Path

from asr.errors import UserError
from asr.untrusted import HARMFUL


def safe_path(name: str) -> str:
    """Return a relative path like `name` that stays inside the folder it is put in, and is not hidden there.

    Parts of dots, and what would steer a terminal or is not UTF-8, become underscores.

    Args:
        name: from anybody, its parts separated by "/".
    """
    parts = [HARMFUL.sub("_", part) for part in name.split("/") if part]
    return "/".join("_" * (len(part) - len(rest := part.lstrip("."))) + rest for part in parts) or "_"


def name_key(name: str) -> str:
    """Return what two names have in common that are one on some file system: case and composed letters are ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_inside(folder: Path, path: Path) -> None:
    """Refuse to write to a path that a link below `folder` leads out of it.

    Raises:
        UserError: naming the link's place.
    """
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: {path.parent} leads out of it by a link; remove the link, or choose another folder")


def folder_links(folder: Path) -> list[Path]:
    """Return the links to folders below `folder`; a search that goes down does not follow them."""
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_dir()]
