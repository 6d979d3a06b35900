"""Says what a file is that is no readable image, from its first bytes."""

from pathlib import Path

from seg.files import open_file

START_BYTES = 512

KINDS = (
    (0, b"\x00\x05\x16\x07", "a file in which macOS keeps attributes of another one, not an image"),
    (0, b"\x00\x05\x16\x00", "a file in which macOS keeps attributes of another one, not an image"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the image itself; fetch it with `git lfs pull`"),
    (0, b"GIF8", "a damaged GIF"),
    (0, b"\x89PNG", "a damaged PNG"),
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (0, b"BM", "a damaged BMP, or one of a rare kind"),
    (0, b"II*\0", "a TIFF of a kind that Pillow does not read, or a damaged one; save it as a TIFF of 8 or 16 bits"),
    (0, b"MM\0*", "a TIFF of a kind that Pillow does not read, or a damaged one; save it as a TIFF of 8 or 16 bits"),
    (0, b"II+\0", "a BigTIFF of a kind that Pillow does not read; save it as a TIFF of 8 or 16 bits"),
    (0, b"MM\0+", "a BigTIFF of a kind that Pillow does not read; save it as a TIFF of 8 or 16 bits"),
    (8, b"WEBP", "a damaged WebP"),
    (4, b"ftypavif", "an AVIF image; convert it to PNG or JPEG"),
    (4, b"ftypavis", "an AVIF sequence; convert it to PNG or JPEG"),
    *((4, b"ftyp" + brand, "a HEIC image; convert it to PNG or JPEG") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftypcrx", "a camera's raw image; convert it to PNG or TIFF"),
    (4, b"ftyp", "a film; convert it to single images"),
    (4, b"jP  \r\n", "a JPEG 2000 image; convert it to PNG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image; convert it to PNG"),
    (0, b"\xff\x0a", "a JPEG XL image; convert it to PNG"),
    (4, b"JXL \r\n", "a JPEG XL image; convert it to PNG"),
    (0, b"8BPS", "a Photoshop file; convert it to PNG"),
    (0, b"v/1\x01", "an OpenEXR image; convert it to a float TIFF"),
    (0, b"%PDF", "a PDF; convert its pages to PNG"),
    (128, b"DICM", "a DICOM file; convert it to 16-bit PNG or TIFF"),
    (0, b"\x93NUMPY", "a numpy array; name it .npy"),
    (0, b"PK\x03\x04", "a zip archive; unpack it (arrays of numpy end in .npz)"),
    (0, b"\x1f\x8b", "a file packed with gzip; unpack it"),
    (0, b"\x89HDF", "an HDF5 file; save its arrays as .npy"),
    *((0, b"P%d" % n, "a PNM image; convert it to PNG") for n in range(1, 8)),
)


def describe_kind(start: bytes) -> str:
    """Return what a file is that begins with `start`, as the end of "expected an image, found …"."""
    if not start:
        return "an empty file"
    for place, magic, kind in KINDS:
        if start[place : place + len(magic)] == magic:
            return kind
    head = start[:64]
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, as servers send it in place of a missing file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text that begins with {head[:24].decode()!r}"
    if not any(start):
        return "a file of zero bytes, as a broken copy leaves it"
    return f"not an image, its first bytes are {head[:8].hex(' ')}"


def read_kind(path: Path) -> str:
    """Return what the regular file `path` is."""
    with open_file(path) as file:
        return describe_kind(file.read(START_BYTES))
