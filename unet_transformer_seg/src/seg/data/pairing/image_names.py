"""Which files of a folder are images, by their names."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from seg.data.images.image_kind import SUFFIXES
from seg.errors import UserError
from seg.untrusted import escaped

JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
"""Folders created by macOS, network storage and Windows, in lower case. Hidden ones start with a dot."""

UNREADABLE_IMAGES = ".heic .heif .avif .jp2 .j2k .jxl .jfif .jpe .dng .cr2 .cr3 .nef .arw .raw .psd .exr .hdr .svg .tga"
UNREADABLE_DATA = ".ppm .pgm .pbm .pnm .dcm .nii .nrrd .mat .h5 .hdf5 .svs .ndpi .czi .lif .mp4 .mov .avi .zip .gz"
UNREADABLE = frozenset(f"{UNREADABLE_IMAGES} {UNREADABLE_DATA}".split())
"""Suffixes of unsupported image files, which are named in messages."""

MAX_SHOWN = 12


def find_images(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted. Hidden files, junk and linked folders are skipped.

    Raises:
        UserError: a folder that cannot be read.
    """
    return [file for file in _walk(folder) if file.suffix.lower() in SUFFIXES]


def find_unreadable(folder: Path) -> list[str]:
    """Return a remark if there are probably unsupported images below the folder, else nothing."""
    counts = Counter(file.suffix.lower() for file in _walk(folder))
    if not (others := {suffix: count for suffix, count in counts.items() if suffix in UNREADABLE}):
        return []
    are = "are" if sum(others.values()) > 1 else "is"
    return [f"{folder}: {_in_words(others)} {are} not read; convert to PNG, JPEG or TIFF"]


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or created by an operating system."""
    return name.startswith(".") or name.lower() in JUNK_FOLDERS


def composed(name: str) -> str:
    """Return the name in composed Unicode form: macOS writes é as two characters, others as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def describe_folder(folder: Path) -> str:
    """Describe the contents of a folder: its folders, and the number of files of each suffix."""
    if not os.path.isdir(folder):
        return f"there is no folder {escaped(str(folder))}"
    try:
        with os.scandir(folder) as entries:
            kinds = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    folders = sorted(escaped(name) for name, is_folder in kinds if is_folder and not is_junk(name))
    parts = [f"{name}/" for name in folders[:MAX_SHOWN]]
    parts += [f"{len(folders) - MAX_SHOWN} more folders"] if len(folders) > MAX_SHOWN else []
    files = [name for name, is_folder in kinds if not is_folder and not is_junk(name)]
    if len(files) + len(folders) <= MAX_SHOWN:
        parts += sorted(escaped(name) for name in files)
    else:
        parts += [_in_words(Counter(Path(name).suffix.lower() for name in files))]
    return f"{folder} holds {', '.join(filter(None, parts)) or 'nothing'}"


def _walk(folder: Path) -> Iterable[Path]:
    """Return files and broken links; opening one of those raises the error."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_junk(name)]
        files += [Path(parent, name) for name in names if not is_junk(name)]
    return sorted(file for file in files if os.path.isfile(file) or os.path.islink(file))


def _in_words(counts: dict[str, int]) -> str:
    """Return "20 files of .heic, 3 files of .txt and 1 file of no suffix"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SHOWN]
    words = [f"{n} file{'s' * (n > 1)} of {escaped(s) or 'no suffix'}" for s, n in ordered]
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + words[-1:])
