"""Which settings may change when a run is resumed: every field has its rule, and messages say what and why."""

import pytest

from asr.config import Config
from asr.config.reader import override_config
from asr.errors import UserError
from asr.record.changes import check_changes, find_rule, flatten, keep_decided, list_changes, reason_against
from asr.record.resume_rules import FREE, LENGTH, REFUSED


def test_every_field_has_exactly_one_rule():
    """A new field of `asr.config` is added to one of the three tables of `asr.record.resume_rules`."""
    rules = [*FREE, *LENGTH, *REFUSED]
    assert len(rules) == len(set(rules))
    assert {find_rule(key) for key in flatten(Config())} == set(rules)  # none is missing, none is idle


def test_of_a_section_and_a_setting_in_it_the_setting_counts():
    assert find_rule("model.dtype") == "model.dtype" and not reason_against("model.dtype")
    assert find_rule("model.something_new") == "model." and "different model" in reason_against("model.something_new")
    assert find_rule("inference.batch_size") == "inference." and not reason_against("inference.batch_size")


def test_a_field_without_a_rule_cannot_change():
    assert reason_against("data.something_new")


@pytest.mark.parametrize(
    "key",
    ["seed", "model.vocab_size", "tokenizer.kind", "model.encoder.num_layers", "features.cmvn", "features.num_mels"]
    + [
        "training.batch_seconds",
        "training.select_by",
        "data.augment.speeds",
        "optimizer.schedule",
        "optimizer.warmup_fraction",
        "optimizer.freeze",
        "training.ema_decay",
    ],
)
def test_what_would_make_the_checkpoint_mean_something_else_is_refused(key):
    assert reason_against(key)


@pytest.mark.parametrize(
    "key", ["data.root", "model.remat", "training.accumulate", "training.row_multiple", "mesh.fsdp"]
)
def test_what_messages_and_other_machines_ask_for_can_change(key):
    assert not reason_against(key)


def test_refused_changes_are_named_with_value_and_reason(tmp_path):
    before, after = Config(), override_config(Config(), ["seed=3", "training.num_epochs=7", "features.lfr_m=5"])
    changes = list_changes(before, after)
    assert [str(change) for change in changes if change.key in LENGTH] == ["training.num_epochs 20 → 7"]
    with pytest.raises(UserError) as error:
        check_changes(changes, tmp_path / "my run")
    text = str(error.value)
    assert "seed 0 → 3: the order of the data" in text and "features.lfr_m 7 → 5: the weights" in text
    assert "num_epochs" not in text and f"--init '{tmp_path}/my run' to" in text
    check_changes([change for change in changes if change.key in LENGTH], tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("model.vocab_size", 5), ("training.row_multiple", 5), ("training.select_by", "cer")]
)
def test_what_is_left_to_the_data_stays_as_they_decided(key, value):
    decided = override_config(Config(), [f"{key}={value}"])
    assert list_changes(decided, Config()) == []
    assert keep_decided(decided, Config()) == decided
    other = override_config(decided, [f"{key}={'ter' if value == 'cer' else 7}"])
    assert [change.key for change in list_changes(decided, other)] == [key]
