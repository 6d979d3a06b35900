"""Which files count as images, and what an unreadable one is, from its first bytes."""

from pathlib import Path

from seg.data.images import array_file
from seg.files import open_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", *array_file.SUFFIXES)

START_BYTES = 512

MACOS = "a file of macOS attributes, not an image"
TIFF = "a damaged TIFF or one that Pillow does not read; save it as a TIFF of 8 or 16 bits"
BIG_TIFF = "a BigTIFF that Pillow does not read; save it as a TIFF of 8 or 16 bits"

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
    (128, b"DICM", "a DICOM file; convert it to 16-bit PNG or TIFF"),
    (0, b"\x93NUMPY", "a numpy array; name it .npy"),
    (0, b"PK\x03\x04", "a zip archive; unpack it (numpy arrays end in .npz)"),
    (0, b"\x1f\x8b", "a gzip file; unpack it"),
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
