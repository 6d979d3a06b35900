import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.checkpoints import CheckpointStore
from asr.compiler import CompilationCounter
from asr.config import (
    Config,
    FeaturesConfig,
    InferenceConfig,
    LossConfig,
    PredictorConfig,
    TokenizerConfig,
)
from asr.data.frontend import make_frontend, num_feature_frames
from asr.data.text.building import build_tokenizer
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.inference.eval_report import align_waves
from asr.inference.recogniser import WINDOW_BATCHES
from asr.inference.shapes import Shape, make_ladder, plan_shapes, row_counts
from asr.inference.transcriber import Transcriber, load_transcriber
from asr.inference.transcription import needs_space
from asr.inference.words import join_words, make_tokens, make_words
from asr.models import build_model
from asr.record.run_dir import create_run_dir
from tiny_model import CMVN, NUM_MELS, TOKENIZER, random_variables, tiny_model

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=8000),
    model=tiny_model(ctc_head=True, predictor=PredictorConfig(initial_bias=-1.0)),
    loss=LossConfig(ctc_weight=0.3),
    inference=InferenceConfig(batch_size=2, max_segment_s=2),
)
TWO_SECONDS = Shape(2, 16000)
VARIABLES = random_variables(CONFIG.model)


def make_transcriber(decoder="cif", **inference):
    settings = dataclasses.replace(CONFIG.inference, decoder=decoder, **inference)
    return Transcriber(dataclasses.replace(CONFIG, inference=settings), TOKENIZER, CMVN, VARIABLES)


def random_waves(number, seconds=(0.05, 2.0), seed=0):
    """Noise that swells and fades, so that the frames differ."""
    rng, waves = np.random.default_rng(seed), []
    for length in rng.uniform(*seconds, number) * 8000:
        swell = np.sin(np.arange(int(length)) * rng.uniform(0.0003, 0.003)) ** 2
        waves.append((0.3 * swell * rng.standard_normal(int(length))).astype(np.float32))
    return waves


@pytest.fixture(scope="module")
def transcriber():
    transcriber = make_transcriber()
    transcriber.warm_up([TWO_SECONDS])
    return transcriber


def recognise_slowly(wave):
    """The model called on one sound without any padding, with room for every token."""
    model, frontend = build_model(CONFIG.model), make_frontend(CONFIG.features, CMVN)

    @jax.jit
    def run(wave_1n):
        features, lengths = frontend(wave_1n, jnp.array([len(wave)]))
        acoustics = model.apply(VARIABLES, features, lengths, method="encode")
        found = model.apply(VARIABLES, acoustics, features.shape[1] + 1, method="decode")
        return found.logits_buv[0], acoustics.token_count_b[0]

    logits_uv, num_tokens = run(wave[None])
    return np.asarray(logits_uv)[: int(num_tokens)]


def test_the_tokens_are_those_of_the_model_without_padding(transcriber):
    (wave,) = random_waves(1, (0.9, 1.5), seed=5)
    found, logits_uv = transcriber.recognise(wave), recognise_slowly(wave)
    assert len(logits_uv) > 2  # else the comparison says little
    np.testing.assert_array_equal(found.ids, logits_uv.argmax(-1))
    probabilities_uv = np.exp(logits_uv - logits_uv.max(-1, keepdims=True))
    probabilities_uv /= probabilities_uv.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.confidence, probabilities_uv.max(-1), atol=1e-3)


def check_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)
    np.testing.assert_allclose(found.start_s, expected.start_s, atol=1e-3)
    np.testing.assert_allclose(found.end_s, expected.end_s, atol=1e-3)


def test_a_sound_gives_the_same_tokens_alone_and_in_any_batch(transcriber, monkeypatch):
    alone = make_transcriber()
    monkeypatch.setattr(alone._programs, "_row_counts", lambda _: (36,))  # one number, together there are three
    alone.warm_up([Shape(1, 17000)])
    waves = random_waves(23)
    together = list(transcriber.recognise_many(enumerate(waves)))
    assert [i for i, _ in together] == list(range(23))
    for (_, found), wave in zip(together, waves, strict=True):
        check_same(found, alone.recognise(wave))
    assert len({tuple(found.ids) for _, found in together}) > 10  # else the comparison says little


def test_ctc_gives_the_same_tokens_alone_and_in_any_batch():
    waves, found = random_waves(12), {}
    for decoder, num_programs in (("ctc", 1), ("ctc_beam", 2)):
        transcriber = make_transcriber(decoder)
        transcriber.warm_up([TWO_SECONDS])
        found[decoder] = [recognition for _, recognition in transcriber.recognise_many(enumerate(waves))]
        assert transcriber.compilations == num_programs
        for recognition, wave in zip(found[decoder], waves, strict=True):
            check_same(recognition, transcriber.recognise(wave))
            assert (np.diff(recognition.start_s) >= 0).all()
            assert (recognition.end_s <= len(wave) / 8000 + 1e-6).all()
        assert len({tuple(recognition.ids) for recognition in found[decoder]}) > 4
    equal = [pair for pair in zip(*found.values(), strict=True) if pair[0].ids.tolist() == pair[1].ids.tolist()]
    assert sum(len(one.ids) for one, _ in equal) > 5
    for one, other in equal:  # the same tokens by either search have the same times
        np.testing.assert_allclose(one.start_s, other.start_s, atol=1e-3)
        np.testing.assert_allclose(one.end_s, other.end_s, atol=1e-3)


def test_few_tokens_are_spelled_by_a_small_program(transcriber, monkeypatch):
    def fail(*_):
        raise AssertionError("a larger program than needed")

    for num_rows in row_counts(num_feature_frames(16000, CONFIG.features), 1.0)[1:]:
        monkeypatch.setitem(transcriber._programs._spells, (TWO_SECONDS, num_rows, 0), fail)
    assert 0 < len(transcriber.recognise(random_waves(1, (0.3, 0.4))[0]).ids) < 9


def test_every_token_has_its_times_in_order_and_within_the_sound(transcriber):
    for wave in random_waves(6):
        found = transcriber.recognise(wave)
        assert len(found.ids) == len(found.start_s) == len(found.end_s) == len(found.confidence)
        edges = np.stack([found.start_s, found.end_s], 1).ravel()
        assert (np.diff(edges) >= 0).all()
        assert (edges >= 0).all()
        assert (edges <= len(wave) / 8000 + 1e-6).all()
        assert ((found.confidence > 0) & (found.confidence <= 1)).all()


def test_nothing_is_compiled_after_the_warm_up(transcriber):
    before = transcriber.compilations
    assert before >= 4  # listen, and spell for three numbers of rows
    list(transcriber.recognise_many(enumerate(random_waves(WINDOW_BATCHES * 2 + 3))))
    assert transcriber.compilations == before


def test_the_counter_counts_until_it_is_closed():
    with CompilationCounter() as counter:
        assert counter.count == 0
        jax.jit(lambda x: x * 3)(np.ones(3)).block_until_ready()
        first = counter.count
        assert first >= 1
        assert counter.seconds > 0
    jax.jit(lambda x: x * 5)(np.ones(3)).block_until_ready()
    assert counter.count == first


def test_what_is_shorter_than_a_frame_gives_nothing_and_costs_nothing():
    transcriber = make_transcriber()
    for num_samples in (0, 1, 80, 199):
        assert num_feature_frames(num_samples, CONFIG.features) == 0
        found = transcriber.recognise(np.ones(num_samples, np.float32))
        assert len(found.ids) == len(found.start_s) == len(found.end_s) == len(found.confidence) == 0
    assert transcriber.compilations == 0


def test_sounds_are_read_a_window_at_a_time(transcriber):
    taken = 0

    def items():
        nonlocal taken
        for taken, wave in enumerate(random_waves(30, (0.1, 0.2)), 1):
            yield taken, wave
            yield -taken, np.zeros(0, np.float32)

    found = transcriber.recognise_many(items())
    assert next(found)[0] == 1
    assert taken == transcriber.window_size == 8
    assert [tag for tag, _ in found] == [-1, *(tag for i in range(2, 31) for tag in (i, -i))]


def test_a_beam_takes_its_settings_and_refuses_a_missing_language_model(tmp_path):
    wave = random_waves(1, (1.5, 2.0))[0]
    transcriber = make_transcriber("ctc_beam", beam_size=4, length_bonus=-1000.0)
    transcriber.warm_up([Shape(1, 16000)])
    assert len(transcriber.recognise(wave).ids) == 0
    with pytest.raises(UserError, match="none.arpa"):
        make_transcriber("ctc_beam", language_model=str(tmp_path / "none.arpa"))


def test_an_alignment_has_a_row_for_each_token_and_a_column_for_each_frame(transcriber):
    waves = random_waves(2, (0.5, 1.5))
    for wave, found in zip(waves, align_waves(transcriber, waves), strict=True):
        ids = transcriber.recognise(wave).ids
        assert found.tokens == tuple(TOKENIZER.tokens[i] for i in ids)
        num_frames = num_feature_frames(len(wave), CONFIG.features)
        assert found.alignment_ut.shape == (len(ids), num_frames + 1)
        np.testing.assert_allclose(found.alignment_ut.sum(1), 1, atol=1e-4)
        assert found.mel_tm.shape == (1 + (len(wave) - 200) // 80, 10)
    assert align_waves(transcriber, []) == []


def test_the_ladder_has_the_parts_of_the_longest_sound():
    assert make_ladder(1001, [8, 1]) == tuple(Shape(b, n) for b in (1, 8) for n in (251, 501, 751, 1001))
    assert make_ladder(1, [1]) == (Shape(1, 1),)


@pytest.mark.parametrize(
    ("lengths", "longest", "expected"),
    [
        ([], 20000, []),
        ([0, 0], 20000, []),
        ([3500], 20000, [Shape(1, 4000)]),
        ([3500, 900, 0], 20000, [Shape(2, 4000)]),
        ([500] * 10, 20000, [Shape(4, 1000)]),
        ([19990] * 2, 20000, [Shape(2, 20000)]),
        ([15000] * 5, 20000, [Shape(4, 8000), Shape(4, 16000)]),
        ([3_600_000], 20000, [Shape(4, n) for n in (5000, 10000, 15000, 20000)]),
        ([25000, 1000], None, [Shape(2, 26000)]),
    ],
)
def test_shapes_are_planned_for_the_sounds_that_come(lengths, longest, expected):
    assert list(plan_shapes(lengths, longest, 4, 1000)) == expected


def test_there_is_always_room_for_all_tokens():
    assert row_counts(100, 1.0) == (25, 50, 101)
    assert row_counts(7, 1.0) == (2, 4, 8)
    assert row_counts(100, 2.5)[-1] == 251
    assert row_counts(1, 1.0)[-1] == 2


CHINESE = Tokenizer(with_special_tokens(["今", "天", "▁", "a", "b"]), "characters")
JOINED = Tokenizer(with_special_tokens(["he@@", "llo", "there", "今", "天"]), "file")
PIECES = Tokenizer(with_special_tokens(["▁he", "llo", "▁the", "re", "▁"]), "file")


def spell(tokenizer, ids):
    times = np.arange(len(ids), dtype=float)
    return make_tokens(tokenizer, np.array(ids), times, times + 0.5, 1 / (1 + times))


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "expected"),
    [
        (CHINESE, "今 天 ▁ a b", ["今", "天", "ab"]),
        (CHINESE, "a 今 ▁ 天 ▁", ["a", "今", "天"]),
        (JOINED, "he@@ llo there 今 天", ["hello", "there", "今", "天"]),
        (PIECES, "▁he llo ▁ ▁the re", ["hello", "there"]),
        (PIECES, "llo ▁he", ["llo", "he"]),
        (PIECES, "▁", []),
    ],
)
def test_words_are_what_the_tokenizer_spells(tokenizer, tokens, expected):
    ids, spelled = spell(tokenizer, [tokenizer.tokens.index(token) for token in tokens.split()])
    words = make_words(tokenizer, ids, spelled)
    assert [word.text for word in words] == expected
    assert join_words(words) == tokenizer.decode(ids)
    for word in words:
        assert word.text == "".join(part.text for part in word.parts)


@pytest.mark.parametrize("tokenizer", [CHINESE, JOINED, PIECES])
def test_random_tokens_spell_the_same_text_by_words(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids, tokens = spell(tokenizer, rng.integers(0, tokenizer.vocab_size, rng.integers(0, 9)))
        words = make_words(tokenizer, ids, tokens)
        assert join_words(words) == tokenizer.decode(ids)
        assert [w.start_s for w in words] == sorted(w.start_s for w in words)
        assert all(w.confidence == min(p.confidence for p in w.parts) for w in words)


def test_special_tokens_are_left_out_and_the_others_keep_their_times():
    ids, tokens = spell(CHINESE, [0, 3, 2, 5, 6, CHINESE.unknown_id])
    assert ids == (3, 5, 6)
    assert [(token.text, token.start_s) for token in tokens] == [("今", 1), ("▁", 3), ("a", 4)]
    (first, second) = make_words(CHINESE, ids, tokens)
    assert (second.text, second.start_s, second.end_s, second.space_before) == ("a", 4, 4.5, True)  # not at the blank
    assert first.confidence == 0.5


def test_a_blank_parts_two_segments_but_not_within_chinese():
    assert needs_space("a", "b")
    assert needs_space("今", "b")
    assert not needs_space("今", "天")
    assert not needs_space("今。", "天") and not needs_space("カ", "「メ") and not needs_space("人々", "今")
    assert needs_space("안", "녕") and needs_space("ก", "ข") and needs_space("п", "今")


@pytest.fixture
def run(tmp_path):
    run = create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(tmp_path / "runs")), TOKENIZER, CMVN)
    store = CheckpointStore(run.checkpoints, keep=2, keep_best=2)
    for step, (seed, score) in enumerate([(1, 0.1), (2, 0.2)]):
        store.save(step, jax.device_put({"params": random_variables(CONFIG.model, seed)["params"]}), {}, score=(score,))
    return run.path


def test_a_run_is_loaded_with_the_checkpoint_that_was_asked_for(run):
    best = load_transcriber(run)
    jax.tree.map(np.testing.assert_array_equal, best.variables, VARIABLES)
    np.testing.assert_array_equal(best.cmvn.shift, CMVN.shift)
    assert best.tokenizer == TOKENIZER
    last = load_transcriber(run, "last", ["inference.batch_size=7"])
    jax.tree.map(np.testing.assert_array_equal, last.variables, random_variables(CONFIG.model, 2))
    assert last.config.inference.batch_size == 7
    mean = jax.tree.map(lambda a, b: (a + b) / 2, VARIABLES, random_variables(CONFIG.model, 2))
    averaged = load_transcriber(run, average=2).variables
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), averaged, mean)


def test_a_run_whose_parts_contradict_each_other_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="holds no config.yaml"):
        load_transcriber(tmp_path)
    with pytest.raises(UserError, match="--average: expected at least 1 checkpoint, found 0"):
        load_transcriber(run, average=0)
    with pytest.raises(UserError, match="this checkpoint belongs to a different model"):
        load_transcriber(run, overrides=["model.encoder.width=32"])
    build_tokenizer(TokenizerConfig(), ["xy"]).save(run)
    with pytest.raises(UserError, match=rf"model\.vocab_size is {TOKENIZER.vocab_size}.*has 6 tokens"):
        load_transcriber(run)


def test_a_transcriber_is_shown_in_one_line(transcriber):
    number = sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"]))
    assert repr(transcriber) == f"Transcriber(paraformer, {TOKENIZER.vocab_size} tokens, {number:,} parameters)"
