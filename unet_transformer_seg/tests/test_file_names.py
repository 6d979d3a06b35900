"""Names of strangers' files become names that are safe, told apart, and inside their folder."""

import os
from pathlib import Path

import pytest

from seg.errors import UserError
from seg.untrusted import check_inside, folder_links, name_key, safe_path


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("talk", "talk"),
        ("a/b c/ä 語", "a/b c/ä 語"),
        (".", "_"),
        ("..", "__"),
        ("...", "___"),
        (".wav", "_wav"),
        ("../../etc/passwd", "__/__/etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("a//./b", "a/_/b"),
        ("", "_"),
        ("/", "_"),
        ("a\x1b[2J\nb\x9bc", "a_[2J_b_c"),
        ("exe\u202egnp", "exe_gnp"),
        (os.fsdecode(b"caf\xe9"), "caf_"),
        ("v1.2..", "v1.2.."),
    ],
)
def test_a_safe_path_stays_inside_and_commands_nothing(name, safe, tmp_path):
    assert safe_path(name) == safe
    assert (tmp_path / safe).resolve().is_relative_to(tmp_path) and safe.encode("utf-8")
    assert safe_path(safe) == safe


@pytest.mark.parametrize(
    ("one", "other"), [("Talk", "tALK"), ("\u00e4", "a\u0308"), ("\u00c4", "a\u0308"), ("STRASSE", "straße")]
)
def test_names_that_are_one_on_some_file_system_have_one_key(one, other):
    assert name_key(one) == name_key(other)
    assert name_key(one) != name_key(f"{one}_2")


def test_links_that_lead_out_of_a_folder_are_found(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out / "kept", elsewhere):
        folder.mkdir(parents=True)
    (out / "planted").symlink_to(elsewhere)
    (out / "kept" / "inner").symlink_to(out)
    check_inside(out, out / "kept" / "inner" / "new" / "a.txt")
    with pytest.raises(UserError, match=f"a link at {out / 'planted'} leads out of it"):
        check_inside(out, out / "planted" / "a.txt")
    assert folder_links(out) == [out / "kept" / "inner", out / "planted"]
    assert folder_links(Path("nothing of this name")) == []
