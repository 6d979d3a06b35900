"""The ARPA reader: back-off by hand and by sums, every malformed file with its line."""

import gzip
import itertools
import math

import pytest

from asr.decode import arpa, read_arpa
from asr.errors import UserError

LN_10 = math.log(10)
TRIGRAM = """A comment, even with
\\1-grams:
in it, is passed over.

\\data\\
ngram 1=5
ngram 2 = 3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.6\t</s>
-0.3\tyes\t-0.2
-0.7\tno\t0.1

\\2-grams:
-0.1 <s> yes -0.4
-0.2 yes no
-0.3 no </s>

\\3-grams:
-0.05 <s> yes no

\\end\\
what comes after is not looked at
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="lm.arpa"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_is_read_as_it_stands(write, newline):
    model = read_arpa(write(TRIGRAM.replace("\n", newline)))
    assert model.order == 3 and len(model.scores) == 9
    assert model.words == ["yes", "no"] and "yes" in model and "maybe" not in model
    assert model.scores["yes",] == pytest.approx((-0.3 * LN_10, -0.2 * LN_10))
    assert model.scores["yes", "no"] == pytest.approx((-0.2 * LN_10, 0))


@pytest.mark.parametrize(
    ("context", "word", "log10"),
    [
        (("<s>",), "yes", -0.1),  # held
        (("<s>", "yes"), "no", -0.05),
        (("<s>",), "no", -0.5 - 0.7),  # backoff(<s>) + p(no)
        (("<s>", "yes"), "</s>", -0.4 - 0.2 - 0.6),  # backoff(<s> yes) + backoff(yes) + p(</s>)
        (("no", "yes"), "no", -0.2),  # "no yes" is not held: no back-off weight
        (("yes", "no"), "</s>", -0.3),
        ((), "no", -0.7),
        ((), "maybe", -1.0),
        (("maybe",), "yes", -0.3),
        (("no",), "maybe", 0.1 - 1.0),
    ],
)
def test_scores_back_off_as_by_hand(write, context, word, log10):
    model = read_arpa(write(TRIGRAM))
    assert model.log_probability(model.context(context), word) == pytest.approx(log10 * LN_10)


def test_contexts_keep_what_counts():
    model = arpa.NgramModel(3, {("<s>",): (0, 0), ("a",): (0, 0), ("<unk>",): (0, 0)})
    assert model.start == ("<s>",)
    assert model.context(["a", "b", "a"]) == ("<unk>", "a")
    assert arpa.NgramModel(1, {("a",): (0, 0)}).context(["a", "a"]) == ()
    assert arpa.NgramModel(2, {("a",): (0, 0)}).start == (), "a model that knows of no start"


def test_the_probabilities_of_a_normalised_model_add_up_to_one_in_every_context(write):
    words = ["a", "b", "c", "</s>"]
    unigram = dict(zip(words, (0.4, 0.3, 0.2, 0.1), strict=True))
    bigram = {("a", "b"): 0.5, ("a", "c"): 0.25, ("b", "a"): 0.9, ("<s>", "c"): 0.6}
    lines = ["\\data\\", "ngram 1=5", f"ngram 2={len(bigram)}", "\\1-grams:"]
    for word in ["<s>", *words]:
        held = {w: p for (h, w), p in bigram.items() if h == word}
        backoff = (1 - sum(held.values())) / (1 - sum(unigram[w] for w in held))
        lines.append(f"{math.log10(unigram.get(word, 1e-99)):.8f} {word} {math.log10(backoff):.8f}")
    lines += ["\\2-grams:", *(f"{math.log10(p):.8f} {h} {w}" for (h, w), p in bigram.items()), "\\end\\"]
    model = read_arpa(write("\n".join(lines)))
    for context in ((), ("<s>",), *itertools.product(words[:3])):
        total = sum(math.exp(model.log_probability(context, word)) for word in words)
        assert total == pytest.approx(1, abs=1e-6), context


def test_the_unknown_word(write):
    large = read_arpa(write(TRIGRAM.replace("<unk>", "<UNK>")))
    assert large.log_probability((), "maybe") == pytest.approx(-1.0 * LN_10)
    without = read_arpa(write(TRIGRAM.replace("-1.0\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")))
    assert without.log_probability((), "maybe") == pytest.approx(arpa.UNKNOWN_LOG10 * LN_10)


def test_minus_infinity_is_the_lowest_value(write):
    model = read_arpa(write(TRIGRAM.replace("-99\t<s>\t-0.5", "-inf\t<s>\t-inf")))
    assert model.scores["<s>",] == (arpa.LOWEST_LOG10 * LN_10,) * 2


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("\\data\\\n", "", 25, r"expected \data\, found the end of the file"),
        ("ngram 1=5\nngram 2 = 3\nngram 3=1\n", "", 7, r"expected ngram 1=…, found \1-grams:"),
        ("ngram 2 = 3", "ngram 4=3", 7, "expected ngram 2=…, found ngram 4=3"),
        ("\\2-grams:", "\\3-grams:", 17, r"expected \2-grams:, found \3-grams:"),
        ("ngram 1=5", "ngram 1=6", 17, r"expected 6 1-grams, as many as the head of the file says, found after 5: \2"),
        ("ngram 1=5", "ngram 1=4", 15, "expected 4 1-grams, as many as the head of the file says, found after 4: -0.7"),
        ("-0.7\tno\t0.1", "-0.7", 15, "expected a log10 probability, 1 word and perhaps a back-off weight, found -0.7"),
        ("-0.2 yes no", "-0.2 yes no no no", 19, "2 words and perhaps a back-off weight, found -0.2 yes no no no"),
        ("-0.7\tno", "x\tno", 15, "expected a log10 value of at most 0, found 'x'"),
        ("-0.7\tno", "0.7\tno", 15, "expected a log10 value of at most 0, found '0.7'"),
        ("-0.7\tno", "nan\tno", 15, "expected a log10 value of at most 0, found 'nan'"),
        ("no\t0.1", "no\tinf", 15, "expected a log10 value of at most 99, found 'inf'"),
        ("-0.7\tno", "-0.7\tyes", 15, "expected every n-gram once, found 'yes' again"),
        ("-0.2 yes no", "-0.2 yes nope", 19, "expected words of the 1-grams, found 'nope'"),
        (
            "\\end\\\nwhat comes after is not looked at\n",
            "",
            24,
            r"expected the next section or \end\, found the end of the file",
        ),
        ("\\end\\", "\\4-grams:", 25, r"expected \end\, found \4-grams:"),
        ("-0.05 <s> yes no\n\n\\end\\\nwhat comes after is not looked at\n", "", 22, "1 more 3-grams, found the end"),
        ("-0.7\tno", "-0.7\t" + "n" * 20_000, 15, "expected lines of less than 10,000 bytes"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(write, old, new, line, message):
    assert old in TRIGRAM
    with pytest.raises(UserError) as error:
        read_arpa(write(TRIGRAM.replace(old, new, 1)))
    assert f"lm.arpa:{line}: expected" in str(error.value) and message in str(error.value)


def test_bytes_that_are_no_text(write):
    with pytest.raises(UserError, match=r"lm\.arpa:15: expected UTF-8, found the bytes"):
        read_arpa(write(TRIGRAM.encode().replace(b"no\t0.1", b"\xff\xfe")))
    with pytest.raises(UserError, match="gzip file; unpack it first"):
        read_arpa(write(gzip.compress(TRIGRAM.encode())))
    with pytest.raises(UserError, match=r"expected \\data\\, found the end"):
        read_arpa(write(b""))
    with pytest.raises(UserError, match=r"lm\.arpa:10000: expected \\data\\ in the first 10,000 lines, found word"):
        read_arpa(write("word\n" * 20_000))


def test_a_model_that_is_too_large_is_refused_before_it_is_read(write):
    with pytest.raises(
        UserError, match=r"lm\.arpa:6: expected at most 5,000,000 n-grams.*found ngram 1=6000000; prune"
    ):
        read_arpa(write(TRIGRAM.replace("ngram 1=5", "ngram 1=6000000")))


@pytest.mark.parametrize("name", ["missing.arpa", "."])
def test_a_path_that_is_no_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match="cannot read the language model: No such file|expected a file, found a folder"):
        read_arpa(tmp_path / name)
