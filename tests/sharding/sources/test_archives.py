"""Archives beside each other: which tar is which split, and what is an error rather than a guess.

Everything goes through ``detect_source``, as the command does, and through the listing of each split.
"""

import re

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.detect import detect_source
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import expected_content, hash_content, list_splits

DOGS = [f"n020{85620 + i}" for i in range(120)]


def classes_of(src, split="train"):
    found = list_splits(src)[split]
    return [name for name, count in found.counts_by_class().items() if count]


def excluded(src, split="train"):
    return dict(list_splits(src)[split].excluded)


def tar_of_tars(wnids):
    return mini.tar_bytes([(f"{w}.tar", mini.tar_bytes([(f"{w}_1.JPEG", mini.jpeg(i))])) for i, w in enumerate(wnids)])


def kept_all(src):
    """Every member of every archive is an image or excluded, none is both."""
    return {split: (len(found), len(found.excluded)) for split, found in list_splits(src).items()}


# --- training archives ----------------------------------------------------------------------------------------------


def test_a_hundred_dogs_alone_are_task_3_whatever_the_tar_is_called(tmp_path):
    mini.write(tmp_path / "images.tar", tar_of_tars(DOGS[:100]))
    with pytest.raises(SourceError, match=r"no archive with images to train on .*task 3"):
        detect_source(tmp_path)


def test_fewer_dogs_alone_are_a_set_of_dogs(tmp_path):
    mini.write(tmp_path / "images.tar", tar_of_tars(DOGS[:99]))
    assert classes_of(tmp_path) == DOGS[:99]


@pytest.mark.parametrize("alone", [True, False])
def test_dogs_among_other_classes_are_no_task_3(tmp_path, alone):
    others = [f"n01{440764 + i}" for i in range(99)]
    mini.write(tmp_path / "images.tar", tar_of_tars([*others, DOGS[0]]))
    if not alone:
        mini.write(tmp_path / "dogs.tar", tar_of_tars(DOGS[:3]))
    assert classes_of(tmp_path) == [*others, DOGS[0]]


def test_a_few_dogs_beside_another_tar_of_tars_are_task_3(tmp_path):
    mini.write(tmp_path / "dogs.tar", tar_of_tars(DOGS[:3]))
    mini.write_train_tar(tmp_path, "images.tar")
    assert classes_of(tmp_path) == list(mini.WNIDS)
    assert "task 3" in excluded(tmp_path)["dogs.tar"]


def test_the_official_name_stays_training_data_if_all_of_it_are_dogs(tmp_path):
    mini.write(tmp_path / "ILSVRC2012_img_train.tar", tar_of_tars(DOGS[:3]))
    mini.write(tmp_path / "more.tar", tar_of_tars(DOGS[3:5]))
    assert classes_of(tmp_path) == DOGS[:3]
    assert "task 3" in excluded(tmp_path)["more.tar"]


def test_the_official_archive_is_taken_before_another_tar_of_tars(tmp_path):
    mini.write_train_tar(tmp_path)
    mini.write(tmp_path / "a-copy.tar", tar_of_tars(["n01443537", "n02085620"]))
    assert classes_of(tmp_path) == list(mini.WNIDS)
    assert "a-copy.tar" in excluded(tmp_path)


def test_two_tars_of_tars_without_the_official_name_are_not_chosen_between(tmp_path):
    for name in ("b.tar", "a.tar"):
        mini.write_train_tar(tmp_path, name)
    with pytest.raises(SourceError, match=r"a\.tar and b\.tar are both tars of tars"):
        detect_source(tmp_path)


def test_tars_of_classes_side_by_side_are_one_split(tmp_path):
    for name, data in mini.inner_tars():
        mini.write(tmp_path / name, data)
    assert hash_content(tmp_path) == {"train": expected_content()["train"]}


# --- validation archives --------------------------------------------------------------------------------------------


def test_two_validation_archives_are_not_chosen_between(tmp_path):
    mini.write_archives(tmp_path)
    data = (tmp_path / "ILSVRC2012_img_val.tar").read_bytes()
    mini.write(tmp_path / "a-copy.tar", data)
    with pytest.raises(SourceError, match=r"ILSVRC2012_img_val\.tar and a-copy\.tar both hold validation images"):
        detect_source(tmp_path)


@pytest.mark.parametrize("devkit", [True, False])
def test_validation_images_in_class_folders_go_before_flat_ones(tmp_path, devkit):
    """Their labels are certain, with a devkit and without."""
    mini.write_train_tar(tmp_path)
    mini.write_val_tar(tmp_path)
    members = [(f"val/{p.wnid}/{p.name}", p.data) for p in mini.pictures()["val"]]
    mini.write(tmp_path / "val.tar", mini.tar_bytes(members))
    if devkit:
        mini.write_devkit(tmp_path, packed=True)
    assert hash_content(tmp_path) == expected_content()
    assert "ILSVRC2012_img_val.tar" in {path.partition("/")[0] for path in excluded(tmp_path)}
    assert kept_all(tmp_path)["val"] == (6, 0)


def test_images_whose_names_tell_no_class_are_excluded_one_by_one(tmp_path):
    """A tar of images whose names tell their classes, with others among them behind its first members."""
    train = [(p.name.replace(".JPEG", f"_{p.wnid}.JPEG"), p.data) for p in mini.pictures()["train"]]
    more = [(f"n01440764_{i}_n01440764.JPEG", mini.jpeg(i)) for i in range(100, 140)]
    mini.write(tmp_path / "train_images_0.tar", mini.tar_bytes([*train, *more, ("holiday.JPEG", b"x")]))
    assert excluded(tmp_path) == {"train_images_0.tar/holiday.JPEG": "its name tells no class"}
    assert kept_all(tmp_path) == {"train": (len(train) + len(more), 1)}


# --- class folders packed again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "./", "imagenet/", "data/imagenet/"])
@pytest.mark.parametrize("classes", [mini.WNIDS, ("cat", "dog", "emu")])
def test_folders_above_the_split_are_passed_over(tmp_path, above, classes):
    named = dict(zip(mini.WNIDS, classes, strict=True))
    members = [(f"{above}train/{named[p.wnid]}/{p.name}", p.data) for p in mini.pictures()["train"]]
    mini.write(tmp_path / "train.tar", mini.tar_bytes(members))
    assert classes_of(tmp_path) == list(classes)
    assert kept_all(tmp_path) == {"train": (9, 0)}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_tar_of_another_split_s_folder_is_an_error(tmp_path, split):
    """A tar called train.tar that holds val/: neither its name nor its folder is believed."""
    other = {"train": "val", "val": "train"}[split]
    members = [(f"{other}/{name}/{name}_1.JPEG", mini.jpeg(i)) for i, name in enumerate(("cat", "dog"))]
    mini.write(tmp_path / f"{split}.tar", mini.tar_bytes(members))
    with pytest.raises(SourceError, match=rf"{split}\.tar.*{other}"):
        detect_source(tmp_path)
        list_splits(tmp_path)


def test_a_member_beside_the_class_folders_is_excluded(tmp_path):
    members = [(f"train/{p.wnid}/{p.name}", p.data) for p in mini.pictures()["train"]]
    mini.write(tmp_path / "train.tar", mini.tar_bytes([*members, ("train/notes.txt", b"x"), ("train/.DS_Store", b"y")]))
    assert excluded(tmp_path) == {
        "train.tar/train/notes.txt": "not inside a class folder",
        "train.tar/train/.DS_Store": "system file",
    }


def test_each_image_is_read_where_it_lies(tmp_path):
    """Bytes through three levels: a tar in a tar in a folder; none is another one's."""
    mini.write_archives(tmp_path / "inner")
    assert hash_content(tmp_path / "inner") == expected_content()
    (tmp_path / "train").mkdir()
    (tmp_path / "inner" / "ILSVRC2012_img_train.tar").rename(tmp_path / "train" / "ILSVRC2012_img_train.tar")
    assert hash_content(tmp_path / "train") == {"train": expected_content()["train"]}


def test_what_is_found_is_said_in_a_sentence(tmp_path):
    mini.write_archives(tmp_path)
    says = detect_source(tmp_path).description
    assert re.search(r"ILSVRC2012_img_train\.tar, ILSVRC2012_img_val\.tar, ILSVRC2012_devkit_t12\.tar\.gz", says)
