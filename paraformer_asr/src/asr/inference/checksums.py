"""Checksums of a model folder: `checksums.txt` has a line for each file, as `sha256sum -c` reads it."""

import hashlib
import re
from pathlib import Path

from asr.errors import UserError
from asr.files import decoded, open_file, read_bounded, replace_text
from asr.untrusted import shown

CHECKSUMS = "checksums.txt"

MAX_CHECKSUM_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30  # largest file accepted that is not weights; the program has a few megabytes
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder into it."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    replace_text(folder / CHECKSUMS, "".join(lines))


class CheckedFolder:
    """Reads the listed files of a model folder, and refuses those that changed after they were written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._expected = _read_checksums(folder / CHECKSUMS)
        self._unchecked = set(self._expected)

    def read(self, path: Path, max_bytes: int) -> bytes:
        """Return the bytes of a file as `read_bounded` does; refuse one that is not listed or has changed."""
        content = read_bounded(path, max_bytes)
        self.check(path, hashlib.sha256(content).hexdigest())
        return content

    def check(self, path: Path, sha256: str) -> None:
        """Refuse a file if the SHA-256 of the bytes that were read is not the listed one."""
        if path.name not in self._expected:
            raise UserError(f"{self.folder / CHECKSUMS}: has no checksum of {path.name}; export the model again")
        if sha256 != self._expected[path.name]:
            raise UserError(
                f"{path}: is not as it was written (SHA-256 differs); copy or export the model again. If the change is "
                f"meant, put the line that `sha256sum {path.name}` prints in the place of its line in {CHECKSUMS}"
            )
        self._unchecked.discard(path.name)

    def check_the_others(self) -> None:
        """Refuse the folder if a listed file that was not read is missing or has changed."""
        for name in sorted(self._unchecked):
            path = self.folder / name
            try:
                self.check(path, _sha256(path))
            except FileNotFoundError:
                raise UserError(f"{path}: is missing; {CHECKSUMS} lists it. Copy or export the model again") from None
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_checksums(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each listed file, without the line on the list itself that `sha256sum *` writes."""
    try:
        lines = decoded(path, read_bounded(path, MAX_CHECKSUM_BYTES), "checksums").splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: expected the checksums of the model ({reason}); export the model again") from None
    expected = {}
    for number, line in enumerate(lines, 1):
        entry = _LINE.fullmatch(line)
        if not entry or entry[2] in expected or entry[2] in (".", ".."):
            raise UserError(f"{path}:{number}: expected the SHA-256 of one more file and its name, found {shown(line)}")
        expected[entry[2]] = entry[1]
    expected.pop(CHECKSUMS, None)
    return expected


def _sha256(path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
            if size > MAX_FILE_BYTES and path.suffix != ".safetensors":
                raise UserError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found more")
    return digest.hexdigest()
