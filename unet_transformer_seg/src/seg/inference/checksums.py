"""Reads the files of a model folder and verifies their checksums.

checksums.txt has one line per file, SHA-256, two spaces and name, as `sha256sum -c` reads it.
"""

import hashlib
import re
from pathlib import Path

from seg.errors import UserError
from seg.files import decoded, open_file, read_bounded, replace_text
from seg.untrusted import shown

CHECKSUMS = "checksums.txt"

MAX_CHECKSUM_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
"""Largest file other than the weights, in bytes. (A sparse file of any size costs nothing to make.)"""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder into it."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    replace_text(folder / CHECKSUMS, "".join(lines))


class CheckedFolder:
    """Reads the files of a model folder, each once, and refuses those that changed. Unlisted files are ignored."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._expected = _read_checksums(folder / CHECKSUMS)
        self._unchecked = set(self._expected)

    def read(self, path: Path, max_bytes: int) -> bytes:
        """Return the bytes of a file of the folder, as `seg.files.read_bounded` does, if they are as written."""
        content = read_bounded(path, max_bytes)
        self.check(path, hashlib.sha256(content).hexdigest())
        return content

    def check(self, path: Path, sha256: str) -> None:
        """Refuse a file if the SHA-256 of the bytes read from it is not the listed one."""
        if path.name not in self._expected:
            raise UserError(f"{self.folder / CHECKSUMS}: has no checksum of {path.name}; export the model again")
        if sha256 != self._expected[path.name]:
            raise UserError(
                f"{path}: is not as it was written (SHA-256 differs); copy or export the model again. If the change is "
                f"meant, put the line that `sha256sum {path.name}` prints in the place of its line in {CHECKSUMS}"
            )
        self._unchecked.discard(path.name)

    def check_the_others(self) -> None:
        """Refuse the folder if a listed file that was not read is missing or changed."""
        for name in sorted(self._unchecked):
            path = self.folder / name
            try:
                self.check(path, _sha256(path))
            except FileNotFoundError:
                raise UserError(f"{path}: is missing; {CHECKSUMS} lists it. Copy or export the model again") from None
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_checksums(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each listed file, without the list itself (which `sha256sum *` adds)."""
    try:
        lines = decoded(path, read_bounded(path, MAX_CHECKSUM_BYTES), "checksums").splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: expected the checksums of the model ({reason}); export the model again") from None
    expected = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not match or match[2] in expected or match[2] in (".", ".."):
            raise UserError(f"{path}:{number}: expected the SHA-256 of one more file and its name, found {shown(line)}")
        expected[match[2]] = match[1]
    expected.pop(CHECKSUMS, None)
    return expected


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal digits."""
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
            if size > MAX_FILE_BYTES and path.suffix != ".safetensors":
                raise UserError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more")
    return digest.hexdigest()
