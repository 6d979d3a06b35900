"""Hot words: from a list, a string or a file; each mistake is named."""

from pathlib import Path

import pytest

from asr.errors import UserError
from asr.inference.hotwords import MAX_HOTWORDS, Hotword, parse_hotwords, read_hotwords

KAWASAKI, ZHANG = Hotword("Kawasaki", 2.5), Hotword("Zhang San")


def test_list_string_and_file_give_the_same(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbf# names\r\n\r\n  Kawasaki  :2.5\r\nZhang \t San\r\nKawasaki\r\n")
    for hotwords in (
        ["Kawasaki :2.5", "", " Zhang  San"],
        (ZHANG, KAWASAKI, "Kawasaki")[::-1],
        "Kawasaki :2.5, Zhang San",
        "Kawasaki :2.5，Zhang San、,Kawasaki :1",
        "Kawasaki :2.5\r\nZhang San\n",
        file,
        str(file),
    ):
        assert sorted(read_hotwords(hotwords), key=lambda each: each.text) == [KAWASAKI, ZHANG]


def test_nothing_gives_nothing():
    assert read_hotwords(None) == read_hotwords([]) == read_hotwords("") == read_hotwords([" "]) == ()


def test_text_is_composed_and_a_colon_inside_a_phrase_is_kept():
    assert read_hotwords(["Cafe\u0301", "ratio 3:4"]) == (Hotword("Café"), Hotword("ratio 3:4"))


def test_untrusted_text_never_names_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("password")
    assert parse_hotwords("secret") == (Hotword("secret"),)
    assert parse_hotwords("words.txt") == (Hotword("words.txt"),)


@pytest.mark.parametrize(
    ("hotwords", "message"),
    [
        ("missing.txt", "missing.txt: cannot read the hot words"),
        (Path("missing"), "missing: cannot read the hot words"),
        (7, "expected a list of phrases, a string or a path, found int"),
        ([7], "hot words: expected a text, found 7"),
        (["a\x00b"], "hot words: expected printable characters"),
        (["a :two"], "hot words: expected a number behind ' :'"),
        (["a :nan"], "hot words: 'a': expected a weight of 0 to 100, found nan"),
        (["a :-1"], "hot words: 'a': expected a weight of 0 to 100, found -1.0"),
        (["a" * 201], "expected a phrase of at most 200 characters, found 201"),
        ([str(i) for i in range(MAX_HOTWORDS + 1)], "hot words: expected at most 10,000 hot words, found more"),
    ],
)
def test_mistakes_are_named(hotwords, message):
    with pytest.raises(UserError) as caught:
        read_hotwords(hotwords)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ok\n\nbad :x\n", ":3: expected a number behind ' :'"),
        (b"ok\nbad :101\n", ":2: 'bad': expected a weight of 0 to 100, found 101.0"),
        (b"ok\n\xff\n", ":2: expected a hot word on each line in UTF-8"),
    ],
)
def test_mistakes_in_a_file_name_the_line(tmp_path, content, message):
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_hotwords(file)
    assert str(caught.value).startswith(f"{file}{message}")
