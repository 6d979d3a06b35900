"""Where the weights stand in what a training program saved, and what it put before their names."""

from pathlib import Path

import numpy as np
import pytest

from seg.errors import UserError
from seg.published.pickled_names import placeholder_class
from seg.published.state_dict import find_state_dict, plain_names
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

PATH, ANCHOR = Path("w.pth"), "inc.conv.weight"
NET = {"inc.conv.weight": np.ones((2, 3), np.float32), "inc.norm.bias": np.zeros(2, np.float32)}
OTHER = {"head.weight": np.ones(3, np.float32)}
OPTIMIZER = {"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": [{"lr": 0.1}]}
OBJECT = placeholder_class("somebody", "Options")()


def found_in(content):
    return find_state_dict(PATH, content).tensors


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert message.startswith("w.pth: ") and "\n" not in message
    assert "load it with torch and save model.state_dict()" in message
    return message


# The state dict.


@pytest.mark.parametrize(
    "key",
    ["state_dict", "model_state_dict", "model", "net", "model_state", "ema", "weights", "network", "params", "module"]
    + ["my_unet", "generator"],
)
@pytest.mark.parametrize("inside", [(), ("checkpoint",), ("a", "b")])
def test_weights_under_a_key_are_found(key, inside):
    content = {key: NET, "epoch": 3, "optimizer": OPTIMIZER, "args": OBJECT, "step": np.array(7), "rng": np.zeros(9)}
    for outer in inside:
        content = {outer: content, "version": 1}
    assert found_in(content) == NET


def test_a_tensor_on_top_does_not_hide_the_state_dict():
    assert found_in({"epoch": np.array(3), "model": NET}) == NET
    assert found_in({**NET, "epoch": np.array(3)}) == {**NET, "epoch": np.array(3)}


def test_of_copies_under_known_keys_the_first_is_taken_and_said(caplog):
    average = {name: array + 1 for name, array in NET.items()}
    assert found_in({"ema": average, "model": NET}) == NET
    assert "using the weights under model, not those under ema" in caplog.text
    assert found_in({"model": NET, "loss_fn": OTHER}) == NET


def test_of_several_under_unknown_keys_or_equal_ones_none_is_taken():
    assert "several state dicts, under G, D:" in refusal(found_in, {"G": NET, "D": OTHER})
    message = refusal(found_in, {"G": {"state_dict": NET}, "D": {"state_dict": OTHER}})
    assert "several state dicts, under G.state_dict, D.state_dict:" in message


def test_arrays_of_the_optimizer_are_no_weights():
    averages = {f"{name}.avg": array for name, array in NET.items()}
    assert found_in({"my_net": NET, "optimizer_state": averages, "lr_scheduler": averages, "scaler": averages}) == NET


def test_what_stands_beside_is_kept_unless_it_is_an_object():
    found = find_state_dict(PATH, {"model": {**NET, "x": OBJECT, "values": [0, 255]}, "note": "a", "more": OBJECT})
    assert found.extras == {"values": [0, 255], "note": "a"}
    assert find_state_dict(PATH, {"model": NET, "mask_values": [0, 1]}).extras == {"mask_values": [0, 1]}


def test_state_that_a_module_keeps_itself_is_passed_over():
    assert found_in({**NET, "inc.norm._extra_state": OBJECT}) == NET
    assert "inc.x (somebody.Options)" in refusal(found_in, {**NET, "inc.x": OBJECT})


def test_a_dictionary_that_holds_itself_ends():
    content = {"model": NET}
    content |= {f"a{number}": content for number in range(1000)}
    assert found_in(content) == NET


# Names.


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "network.", "module._orig_mod.", "_orig_mod.module.", "module.model."]
    + ["model.net.", "my_unet.", ""],
)
def test_what_stands_before_all_names_is_taken_off(prefix):
    assert plain_names({prefix + name: array for name, array in NET.items()}, ANCHOR, PATH) == NET


def test_wrappers_of_parts_are_taken_out_of_names():
    assert (
        plain_names({name.replace("inc.", "inc._orig_mod.module."): x for name, x in NET.items()}, ANCHOR, PATH) == NET
    )
    twice = {"inc.conv.weight": NET["inc.conv.weight"], "inc.module.conv.weight": np.zeros(1)}
    assert plain_names(twice, ANCHOR, PATH) == twice  # a part of that name, not a wrapper


def test_counters_are_left_out_and_other_tensors_are_said(caplog):
    wrapped = {f"module.{name}": array for name, array in NET.items()}
    assert plain_names({"n_averaged": np.array(4), **wrapped}, ANCHOR, PATH) == NET
    assert plain_names({**NET, "epoch": np.array(3), "best": np.array([0.5])}, ANCHOR, PATH) == NET
    assert not caplog.text
    beside = {f"model.{name}": array for name, array in NET.items()} | {"loss_fn.weight": np.ones(2)}
    assert plain_names(beside, ANCHOR, PATH) == NET
    assert "dropped 1 tensors outside model.: loss_fn.weight" in caplog.text


def test_a_network_that_is_there_twice_is_refused():
    twice = {f"{who}.{name}": array for who in ("student", "teacher") for name, array in NET.items()}
    assert "contains the network 2 times, under student., teacher.:" in refusal(plain_names, twice, ANCHOR, PATH)


def test_names_without_the_anchor_stay_as_they_are():
    assert plain_names(OTHER, ANCHOR, PATH) == OTHER


def test_files_of_safetensors_are_read_as_well(tmp_path):
    from seg.checkpoints.safetensors_file import write_safetensors

    write_safetensors(tmp_path / "w.safetensors", NET)
    write_torch_file(tmp_path / "w.pth", NET)
    for name in ("w.safetensors", "w.pth"):
        found = read_torch_file(tmp_path / name)
        assert found.tensors.keys() == NET.keys() and found.extras == {}
        for key, array in NET.items():
            np.testing.assert_array_equal(found.tensors[key], array)
