"""Files that may be hostile are read within bounds; files that users keep appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from asr.errors import UserError
from asr.files import appearing, decoded, open_log, read_bounded, refuses_all, replace_json, replace_text, writing_aside


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_reading_is_bounded_and_takes_regular_files_only(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(UserError, match="expected at most 4 bytes, found more"):
        read_bounded(path, 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "missing", 5)
    with pytest.raises(UserError, match="no file can have this name"):
        read_bounded(Path("a\0b"), 5)
    with pytest.raises(UserError, match=f"{tmp_path}: expected a file, found a folder"):
        read_bounded(tmp_path, 5)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if kind == "device":
        path = Path("/dev/zero")
    elif kind != "pipe":
        path = tmp_path / "link"
        path.symlink_to("pipe")
    with pytest.raises(UserError, match=f"{path}: expected a file, found a pipe or a device"):
        read_bounded(path, 5)
    with pytest.raises(UserError, match=f"{path}: expected a file, found a pipe or a device"), writing_aside(path):
        pytest.fail("a device was to be replaced")


def test_a_text_has_no_mark_of_its_byte_order_and_one_end_of_line(tmp_path):
    assert decoded(tmp_path, b"\xef\xbb\xbfa\r\nb\rc", "words") == "a\nb\nc"
    with pytest.raises(UserError, match="x:3: expected words in UTF-8"):
        decoded(Path("x"), b"a\nb\n\xff", "words")


def test_a_file_appears_whole_with_the_rights_of_any_file(tmp_path):
    path = tmp_path / ("ä" * 125 + "name")  # 254 bytes
    with writing_aside(path) as aside:
        assert aside.parent == tmp_path and aside.name.startswith(".")
        assert names(tmp_path) == [aside.name]
        aside.write_text("new")
    (tmp_path / "other").touch()
    assert path.read_text() == "new" and len(names(tmp_path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_an_error_of_the_body_leaves_nothing_and_is_not_hidden(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(UserError, match=f"{path}: cannot be written .No space left"), writing_aside(path) as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == ["kept"] and path.read_text() == "old"

    def refuse(*_, **__):
        raise PermissionError("cannot be removed")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ZeroDivisionError), writing_aside(path):
        raise ZeroDivisionError


def test_planted_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", ".a.png.part", "a.png.part"):
        (folder / name).symlink_to(outside)
    with writing_aside(folder / "a.png") as aside:
        aside.write_text("new")
    replace_text(folder / "a.png.part", "new")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(folder / ".a.png.part")
    assert outside.read_text() == "precious"
    assert (folder / "a.png").read_text() == "new" and not (folder / "a.png").is_symlink()


def test_folders_are_made_only_when_asked_for(tmp_path):
    path = tmp_path / "a" / "b"
    with pytest.raises(UserError, match=f"{path}: cannot be written"), writing_aside(path):
        pass
    with pytest.raises(FileNotFoundError):
        replace_json(path, {})
    with writing_aside(path, parents=True):
        pass
    assert path.is_file()


def test_a_folder_appears_whole_and_replaces_what_had_its_name(tmp_path):
    folder = tmp_path / "model"
    for text in ("one", "two"):
        with appearing(folder) as partial:
            assert names(tmp_path) == sorted([partial.name, *(["model"] if text == "two" else [])])
            (partial / text).touch()
        assert names(tmp_path) == ["model"] and names(folder) == [text]
    with pytest.raises(UserError, match=f"{folder}: cannot be written"), appearing(folder) as partial:
        (partial / "three").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == ["model"] and names(folder) == ["two"]


def test_a_link_to_a_folder_is_replaced_and_its_target_is_kept(tmp_path):
    target, folder = tmp_path / "target", tmp_path / "model"
    target.mkdir()
    (target / "precious").touch()
    folder.symlink_to(target)
    with appearing(folder) as partial:
        (partial / "new").touch()
    assert names(target) == ["precious"] and names(folder) == ["new"] and names(tmp_path) == ["model", "target"]


def test_the_old_folder_has_its_name_again_when_the_new_one_cannot_take_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(UserError, match=f"{folder}: cannot be written"), appearing(folder) as partial:
        partial.rmdir()
    assert names(tmp_path) == ["model"] and names(folder) == ["old"]


def test_what_refuses_one_file_is_told_from_a_full_disk(tmp_path):
    for number, all_of_them in ((errno.ENAMETOOLONG, False), (errno.EACCES, False), (errno.ENOSPC, True)):
        with pytest.raises(UserError) as refusal, writing_aside(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
        assert refuses_all(refusal.value) is all_of_them
