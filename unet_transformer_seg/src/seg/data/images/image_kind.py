"""Which files count as images, by their names, and what an unreadable one is, from its first bytes."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from seg.data.images import array_file, dicom_file, nifti_file
from seg.errors import UserError
from seg.files import open_file
from seg.untrusted import escaped

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SUFFIXES = (*PICTURES, *array_file.SUFFIXES, *nifti_file.SUFFIXES, *dicom_file.SUFFIXES)

START_BYTES = 512

MACOS = "a file of macOS attributes, not an image"
TIFF = "a damaged TIFF, or one of a kind that is read under the name .tif only"
BIG_TIFF = "a damaged BigTIFF, or one that is not named .tif"

KINDS = (
    (0, b"\x00\x05\x16\x07", MACOS),
    (0, b"\x00\x05\x16\x00", MACOS),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself; fetch it with `git lfs pull`"),
    (0, b"GIF8", "a damaged GIF"),
    (0, b"\x89PNG", "a damaged PNG"),
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (0, b"BM", "a damaged or unsupported BMP"),
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"II+\0", BIG_TIFF),
    (0, b"MM\0+", BIG_TIFF),
    (8, b"WEBP", "a damaged WebP"),
    (4, b"ftypavif", "an AVIF image; convert it to PNG or JPEG"),
    (4, b"ftypavis", "an AVIF sequence; convert it to PNG or JPEG"),
    *((4, b"ftyp" + brand, "a HEIC image; convert it to PNG or JPEG") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftypcrx", "a raw camera image; convert it to PNG or TIFF"),
    (4, b"ftyp", "a video; convert it to single images"),
    (4, b"jP  \r\n", "a JPEG 2000 image; convert it to PNG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image; convert it to PNG"),
    (0, b"\xff\x0a", "a JPEG XL image; convert it to PNG"),
    (4, b"JXL \r\n", "a JPEG XL image; convert it to PNG"),
    (0, b"8BPS", "a Photoshop file; convert it to PNG"),
    (0, b"v/1\x01", "an OpenEXR image; convert it to a float TIFF"),
    (0, b"%PDF", "a PDF; convert its pages to PNG"),
    (128, b"DICM", "a DICOM file; name it .dcm"),
    (0, b"\x93NUMPY", "a numpy array; name it .npy"),
    (0, b"PK\x03\x04", "a zip archive; unpack it (numpy arrays end in .npz)"),
    (0, b"\x1f\x8b", "a gzip file; unpack it (NIfTI volumes end in .nii.gz)"),
    (0, b"\x89HDF", "an HDF5 file; save its arrays as .npy"),
    *((0, b"P%d" % n, "a PNM image; convert it to PNG") for n in range(1, 8)),
)


def describe_kind(start: bytes) -> str:
    """Return what a file is that starts with `start`."""
    if not start:
        return "an empty file"
    for place, magic, kind in KINDS:
        if start[place : place + len(magic)] == magic:
            return kind
    head = start[:64]
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, as servers send instead of a missing file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"text that starts with {head[:24].decode()!r}"
    if not any(start):
        return "all zeros, as after an interrupted copy"
    return f"not an image, its first bytes are {head[:8].hex(' ')}"


def read_kind(path: Path) -> str:
    """Return what the regular file `path` is."""
    with open_file(path) as file:
        return describe_kind(file.read(START_BYTES))


JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
"""Folders created by macOS, network storage and Windows, in lower case. Hidden ones start with a dot."""

UNREADABLE_IMAGES = ".heic .heif .avif .jp2 .j2k .jxl .jfif .jpe .dng .cr2 .cr3 .nef .arw .raw .psd .exr .hdr .svg .tga"
UNREADABLE_DATA = ".ppm .pgm .pbm .pnm .nrrd .mat .h5 .hdf5 .svs .ndpi .czi .lif .mp4 .mov .avi .zip .gz"
UNREADABLE = frozenset(f"{UNREADABLE_IMAGES} {UNREADABLE_DATA}".split())
"""Suffixes of unsupported image files, which are named in messages."""

MAX_SHOWN = 12


def has_image_name(file: Path) -> bool:
    """Return whether the suffix of a name is that of an image."""
    return file.name.lower().endswith(SUFFIXES)


def stem_of(file: Path) -> str:
    """Return the name of a file without its suffix, which may be .nii.gz."""
    return file.stem[: -len(".nii")] if file.name.lower().endswith(".nii.gz") else file.stem


def find_images(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted. Hidden files, junk and linked folders are skipped."""
    return [file for file in _walk(folder) if has_image_name(file)]


def find_unreadable(folder: Path) -> list[str]:
    """Return a remark if there are probably unsupported images below the folder, else nothing."""
    counts = Counter(file.suffix.lower() for file in _walk(folder) if not has_image_name(file))
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
