"""SeACo and Contextual Paraformer beside the answers that FunASR gave: ids, texts, times and intermediate arrays.

FunASR answered each utterance alone, from `recorded/funasr_hotwords`. Here all three share a padded batch, and the hot
words a padded list: neither changes an answer.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import Config
from asr.data.text.tokenizer import Tokenizer
from asr.inference.hotword_memory import NO_PHRASE, HotwordMemories, list_size
from asr.inference.hotword_programs import make_biased_spell
from asr.inference.hotwords import Hotword, read_hotwords
from asr.inference.programs import Heard, make_spell
from asr.inference.tuning import PackedWeights
from asr.inference.words import join_words, make_tokens, make_words
from asr.models import Acoustics, build_model
from asr.ops import cif
from asr.ops.masks import length_mask
from asr.published.funasr import load_funasr
from hotword_folders import about, arrays, write_folder

UTTERANCES, NUM_FRAMES, NUM_ROWS = "abc", 76, 20
KINDS, LISTS = ("seaco", "contextual"), ("none", "empty", "four", "oov", "many", "file")

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Recogniser(NamedTuple):
    """A recorded model behind its encoder."""

    kind: str
    config: Config
    tokenizer: Tokenizer
    variables: dict
    heard: Heard
    memories: HotwordMemories
    program: object  # returns the spelling, and what the network computes on its way

    def __call__(self, hotwords, **changes):
        """Return what the program does; `changes` are those of the list in the network's form."""
        memory = self.memories(hotwords)
        return jax.device_get(self.program(self.variables, self.heard, memory and memory.replace(**changes)))


def make_program(config, model):
    spell = make_biased_spell(config, model)

    @quick_jit
    def program(variables, heard, memory):
        inside = inside_seaco if config.model.name == "seaco" else inside_contextual
        return spell(variables, heard, NUM_ROWS, memory), model.apply(variables, heard.acoustics, memory, method=inside)

    return program


def inside_contextual(model, acoustics, memory):
    return {"dec_logits": model.decode(acoustics, NUM_ROWS, memory).logits_buv}


def inside_seaco(model, acoustics, memory):
    rows = model.integrate(acoustics, NUM_ROWS)
    _, valid_bu, *_ = inputs = rows.decoder_inputs(acoustics)
    hidden_bud = model.decoder.hidden(*inputs, train=False)
    computed = {"acoustic": rows.acoustic_bud, "dec_hidden": hidden_bud, "plain": model.decoder.output(hidden_bud)}
    if memory is None:
        return computed | {"time_weights": model.time_weights(acoustics)}
    computed["bias_logits"] = model.branch_logits(rows.acoustic_bud, hidden_bud, valid_bu, memory)
    if len(memory.vector_wd) <= model.config.seaco.num_kept:
        return computed
    phrases = memory.vector_wd[None], memory.log_weight_w[None]
    return computed | {"asf_scores": model.hotword_decoder.scores(hidden_bud, valid_bu, *phrases)}


def hear(model, variables, kind, utterances=UTTERANCES, num_frames=NUM_FRAMES):
    """Return what the encoder and the first head heard."""
    hidden_btd = np.zeros((len(utterances), num_frames, 16), np.float32)
    lengths_b = np.zeros(len(utterances), np.int32)
    for row, name in enumerate(utterances):
        hidden_td = arrays()[f"{kind}/{name}/enc_out"]
        hidden_btd[row, : len(hidden_td)], lengths_b[row] = hidden_td, len(hidden_td)

    def predict(model, hidden_btd, valid_bt):
        return model.predictor(hidden_btd, valid_bt, train=False)[..., 0]

    alpha_bt = model.apply(variables, hidden_btd, length_mask(jnp.array(lengths_b), num_frames), method=predict)
    alpha_bt = cif.add_tail(alpha_bt, lengths_b, 0.45)
    count_b = jnp.floor(alpha_bt.sum(1)).astype(jnp.int32)
    return Heard(Acoustics(jnp.array(hidden_btd), lengths_b, alpha_bt, count_b, None), jnp.full(len(lengths_b), 9.0))


@pytest.fixture(scope="module")
def recognisers(tmp_path_factory):
    return {kind: build(kind, tmp_path_factory.mktemp(kind) / kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def recogniser(request, recognisers):
    return recognisers[request.param]


@pytest.fixture
def seaco(recognisers):
    return recognisers["seaco"]


def build(kind, folder):
    config, tokenizer, _, variables = load_funasr(write_folder(folder, kind))
    model, weights = build_model(config.model), PackedWeights(config.model, variables)
    memories = HotwordMemories(config, tokenizer, weights, model)
    heard = hear(model, variables, kind)
    return Recogniser(kind, config, tokenizer, variables, heard, memories, make_program(config, model))


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Return the hot words of each recorded list, as a caller passes them here."""
    path = tmp_path_factory.mktemp("lists") / "hotwords.txt"
    path.write_text(about()["hotwords.txt"])
    four, oov = (about()["seaco"]["answers"][f"a_{name}"]["hotword"].split() for name in ("four", "oov"))
    read = {"four": four, "oov": oov, "many": about()["seaco"]["many"], "file": path}
    return {"none": (), "empty": (NO_PHRASE,)} | {name: read_hotwords(hotwords) for name, hotwords in read.items()}


@pytest.mark.parametrize("name", LISTS)
def test_ids_texts_and_times_are_those_of_funasr_for_each_utterance_alone(recogniser, lists, name):
    spelling, _ = recogniser(lists[name])
    for row, utterance in enumerate(UTTERANCES):
        expected = about()[recogniser.kind]["answers"][f"{utterance}_{name}"]
        columns = spelling.ids_bu, spelling.start_s_bu, spelling.end_s_bu, spelling.confidence_bu
        columns = [x[row, : spelling.lengths_b[row]] for x in columns]
        assert [i for i in columns[0] if i > 2] == expected["token_ids"]
        ids, tokens = make_tokens(recogniser.tokenizer, *columns)
        words = make_words(recogniser.tokenizer, ids, tokens)
        if recogniser.kind == "contextual":
            assert join_words(words) == expected["text"]
            continue
        assert " ".join(word.text for word in words) == expected["text"]
        assert [in_ms(*as_funasr_times(word, tokens)) for word in words] == expected["timestamp"]


def as_funasr_times(word, tokens):
    """Return the times that FunASR gives a word: a character behind pieces `x@@` without an end gets the pieces'."""
    first = last = tokens.index(next(token for token in tokens if token.start_s == word.start_s))
    while first and tokens[first - 1].text.endswith("@@"):
        first -= 1
    if first < last and len(word.text) == 1 and not word.text.isascii():
        return tokens[first].start_s, tokens[last - 1].end_s
    return word.start_s, word.end_s


def in_ms(*times_s):
    return [round(1000 * time_s) for time_s in times_s]


def test_a_contextual_scale_of_one_half(recognisers, lists):
    spelling, _ = recognisers["contextual"](lists["four"], scale=jnp.float32(0.5))
    for row, utterance in enumerate(UTTERANCES):
        expected = about()["contextual"]["answers"][f"{utterance}_four_scale0.5"]
        assert [i for i in spelling.ids_bu[row, : spelling.lengths_b[row]] if i > 2] == expected["token_ids"]


def check(recogniser, name, x):
    expected = arrays()[f"{recogniser.kind}/{name}"]
    np.testing.assert_allclose(x[: len(expected)], expected, atol=1e-4, err_msg=name)


def test_vectors_and_logits_are_those_of_funasr(recogniser, lists):
    _, inside = recogniser(lists["four"])
    vector_wd = recogniser.memories(lists["four"]).vector_wd[: len(lists["four"]) + 1]
    check(recogniser, "b_four/hw_embed", np.roll(vector_wd, -1, axis=0))  # there "no hot word" comes last
    name = "bias_logits" if recogniser.kind == "seaco" else "dec_logits"
    check(recogniser, f"b_four/{name}", inside[name][1])


def test_what_seaco_computes_on_its_way_is_what_funasr_does(seaco, lists):
    _, inside = seaco(())
    check(seaco, "b_none/alphas", seaco.heard.acoustics.alpha_bt[1])
    check(seaco, "b_none/acoustic", inside["acoustic"][1])
    check(seaco, "b_none/dec_hidden", inside["dec_hidden"][1])
    weight_s, count = inside["time_weights"][1], int(seaco.heard.acoustics.token_count_b[1])
    check(seaco, "b_none/us_alphas", weight_s * count / weight_s.sum())
    _, inside = seaco(lists["many"])
    num_phrases = len(lists["many"]) + 1
    check(seaco, "a_many/asf_scores", np.roll(inside["asf_scores"][0, :num_phrases], -1))
    check(seaco, "a_many/bias_logits", inside["bias_logits"][0])
    assert np.all(inside["asf_scores"][:, num_phrases:] == -np.inf)
    # FunASR takes the 50 best of the first utterance for all of a batch; they are not the same.
    assert len({frozenset(np.argsort(scores_w)[-50:]) for scores_w in inside["asf_scores"]}) > 1


def test_seacos_share_mixes_log_probabilities_where_a_hot_word_fits(seaco, lists):
    spelling, inside = seaco(lists["four"], scale=jnp.float32(0.3))
    plain, branch = (np.asarray(jax.nn.log_softmax(inside[name])) for name in ("plain", "bias_logits"))
    fits = branch.argmax(-1, keepdims=True) != seaco.config.model.seaco.no_bias_id
    merged = np.where(fits, 0.3 * branch + 0.7 * plain, plain)
    is_token = np.arange(NUM_ROWS)[None, :] < spelling.lengths_b[:, None]
    np.testing.assert_array_equal(spelling.ids_bu[is_token], merged.argmax(-1)[is_token])
    assert fits[is_token].any() and not fits[is_token].all()


def test_a_weight_of_two_is_the_same_word_twice_and_of_zero_none(recogniser, lists):
    four = lists["four"]
    heavier, _ = recogniser((Hotword(four[0].text, 2.0), *four[1:], Hotword("好", 0.0)))
    (twice, _), (plain, _) = recogniser((four[0], *four)), recogniser(four)
    np.testing.assert_array_equal(heavier.ids_bu, twice.ids_bu)
    np.testing.assert_allclose(heavier.confidence_bu, twice.confidence_bu, atol=1e-5)
    assert np.abs(plain.confidence_bu - heavier.confidence_bu).max() > 1e-3


def test_bicif_is_seaco_without_hot_words(seaco, tmp_path):
    config, *_, variables = load_funasr(write_folder(tmp_path / "bicif", "bicif"))
    spell = make_spell(config)
    heard = seaco.heard
    bicif = jax.device_get(quick_jit(lambda variables, heard: spell(variables, heard, NUM_ROWS))(variables, heard))
    spelling, _ = seaco(())
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), bicif, spelling)


def test_the_list_is_padded_to_few_sizes_and_ranked_only_above_the_kept_number():
    assert [list_size(n, 50) for n in (1, 8, 9, 50, 51, 200, 201)] == [8, 8, 50, 50, 200, 200, 800]
    assert [list_size(n, 5) for n in (1, 5, 6, 21)] == [5, 5, 20, 80]
    assert list_size(51, 0) == 200  # 0: nothing is ranked
