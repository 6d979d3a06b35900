"""Which files are samples: folders in folders, junk, other spellings, affixes, lists, and what a failure advises."""

import re
import shlex
import unicodedata

import numpy as np
import pytest
import yaml
from PIL import Image

from seg.config.reader import load_config, override_config
from seg.data import build_dataset
from seg.data.image_file import read_mask
from seg.data.images.image_kind import find_images
from seg.data.pairing.splits import find_pairs
from seg.errors import UserError
from seg.inference.output import plan_jobs


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((4, 5), value, np.uint8)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


def config_of(root, **settings):
    file = root / "config.yaml"
    data = {"dataset": "image_folder", "root": str(root), "class_names": ["a", "b"]} | settings
    file.write_text(yaml.safe_dump({"data": data}))
    return load_config(file)


def names(config, split="train"):
    dataset = build_dataset(config.data, split)
    for index in range(len(dataset)):
        assert dataset[index].mask.shape == (4, 5)
    return [dataset.name(index) for index in range(len(dataset))]


def refusal(config, split="train"):
    with pytest.raises(UserError) as error:
        build_dataset(config.data, split)
    return str(error.value)


def follow(message, config):
    """Return the config changed as the message says: the words after "Set" that are settings."""
    settings = [word.rstrip(",.") for word in shlex.split(message.split("Set ")[1]) if word.startswith("data.")]
    assert settings and all("=" in setting for setting in settings), message
    return override_config(config, settings)


JUNK = ("._a.png", ".hidden.png", "__MACOSX/a.png", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png", "Thumbs.db")


def test_junk_is_no_image_in_any_command(tmp_path):
    for folder in ("images", "labels"):
        write(tmp_path / "train" / folder / "a.PNG")
        for name in JUNK:
            file = tmp_path / "train" / folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"\0\x05\x16\x07")
    assert names(config_of(tmp_path)) == ["train/a"]
    assert [job.source.name for job in plan_jobs([tmp_path / "train/images"], tmp_path / "out")] == ["a.PNG"]
    hidden = tmp_path / ".cache/photos"  # a root below a hidden folder is one the user named
    write(hidden / "a.png")
    assert [file.name for file in find_images(hidden)] == ["a.png"]


def test_folders_in_folders_are_read_by_their_paths(tmp_path):
    for town in ("aachen", "bonn"):
        write(tmp_path / "train/images" / town / "0.png")
        write(tmp_path / "train/labels" / town / "0.npy")
    assert names(config_of(tmp_path)) == ["train/aachen/0", "train/bonn/0"]


def test_splits_below_the_folders_of_images_and_masks(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "leftImg8bit" / split / "bonn/x_leftImg8bit.png")
        for kind in ("labelIds", "color"):
            write(tmp_path / "gtFine" / split / f"bonn/x_gtFine_{kind}.png")
    settings = {"images_dir": "leftImg8bit", "masks_dir": "gtFine", "image_suffix": "_leftImg8bit"}
    config = config_of(tmp_path, mask_suffix="_gtFine_labelIds", **settings)
    assert names(config) == ["train/bonn/x_leftImg8bit"] and names(config, "val") == ["val/bonn/x_leftImg8bit"]


@pytest.mark.parametrize(("image_form", "mask_form"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_names_are_the_same(image_form, mask_form, tmp_path):
    image, mask = unicodedata.normalize(image_form, "cité"), unicodedata.normalize(mask_form, "cité")
    write(tmp_path / "train/images" / f"{image}.png")
    write(tmp_path / "train/labels" / f"{mask}.png")
    assert names(config_of(tmp_path)) == [f"train/{image}"]
    pair = f"train/images/{mask}.png train/labels/{image}.png\n"
    (tmp_path / "pairs.txt").write_text(pair)
    assert len(names(config_of(tmp_path, train_split="pairs.txt"))) == 1
    (tmp_path / "train.txt").write_text(mask)
    assert len(names(config_of(tmp_path))) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize(
    "line", ["images/{}.png labels/{}.png", "images\\{}.png\tlabels\\{}.png  ", "{}", "{}.png ", "images/{}.png"]
)
def test_lists_as_editors_write_them(line, encoding, tmp_path):
    for name in "ab":
        write(tmp_path / f"images/{name}.png")
        write(tmp_path / f"labels/{name}.png")
    text = "\r\n# a comment\r\n" + line.format("b", "b") + "\r\n\r\n" + line.format("a", "a") + "\r\n"
    (tmp_path / "train.txt").write_bytes(text.encode(encoding))
    for train_split in ("train", "train.txt"):
        found = names(config_of(tmp_path, train_split=train_split))
        assert [name[-1] for name in found] == ["b", "a"]


def test_lists_separated_by_commas_and_lists_that_are_none(tmp_path):
    write(tmp_path / "images/a b.png")
    write(tmp_path / "labels/a b.png")
    (tmp_path / "train.csv").write_text('"images/a b.png", labels/a b.png\n')
    assert names(config_of(tmp_path, train_split="train.csv")) == ["images/a b"]
    (tmp_path / "pairs.txt").write_bytes("images/a.png labels/a.png".encode("utf-16-le"))
    assert "zero bytes; save it as UTF-8" in refusal(config_of(tmp_path, train_split="pairs.txt"))


AFFIXES = [
    ("{}", "{}_mask", "data.mask_suffix=_mask"),
    ("{}", "mask_{}", "data.mask_prefix=mask_"),
    ("img_{}", "mask_{}", None),
    ("{}_leftImg8bit", "{}_gtFine_labelIds", None),
    ("{}_sat", "{}", "data.image_suffix=_sat"),
    ("{}", "{}-1", """data.mask_suffix='"-1"'"""),
    ("{}", "{}_L", "data.mask_suffix=_L"),
]


@pytest.mark.parametrize(("image", "mask", "setting"), AFFIXES)
@pytest.mark.parametrize("folder", ["", "town/"])
def test_the_affixes_of_names_are_named_and_the_advice_works(folder, image, mask, setting, tmp_path):
    stems = [f"{letter}{number:02}" for letter in "xyz" for number in range(7)]
    for stem in stems:
        write(tmp_path / "train/images" / folder / f"{image.format(stem)}.png")
        write(tmp_path / "train/labels" / folder / f"{mask.format(stem)}.gif")
    message = refusal(config_of(tmp_path))
    assert "none of 21 images" in message and "21 of 21 images have one" in message
    assert setting is None or setting in message
    assert names(follow(message, config_of(tmp_path))) == [f"train/{folder}{image.format(stem)}" for stem in stems]


def test_images_and_masks_in_one_folder(tmp_path):
    for stem in ("isic_1", "isic_2"):
        write(tmp_path / f"train/{stem}.jpg")
        write(tmp_path / f"train/{stem}_segmentation.png")
    config = config_of(tmp_path, images_dir=".", masks_dir=".")
    message = refusal(config)
    assert "data.mask_suffix=_segmentation" in message
    assert names(follow(message, config)) == ["train/isic_1", "train/isic_2"]
    assert names(config_of(tmp_path, images_dir=".", masks_dir=".", mask_suffix="_segmentation.png")) == [
        "train/isic_1",
        "train/isic_2",
    ]


def test_masks_below_the_folder_of_images_are_no_images(tmp_path):
    write(tmp_path / "train/a.jpg")
    write(tmp_path / "train/labels/a.png")
    assert names(config_of(tmp_path, images_dir=".")) == ["train/a"]


def test_folders_of_other_names_are_named_and_the_advice_works(tmp_path):
    write(tmp_path / "train/images/a.png")
    write(tmp_path / "train/masks/a.png")
    message = refusal(config_of(tmp_path))
    assert "train/labels" in message and "data.masks_dir=masks" in message
    assert names(follow(message, config_of(tmp_path))) == ["train/a"]
    (tmp_path / "train/images").rename(tmp_path / "train/imgs")
    message = refusal(config_of(tmp_path))
    assert names(follow(message, config_of(tmp_path))) == ["train/a"]


def test_a_root_of_two_folders_advises_a_fraction_and_the_advice_works(tmp_path):
    for stem in "abcdefghij":
        write(tmp_path / f"images/{stem}.png")
        write(tmp_path / f"labels/{stem}.png")
    config = follow(refusal(config_of(tmp_path)), config_of(tmp_path))
    assert len(names(config)) == 8 and len(names(config, "val")) == 2


def test_the_advice_leads_from_a_competitions_folders_to_a_training(tmp_path):
    """One message after the other, each followed: `train` and `train_masks`, a suffix, and no validation."""
    for number in range(10):
        write(tmp_path / f"train/{number:02}.jpg")
        write(tmp_path / f"train_masks/{number:02}_mask.gif")
    config, messages = config_of(tmp_path), []
    while not messages or messages[-1]:
        messages.append("")
        try:
            assert len(names(config)) == 8 and len(names(config, "val")) == 2
        except UserError as error:
            messages[-1] = str(error)
            config = follow(messages[-1], config)
    assert ["train_masks" in messages[0], "val_fraction" in messages[1], "_mask" in messages[2]] == [True] * 3


def test_lists_of_stems_in_a_folder_of_their_own(tmp_path):
    for stem in ("2007_1", "2007_2"):
        write(tmp_path / f"JPEGImages/{stem}.jpg")
        write(tmp_path / f"SegmentationClass/{stem}.png")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("2007_2\n")
    settings = {"images_dir": "JPEGImages", "masks_dir": "SegmentationClass", "train_split": "ImageSets/train.txt"}
    assert names(config_of(tmp_path, **settings)) == ["2007_2"]


def test_an_empty_split_says_what_is_there(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for number in range(20):
        (tmp_path / f"train/images/{number}.heic").write_bytes(b"x")
    message = refusal(config_of(tmp_path))
    assert "'train' is empty" in message and "20 files of .heic are not read; convert to PNG" in message
    write(tmp_path / "train/images/a.png")
    assert "none of 1 images, such as a.png, has a mask there; " in refusal(config_of(tmp_path))


def test_what_has_no_partner_is_counted_and_named(tmp_path, caplog):
    for stem in ("a1", "b1", "c1"):
        write(tmp_path / f"train/images/{stem}.png")
    for stem in ("a1", "b1_", "d", "e", "f", "g"):
        write(tmp_path / f"train/labels/{stem}.png")
    (tmp_path / "train/images/raw.dng").write_bytes(b"x")
    search = find_pairs(config_of(tmp_path).data, "train")
    assert [pair.key for pair in search.pairs] == ["a1"]
    assert [re.search(r"(\w+.png): no mask", problem)[1] for problem in search.problems] == ["b1.png", "c1.png"]
    assert "the nearest name there is b1_.png" in search.problems[0]
    assert any("5 masks have no image: b1_.png, d.png, e.png, …" in remark for remark in search.remarks)
    assert any("1 file of .dng is not read" in remark for remark in search.remarks)
    for stem in "bc":
        (tmp_path / f"train/images/{stem}1.png").unlink()
    names(config_of(tmp_path))
    assert "5 masks have no image" in caplog.text


def test_a_mask_turned_by_a_quarter_is_said_to_lack_its_tag(tmp_path):
    write(tmp_path / "train/images/a.png")
    write(tmp_path / "train/labels/a.png")
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(tmp_path / "train/labels/a.png")
    with pytest.raises(UserError, match=r"5×4 .* 4×5: one of them lacks its orientation tag"):
        build_dataset(config_of(tmp_path).data, "train")[0]


def test_links_are_told_of_if_they_lead_nowhere_or_to_a_folder(tmp_path):
    for name in "ab":
        write(tmp_path / f"images/{name}.png")
        write(tmp_path / f"labels/{name}.png")
    write(tmp_path / "elsewhere/z.png")
    (tmp_path / "images/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/c.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "labels/b.png").unlink()
    (tmp_path / "labels/b.png").symlink_to(tmp_path / "gone.png")
    search = find_pairs(config_of(tmp_path).data, "train", is_pool=True)
    assert any(f"{tmp_path}/images/c.png: no mask" in problem for problem in search.problems)
    assert any(f"{tmp_path}/images/more: a link to a folder" in remark for remark in search.remarks)
    with pytest.raises(UserError, match=r"labels/b.png: a broken link"):
        read_mask(search.pairs[1].mask)


@pytest.mark.parametrize("line", ["{0},", '"{0}"', "{1}/images/{0}.png", "images/{0}.png,labels/{0}.png,"])
def test_lists_with_quotes_separators_at_ends_and_whole_paths(line, tmp_path):
    write(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.png")
    (tmp_path / "train.txt").write_text(line.format("a", tmp_path) + "\n")
    assert [name[-1] for name in names(config_of(tmp_path))] == ["a"]


def test_pairs_of_another_computer_are_named_and_semicolons_separate(tmp_path):
    write(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.png")
    (tmp_path / "train.txt").write_text("C:\\x\\a.png C:\\y\\a.png\n")
    assert "train.txt:1: no such file" in refusal(config_of(tmp_path))
    (tmp_path / "train.txt").write_text("images/a.png;labels/a.png\n")
    assert names(config_of(tmp_path)) == ["images/a"]


def test_an_image_that_a_list_names_twice_is_told(tmp_path):
    for name in "ab":
        write(tmp_path / f"images/{name}.png")
        write(tmp_path / f"labels/{name}.png")
    (tmp_path / "train.txt").write_text("images/a.png labels/a.png\n./images/a.png labels/a.png\n")
    search = find_pairs(config_of(tmp_path).data, "train")
    assert len(search.pairs) == 2 and "train.txt:2: ./images/a.png is already in line 1" in search.remarks[0]
    (tmp_path / "train.txt").write_text("images/a.png labels/a.png\nimages/a.png labels/b.png\n")
    assert "train.txt:2: images/a.png is already in line 1, with the mask" in refusal(config_of(tmp_path))


@pytest.mark.parametrize(
    ("files", "split", "setting"),
    [
        (["train/{}/a", "valid/{}/b"], "val", {"val_split": "valid"}),
        (["train/{}/a", "train/{}/b"], "val", {"val_fraction": 0.2}),
        (["{}/training/a", "{}/validation/a"], "train", {"train_split": "training"}),
        (["{}/training/a", "{}/validation/a"], "val", {"val_split": "validation"}),
    ],
)
def test_a_split_of_another_name_is_named_and_the_advice_works(files, split, setting, tmp_path):
    for folder in ("images", "labels"):
        for file in files:
            write(tmp_path / f"{file.format(folder)}.png")
    config = config_of(tmp_path)
    changed = follow(refusal(config, split), config)
    assert {key: getattr(changed.data, key) for key in setting} == setting
    if "val_fraction" not in setting:
        assert len(names(changed, split)) == 1


def test_masks_of_splits_below_a_folder_of_another_name_and_files_in_one_folder(tmp_path):
    for folder in ("images", "masks"):
        write(tmp_path / f"one/{folder}/train/a.png")
    config = config_of(tmp_path / "one")
    changed = follow(refusal(config), config)
    assert changed.data.masks_dir == "masks" and len(names(changed)) == 1
    for name in ("a.png", "a_mask.png", "b.png", "b_mask.png"):
        write(tmp_path / "two/data" / name)
    config = override_config(config_of(tmp_path / "two"), ["data.val_fraction=0.5"])
    for _ in range(2):
        config = follow(refusal(config), config)
    assert len(names(config)) == 1
    for name in ("a.png", "a.jpg"):
        write(tmp_path / "three/data" / name)
    config = config_of(tmp_path / "three", images_dir="data", masks_dir="data", val_fraction=0.5)
    assert "nothing in the names distinguishes images from masks" in refusal(config)


def test_affixes_of_class_numbers_come_before_those_of_colours(tmp_path):
    for kind in ("labelIds", "color", "instanceIds"):
        write(tmp_path / f"train/labels/a_gtFine_{kind}.png")
    write(tmp_path / "train/images/a_leftImg8bit.png")
    assert "gtFine_labelIds" in refusal(config_of(tmp_path))
