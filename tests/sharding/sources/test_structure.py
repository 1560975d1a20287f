"""Structure: which folders are splits and classes, in folders and in tars; and one line where that is not certain."""

import os
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.core.errors import SourceError
from alexstream.sharding import listing
from alexstream.sharding.overview import format_left_out
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.labels.label_table import parse_label_options
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import LAST, TAR, make_files, pack_tar, read_classes


def expected(paths, level, split="train"):
    """Each image's class is the part of its path at ``level``, counted from 1; what has no such folder is no image."""
    return {split: {p: p.split("/")[level - 1] for p in paths if p.count("/") >= level and p.endswith(".jpg")}}


# layout, level of the class in the path; one split
ONE_SPLIT = {
    "class folders": (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], 1),
    "one wrapping folder": (["flowers/daisy/1.jpg", "flowers/rose/1.jpg", "flowers/LICENSE.txt"], 2),
    "two wrapping folders": (["a/b/daisy/1.jpg", "a/b/rose/1.jpg", "a/readme.md", "LICENSE"], 3),
    "images/": (["images/daisy/1.jpg", "images/rose/1.jpg", "classes.csv"], 2),
    "images/ beside folders without images": (
        ["cub/images/a/1.jpg", "cub/images/b/1.jpg", "cub/parts/p.txt", "cub/images.txt"],
        3,
    ),
    "folders below some classes": (["cat/1.jpg", "cat/2019/2.jpg", "dog/1.jpg", "dog/2019/may/2.jpg"], 1),
    "one folder below a class": (["cats/1.jpg", "dogs/2020/1.jpg", "dogs/2020/2.jpg"], 1),
    "images/ below each class": (["cat/images/1.jpg", "dog/images/1.jpg"], 1),
    "classes twice": (["cat/cat/1.jpg", "dog/dog/1.jpg"], 1),
    "the same folder below each class": (["cat/color/1.jpg", "dog/color/1.jpg"], 1),
    "wnids above anything": (["w/n01440764/x/1.jpg", "w/n01440764/y/1.jpg", "w/n01443537/z/1.jpg"], 2),
    "a class called train": (["train/1.jpg", "plane/1.jpg"], 1),
    "names that sound like splits": (["trainer/1.jpg", "evaluator/1.jpg", "training-shoes/1.jpg", "testudo/1.jpg"], 1),
    "names that hold split words": (["bullet_train/1.jpg", "test tube/1.jpg", "dev board/1.jpg"], 1),
    "numbers": (["0/1.jpg", "10/1.jpg", "9/1.jpg"], 1),
    "a table beside class folders": (["cat/1.jpg", "dog/1.jpg", "labels.csv"], 1),
    "a folder without images beside the classes": (["cat/1.jpg", "dog/1.jpg", "annotations/1.xml"], 1),
}


@pytest.mark.parametrize("name", ONE_SPLIT)
def test_class_folders_are_found_where_only_one_reading_is_possible(tmp_path, name):
    paths, level = ONE_SPLIT[name]
    assert read_classes(make_files(tmp_path / "photos", *paths)) == expected(paths, level)


@pytest.mark.parametrize("start", ["", "./", "./x/y/"])
@pytest.mark.parametrize("name", ONE_SPLIT)
def test_the_same_holds_in_a_tar_however_deep_it_was_packed(tmp_path, name, start):
    paths, level = ONE_SPLIT[name]
    tar = pack_tar(tmp_path / "photos.tar", *(start + path for path in paths))
    truth = expected(paths, level)["train"]
    for src, prefix in ((tar, "photos.tar/"), (tmp_path, "photos.tar/")):
        assert read_classes(src) == {"train": {f"{prefix}{start}{path}": wnid for path, wnid in truth.items()}}


# {split: (folder, rest of the paths)}
SPLITS = {
    "train, val": {"train": "train", "val": "val"},
    "capitals": {"train": "TRAIN", "test": "TEST"},
    "Training, Testing": {"train": "Training", "test": "Testing"},
    "prefixes": {"train": "seg_train", "test": "seg_test"},
    "doubled": {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
    "suffixes": {"train": "train_images", "val": "valid_images", "test": "test_images"},
    "years": {"train": "train2017", "val": "val2017"},
    "parts": {"train": "train.X1", "val": "val.X"},
    "dev and eval": {"train": "training", "val": "dev", "test": "eval"},
    "wrapped": {"train": "archive/data/Train", "val": "archive/data/Validation Set"},
    "CLS-LOC": {"train": "ILSVRC/Data/CLS-LOC/train", "val": "ILSVRC/Data/CLS-LOC/val"},
    "images/ below": {"train": "dataset/train/images", "val": "dataset/val/images"},
    "names that differ in the split alone": {"train": "brain_tumors_train", "test": "brain_tumors_test"},
    "only val": {"val": "Validation"},
    "only train": {"train": "data/training"},
    "holdout": {"train": "train", "test": "hold-out"},
}


def split_paths(name):
    return {
        split: [f"{folder}/{wnid}/{i}.jpg" for wnid in ("cat", "dog") for i in range(2)]
        for split, folder in SPLITS[name].items()
    }


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_known_by_their_words(tmp_path, name):
    by_split = split_paths(name)
    truth = {split: {path: path.split("/")[-2] for path in paths} for split, paths in by_split.items()}
    everything = [path for paths in by_split.values() for path in paths]
    assert read_classes(make_files(tmp_path / "photos", *everything, "photos.md")) == truth
    tar = pack_tar(tmp_path / "photos.tar", *everything, "readme.md")
    assert read_classes(tar) == {s: {f"photos.tar/{p}": w for p, w in images.items()} for s, images in truth.items()}


# layout, words of the error; the options that it names
ASKED = {
    "one class": (["cat/1.jpg", "cat/2.jpg"], "only one class, 'cat'", {"1": ["cat"]}),
    "one class in folders": (["cat/2019/may/1.jpg"], "only one class", {"1": ["cat"], "3": ["may"]}),
    "one class in a split": (["train/a/1.jpg", "val/a/1.jpg"], "only one class, 'a'", {"1": ["a"]}),
    "sites": (
        ["site1/cat/1.jpg", "site1/dog/1.jpg", "site2/cat/1.jpg", "site2/dog/2.jpg"],
        r"hold folders of the same names \(cat, dog\)",
        {"1": ["site1", "site2"], "2": ["cat", "dog"], "last": ["cat", "dog"]},
    ),
    "some of the same names": (
        ["site1/cat/1.jpg", "site1/dog/1.jpg", "site2/cat/1.jpg"],
        "same names",
        {"1": ["site1", "site2"], "2": ["cat", "dog"]},
    ),
    "kinds": (
        ["animals/cat/1.jpg", "animals/dog/1.jpg", "plants/rose/1.jpg"],
        "no images, only other folders",
        {"1": ["animals", "plants"], "2": ["cat", "dog", "rose"], "last": ["cat", "dog", "rose"]},
    ),
    "years": (["cats/2019/1.jpg", "dogs/2020/1.jpg"], "only other folders", {"1": ["cats", "dogs"]}),
    "a class that holds classes": (
        ["rose/1.jpg", "more/daisy/1.jpg", "more/tulip/1.jpg"],
        r"\(more\)",
        {"1": ["more", "rose"], "last": ["daisy", "rose", "tulip"]},
    ),
    "images beside classes": (["cat/1.jpg", "dog/1.jpg", "3.jpg"], "beside the class folders", {"1": ["cat", "dog"]}),
    "images beside classes in a split": (
        ["train/cat/1.jpg", "train/dog/1.jpg", "train/3.jpg", "val/cat/1.jpg"],
        "beside the class folders",
        {"1": ["cat", "dog"]},
    ),
    "flat splits": (["train/1.jpg", "test/1.jpg"], "called like splits", {"1": ["test", "train"]}),
    "a flat test among classes": (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], r"like splits \(test\)", {"1": ["cat"]}),
    "valid and invalid": (["valid/1.jpg", "invalid/1.jpg"], "like splits", {"1": ["invalid", "valid"]}),
    "images and masks": (["images/1.jpg", "masks/1.png"], "no name of a class", {"1": ["images", "masks"]}),
    "a split and a folder": (["train/cat/1.jpg", "train/dog/1.jpg", "foo/cat/1.jpg"], "beside it foo", {}),
    "Train and a folder": (["Train/cat/1.jpg", "Train/dog/1.jpg", "extra/1.jpg"], "beside it extra", {}),
    "val twice": (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "valid/dog/1.jpg"],
                  "val, valid are all called like the val split, and may be its parts", {}),
    "only what is in the way": (
        ["Train/a/1.jpg", "Train/b/1.jpg", "Test/a/1.jpg", "Valid/b/1.jpg", "more/1.jpg"],
        "beside it more; expected only train, val and test", {},
    ),
    "train and val in one": (["trainval/a/1.jpg", "trainval/b/1.jpg", "test/a/1.jpg"], "or rename them", {}),
    "images and lists": (["images/a/1.jpg", "images/b/1.jpg", "masks/1.png"], "or `source` .*/images for that", {}),
    "variants": (["color/a/1.jpg", "color/b/1.jpg", "gray/a/1.jpg", "gray/b/1.jpg"], "or `source` .*/color for", {}),
    "splits and more below classes": (
        ["cup/train/good/1.jpg", "cup/test/bad/1.jpg", "cup/masks/bad/1.jpg", "pen/train/good/1.jpg",
         "pen/test/bad/1.jpg", "pen/masks/bad/1.jpg"], r"folders of splits \(test, train\)", {},
    ),
    "flat with names of its own": (["cars_train/1.jpg", "cars_test/1.jpg"], "or `labels` FILE", {}),
    "one flat folder deep down": (["a/b/images/1.jpg", "a/b/images/2.jpg"], "or `labels` FILE", {}),
    "flat with names": (["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg"], "or `labels` FILE", {}),
    "splits below classes": (["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"], "folders of splits", {}),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ASKED)
def test_more_than_one_reading_is_one_line_with_the_options(tmp_path, name, packed):
    paths, words, readings = ASKED[name]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    with pytest.raises(SourceError, match=words) as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    for option, classes in readings.items():
        level = LAST if option == "last" else int(option)
        if option != "last":
            assert f"`classes_at` {option} for " in str(error.value)
        chosen = read_classes(src, classes_at=level)
        assert set(classes) <= set(chosen["train"].values())
        assert all(wnid in path.split("/")[:-1] for images in chosen.values() for path, wnid in images.items())


def test_no_image_of_a_chosen_level_is_lost(tmp_path):
    paths = ["a/x/1.jpg", "a/y/2.jpg", "b/x/3.jpg", "a/4.jpg", "5.jpg", "b/x/deep/6.jpg"]
    make_files(tmp_path / "photos", *paths)
    at = {level: read_classes(tmp_path / "photos", classes_at=level)["train"] for level in (1, 2, LAST)}
    assert at[1] == {p: p[0] for p in paths if "/" in p}
    assert at[2] == {"a/x/1.jpg": "x", "a/y/2.jpg": "y", "b/x/3.jpg": "x", "b/x/deep/6.jpg": "x"}
    assert at[LAST] == {
        "a/x/1.jpg": "x", "a/y/2.jpg": "y", "b/x/3.jpg": "x", "a/4.jpg": "a", "b/x/deep/6.jpg": "deep"
    }  # fmt: skip
    for level in (1, 2, LAST):
        (plan,) = plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out", classes_at=level))
        left = {path for path, _ in plan.listing.excluded}
        assert left | set(at[level]) == set(paths) and not left & set(at[level])


def test_a_table_of_images_that_lie_in_folders_of_other_names_is_asked_about(tmp_path):
    make_files(tmp_path / "ham", "week_1/ISIC_1.jpg", "week_2/ISIC_2.jpg")
    mini.write(tmp_path / "ham/meta.csv", b"lesion,image,shade\nH1,ISIC_1,mel\nH2,ISIC_2,nv\n")
    with pytest.raises(SourceError, match=r"meta\.csv names images without the folders .*week_2\).*`labels` \S*meta"):
        read_classes(tmp_path / "ham")
    assert set(read_classes(tmp_path / "ham", classes_at=1)["train"].values()) == {"week_1", "week_2"}
    make_files(tmp_path / "set", "photos/cat/ISIC_1.jpg", "photos/dog/ISIC_2.jpg")
    for table in (b"image,class\nISIC_1,cat\nISIC_2,dog\n", b"image\ncat/ISIC_1.jpg\n", b"label,name\n0,Katze\n"):
        mini.write(tmp_path / "set/photos/table.csv", table)
        assert set(read_classes(tmp_path / "set")["train"].values()) == {"cat", "dog"}


@pytest.mark.parametrize("inner", ["train/Test", "train/x/dev", "Training/eval_images"])
def test_a_folder_of_another_split_inside_a_split_is_refused(tmp_path, inner):
    make_files(tmp_path / "photos", f"{inner}/cat/1.jpg", f"{inner}/dog/1.jpg", "val/cat/1.jpg")
    with pytest.raises(SourceError, match="and not train; move it"):
        read_classes(tmp_path / "photos")


def test_a_folder_beside_an_empty_class_is_not_stepped_into(tmp_path):
    make_files(tmp_path / "photos", "cat/2019/1.jpg", "cat/2020/2.jpg", "dog/")
    with pytest.raises(SourceError, match=r"`classes_at` 2 for 2 classes \(2019, 2020\)"):
        read_classes(tmp_path / "photos")


def test_known_class_names_tell_the_level(tmp_path):
    make_files(tmp_path / "photos", "site1/cat/1.jpg", "site2/dog/1.jpg", "site2/cat/1.jpg")
    assert set(read_classes(tmp_path / "photos", classes=("cat", "dog", "elk"))["train"].values()) == {"cat", "dog"}
    assert set(read_classes(tmp_path / "photos", classes=("site2", "site1"))["train"].values()) == {"site1", "site2"}


def test_a_validation_split_may_have_one_class_and_another_depth(tmp_path):
    make_files(tmp_path / "photos", "train/cat/1.jpg", "train/dog/1.jpg", "val/images/cat/1.jpg")
    assert read_classes(tmp_path / "photos")["val"] == {"val/images/cat/1.jpg": "cat"}


def test_flat_test_images_are_left_out_and_flat_validation_images_want_labels(tmp_path):
    make_files(tmp_path / "a", "train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg")
    assert list(read_classes(tmp_path / "a")) == ["train"]
    make_files(tmp_path / "b", "train/cat/1.jpg", "train/dog/1.jpg", "val/1.jpg")
    with pytest.raises(SourceError, match="val has images and no class folders"):
        read_classes(tmp_path / "b")
    assert list(read_classes(tmp_path / "b", split="train")) == ["train"]


def test_the_split_of_a_single_folder_can_be_given(tmp_path):
    make_files(tmp_path / "photos", "n01440764/n01440764_1.JPEG", "n01443537/n01443537_2.JPEG")
    (plan,) = plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out", split="val"))
    assert plan.request.split == "val"
    assert all(notice.startswith("val: ") for notice in plan.listing.notices)


@pytest.mark.parametrize("name", ["val", "Validation", "val_images", "dev"])
def test_a_folder_named_for_its_split_is_that_split(tmp_path, name):
    assert list(read_classes(make_files(tmp_path / name, "cat/1.jpg", "dog/1.jpg"))) == ["val"]


@pytest.mark.parametrize("name", ["dogs_val", "birds-test", "imagenetv2-top-images-format-val", "cats.dev"])
def test_a_name_that_only_speaks_of_a_split_is_asked_about(tmp_path, name):
    make_files(tmp_path / name, "cat/1.jpg", "dog/1.jpg")
    make_files(tmp_path / "wrapped", f"{name}/cat/1.jpg", f"{name}/dog/1.jpg")
    tar = pack_tar(tmp_path / "p.tar", f"{name}/cat/1.jpg", f"{name}/dog/1.jpg")
    for src in (tmp_path / name, tmp_path / "wrapped", tar):
        with pytest.raises(SourceError, match=r"choose: `split` \w+, or `split` train"):
            read_classes(src)
        assert list(read_classes(src, split="test")) == ["test"]
        assert list(read_classes(src, split="train")) == ["train"]


@pytest.mark.parametrize("name", ["bullet_train", "test_tubes", "photos of tests", "devices", "valley"])
def test_other_names_of_a_source_say_nothing(tmp_path, name):
    assert list(read_classes(make_files(tmp_path / name, "cat/1.jpg", "dog/1.jpg"))) == ["train"]


@pytest.mark.parametrize("kaggle", [True, False])
def test_wrapped_imagenet_finds_the_labels_of_its_flat_validation_images(tmp_path, kaggle):
    (mini.write_kaggle if kaggle else mini.write_flat_val)(tmp_path / "w/imagenet")
    if not kaggle:
        (tmp_path / "w/imagenet/train").rename(tmp_path / "w/imagenet/Train")
    images = {split: {p.name: p.wnid for p in of} for split, of in mini.pictures().items()}
    assert {
        split: {Path(p).name: w for p, w in of.items()} for split, of in read_classes(tmp_path / "w").items()
    } == images


def test_flat_test_images_may_lie_a_folder_deeper(tmp_path):
    make_files(
        tmp_path / "asl", "asl_train/asl_train/A/1.jpg", "asl_train/asl_train/B/1.jpg", "asl_test/asl_test/A.jpg"
    )
    assert list(read_classes(tmp_path / "asl")) == ["train"]
    make_files(
        tmp_path / "tiny", "train/n01440764/images/1.JPEG", "train/n01443537/images/1.JPEG", "test/images/1.JPEG"
    )
    assert list(read_classes(tmp_path / "tiny")) == ["train"]


def test_tars_tell_their_split_by_their_names_or_none_does(tmp_path):
    pack_tar(tmp_path / "a/Train.tar", "x/cat/1.jpg", "x/dog/1.jpg")
    pack_tar(tmp_path / "a/testing.tar", "y/cat/1.jpg", "y/dog/1.jpg")
    assert read_classes(tmp_path / "a") == {
        "train": {"Train.tar/x/cat/1.jpg": "cat", "Train.tar/x/dog/1.jpg": "dog"},
        "test": {"testing.tar/y/cat/1.jpg": "cat", "testing.tar/y/dog/1.jpg": "dog"},
    }
    pack_tar(tmp_path / "a/more.tar", "z/cat/1.jpg", "z/dog/1.jpg")
    with pytest.raises(SourceError, match=r"more\.tar does not; rename it"):
        read_classes(tmp_path / "a")


def test_a_tar_whose_name_contradicts_its_folders_is_refused(tmp_path):
    pack_tar(tmp_path / "val.tar", "train/cat/1.jpg", "train/dog/1.jpg")
    pack_tar(tmp_path / "train.tar", "dogs_val/cat/1.jpg", "dogs_val/dog/1.jpg")
    for split in ("train", "val"):
        with pytest.raises(SourceError, match=f"its name implies the {split} split"):
            read_classes(tmp_path / f"{split}.tar")


def test_classes_in_tars_of_their_own(tmp_path):
    for name, members in {"10": ["1.jpg"], "9": ["1.jpg"], "cat": ["1.jpg", "a b/2.jpg"], "dog": ["1.jpg"]}.items():
        pack_tar(tmp_path / f"tars/{name}.tar", *members)
    with pytest.raises(SourceError, match=r"`classes_at` 0 for 4 classes named by the tars \(10, 9, cat, dog\)"):
        read_classes(tmp_path / "tars")
    truth = {"10.tar/1.jpg": "10", "9.tar/1.jpg": "9", "cat.tar/1.jpg": "cat", "cat.tar/a b/2.jpg": "cat",
             "dog.tar/1.jpg": "dog"}  # fmt: skip
    assert read_classes(tmp_path / "tars", classes_at=TAR) == {"train": truth}
    (tmp_path / "src").mkdir()
    (tmp_path / "tars").rename(tmp_path / "src/train")
    with pytest.raises(SourceError, match="`classes_at` 0"):
        read_classes(tmp_path / "src")
    assert read_classes(tmp_path / "src", classes_at=TAR) == {"train": {f"train/{p}": w for p, w in truth.items()}}


def test_tars_of_images_alone_may_be_named_for_their_class(tmp_path):
    for name in ("cat", "dog"):
        pack_tar(tmp_path / f"tars/{name}.tar", "1.jpg")
    with pytest.raises(SourceError, match=r"named for their class: `classes_at` 0 for 2 classes \(cat, dog\)$"):
        read_classes(tmp_path / "tars")
    assert read_classes(tmp_path / "tars", classes_at=TAR) == {
        "train": {"cat.tar/1.jpg": "cat", "dog.tar/1.jpg": "dog"}
    }


def test_left_out_tars_count_as_the_images_that_they_hold(tmp_path):
    mini.write_train_tar(tmp_path)
    pack_tar(tmp_path / "other.tar", "1.jpg", "2.jpg", "3.jpg")
    (plan,) = plan_splits(ShardRequest(source=tmp_path, folder=Path("/nowhere/out")))
    assert [path for path, _ in plan.listing.excluded] == ["other.tar/1.jpg", "other.tar/2.jpg", "other.tar/3.jpg"]


SYSTEM_NAMES = (
    "@eaDir/1.jpg/SYNO_THUMB_M.jpg #recycle/1.jpg @Recycle/1.jpg @Recently-Snapshot/cat/1.jpg lost+found/1.jpg "
    "$RECYCLE.BIN/1.jpg $Recycle.Bin/1.jpg RECYCLER/1.jpg .Trash-1000/1.jpg Thumbs.db THUMBS.DB desktop.ini ._1.jpg "
    ".DS_Store __MACOSX/._1.jpg 1.jpg~ .1.jpg.swp #1.jpg# thumbnails/1.jpg .thumbnails/1.jpg"
)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("where", ["", "train/", "train/cat/"])
@pytest.mark.parametrize("name", [*SYSTEM_NAMES.split(), "System Volume Information/1.jpg"])
def test_system_names_are_excluded_and_never_opened(tmp_path, name, where, packed):
    images = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"]
    paths = [*images, where + name]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    (train, _) = plan_splits(ShardRequest(source=src, folder=Path("/nowhere/out")))
    assert len(train.listing) == 2
    ((path, reason),) = train.listing.excluded
    assert reason == "system file" and where + name.split("/")[0] in path


def test_a_damaged_data_set_in_a_system_folder_is_not_opened(tmp_path):
    make_files(tmp_path / "photos", "cat/1.jpg", "dog/1.jpg", "#recycle/manifest.json", "@eaDir/manifest.json")
    assert read_classes(tmp_path / "photos")["train"] == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_linked_folders_are_followed_and_loops_are_named(tmp_path):
    make_files(tmp_path, "photos/cats/1.jpg", "photos/dogs/1.jpg", "disk/more/2.jpg", "disk/more/3.jpg")
    link(tmp_path / "photos/cats/external", "../../disk/more")
    link(tmp_path / "photos/dogs/up", "..")
    link(tmp_path / "photos/dogs/self", ".")
    link(tmp_path / "photos/dogs/gone", "nowhere")
    link(tmp_path / "photos/dogs/one.jpg", "../../disk/more/2.jpg")
    (plan,) = plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out"))
    assert {i.path: i.wnid for i in listing.iter_images(plan.listing.table, plan.listing.classes)} == {
        "cats/1.jpg": "cats",
        "cats/external/2.jpg": "cats",
        "cats/external/3.jpg": "cats",
        "dogs/1.jpg": "dogs",
        "dogs/gone": "dogs",  # quarantined as unreadable
        "dogs/one.jpg": "dogs",
    }
    assert plan.listing.excluded == tuple((f"dogs/{name}", "link to a folder that holds it") for name in ("self", "up"))


def test_a_folder_linked_from_two_classes_is_said_and_one_linked_twice_in_a_class_comes_once(tmp_path):
    make_files(tmp_path, "photos/cats/1.jpg", "photos/dogs/1.jpg", "disk/more/2.jpg")
    for path in ("cats/a", "cats/b", "dogs/c"):
        link(tmp_path / "photos" / path, "../../disk/more")
    link(tmp_path / "photos/lions", "../disk/more")
    link(tmp_path / "photos/cats/back", "../dogs")
    (plan,) = plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out"))
    images = {i.path: i.wnid for i in listing.iter_images(plan.listing.table, plan.listing.classes)}
    assert images == {
        "cats/1.jpg": "cats", "cats/a/2.jpg": "cats", "cats/back/1.jpg": "cats", "dogs/1.jpg": "dogs",
        "dogs/c/2.jpg": "dogs", "lions/2.jpg": "lions",
    }  # fmt: skip
    assert dict(plan.listing.excluded).keys() == {"cats/b", "cats/back/c"}
    assert [n for n in plan.listing.notices if "same folder" in n] == [
        "dogs and cats/back lead to the same folder: its images are in both",
        "dogs/c and cats/a lead to the same folder: its images are in both",
        "lions and cats/a lead to the same folder: its images are in both",
    ]


def test_links_that_lead_to_each_other_end(tmp_path):
    make_files(tmp_path, "photos/a/x/1.jpg", "photos/b/y/1.jpg")
    link(tmp_path / "photos/a/l", "../b")
    link(tmp_path / "photos/b/m", "../a")
    got = read_classes(tmp_path / "photos", classes_at=1)["train"]
    real = {}
    for path, wnid in got.items():
        real.setdefault(wnid, []).append(os.path.realpath(tmp_path / "photos" / path))
    assert all(len(files) == len(set(files)) == 2 for files in real.values())


def test_class_names_are_one_whatever_their_unicode_form(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_files(tmp_path / "two", f"train/{composed}/1.jpg", "train/tea/1.jpg", f"val/{decomposed}/1.jpg")
    assert read_classes(tmp_path / "two")["val"] == {f"val/{decomposed}/1.jpg": composed}
    make_files(tmp_path / "one", f"{composed}/1.jpg", f"{decomposed}/2.jpg", "tea/1.jpg")
    (plan,) = plan_splits(ShardRequest(source=tmp_path / "one", folder=tmp_path / "out"))
    assert len(plan.listing.classes) == 2 and sorted(plan.listing.table.column("label").to_pylist()) == [0, 0, 1]
    assert any("is spelled in 2 Unicode forms" in notice for notice in plan.listing.notices)


def test_classes_of_all_splits_are_compared_before_the_first_plan(tmp_path):
    make_files(tmp_path / "photos", "train/cat/1.jpg", "train/dog/1.jpg", "val/elk/1.jpg")
    with pytest.raises(SourceError, match="'elk'"):
        next(plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out")))


def test_tars_in_a_deeper_folder_are_named(tmp_path):
    pack_tar(tmp_path / "src/x/a.tar", "flowers/daisy/1.jpg", "flowers/rose/1.jpg")
    with pytest.raises(SourceError, match=f"give `source` {re.escape(str(tmp_path / 'src' / 'x'))}"):
        read_classes(tmp_path / "src")


def kaggle_members(start=""):
    """Kaggle's own archive: annotations, images, and lists, as it is packed."""
    images = mini.pictures()
    data = f"{start}ILSVRC/Data/CLS-LOC"
    members = [
        (f"{start}ILSVRC/Annotations/CLS-LOC/train/{p.wnid}/{p.name[:-5]}.xml", b"<a/>") for p in images["train"]
    ]
    members += [(f"{data}/test/ILSVRC2012_test_0000000{i}.JPEG", mini.jpeg(i)) for i in range(1, 4)]
    members += [(f"{data}/train/{p.wnid}/{p.name}", p.data) for p in images["train"]]
    members += [(f"{data}/val/{p.name}", p.data) for p in images["val"]]
    return [*members, (f"{start}ILSVRC/ImageSets/CLS-LOC/train_cls.txt", b"x 1\n")]


@pytest.mark.parametrize("start", ["", "./"])
@pytest.mark.parametrize("alone", [False, True])
def test_kaggles_archive_has_the_splits_and_labels_of_its_tables(tmp_path, start, alone):
    mini.write_kaggle(tmp_path / "whole")
    src = tmp_path / "src"
    for table in ("LOC_synset_mapping.txt", "LOC_val_solution.csv"):
        mini.write(src / table, (tmp_path / "whole" / table).read_bytes())
    name = "imagenet_object_localization_patched2019.tar"
    mini.write(src / name, mini.tar_bytes(kaggle_members(start)))
    found = read_classes(src / name if alone else src)
    images = mini.pictures()
    assert {split: {Path(p).name: w for p, w in of.items()} for split, of in found.items()} == {
        split: {p.name: p.wnid for p in of} for split, of in images.items()
    }
    assert not any(path.endswith(".xml") for of in found.values() for path in of)
    (src / "LOC_val_solution.csv").unlink()
    with pytest.raises(SourceError, match=r"LOC_val_solution\.csv"):
        read_classes(src / name)
    assert list(read_classes(src / name, split="train")) == ["train"]


def test_kaggles_archive_still_compressed_says_what_to_do(tmp_path):
    name = "imagenet_object_localization_patched2019.tar.gz"
    with tarfile.open(tmp_path / name, "w:gz"):
        pass
    mini.write(tmp_path / "LOC_synset_mapping.txt", b"n01440764 tench\n")
    for src in (tmp_path, tmp_path / name):
        with pytest.raises(SourceError, match=rf"{re.escape(name)}.* compressed"):
            read_classes(src)


WORDS = st.sampled_from(["cat", "dog", "rose", "2019", "images", "train", "Test", "val", "site1", "n01440764", "x"])


@settings(deadline=None, max_examples=100)
@given(st.sets(st.lists(WORDS, min_size=0, max_size=4).map(tuple), min_size=1, max_size=6), st.booleans())
def test_any_tree_is_read_by_its_own_names_or_refused_in_one_line(tmp_path_factory, folders, packed):
    """Whatever the tree: a class is a folder above its images, a split word above them is their split, none is lost."""
    tmp_path = tmp_path_factory.mktemp("tree")
    paths = ["/".join((*folder, "1.jpg")) for folder in folders]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    try:
        planned = list(plan_splits(ShardRequest(source=src, folder=Path("/nowhere/out"))))
    except SourceError as error:
        assert "\n" not in str(error)
        return
    seen = []
    for plan in planned:
        names = set()
        for image in listing.iter_images(plan.listing.table, plan.listing.classes):
            above = image.path.removeprefix("p.tar/").split("/")[:-1]
            names.add(image.wnid)
            assert image.wnid in above
            told = {"train": "train", "Test": "test", "val": "val"}
            splits = {told[part] for part in above[: above.index(image.wnid)] if part in told}
            assert splits <= {plan.request.split}, image.path
            seen.append(image.path.removeprefix("p.tar/"))
        assert len(names) > 1 or names == {"n01440764"} or plan.request.split != "train"
    left = [path.removeprefix("p.tar/") for plan in planned for path, _ in plan.listing.excluded]
    for path in paths:
        assert seen.count(path) + any(path == p or path.startswith(p + "/") for p in left) == 1


def test_a_tar_of_tars_is_compared_with_the_training_archive_whatever_its_name(tmp_path):
    mini.write_train_tar(tmp_path, "fall11_whole.tar")
    (plan,) = plan_splits(ShardRequest(source=tmp_path, folder=Path("/nowhere/out")))
    assert any("147,897,477,120 (ILSVRC2012_img_train.tar)" in notice for notice in plan.listing.notices)


def test_a_class_that_is_a_link_to_another_class_is_said(tmp_path):
    make_files(tmp_path / "photos", "cat/1.jpg", "dog/2.jpg")
    for name in ("axolotl", "zebra"):
        (tmp_path / "photos" / name).symlink_to("cat")
    (plan,) = plan_splits(ShardRequest(source=tmp_path / "photos", folder=tmp_path / "out"))
    assert [notice for notice in plan.listing.notices if "same folder" in notice] == [
        f"{name} and axolotl lead to the same folder: its images are in both" for name in ("cat", "zebra")
    ]


def notices_of(src, **options):
    request = ShardRequest(source=Path(src), folder=Path("/nowhere/out"), **options)
    return {plan.request.split: list(plan.listing.notices) for plan in plan_splits(request)}


LOOK_ALIKE = {
    "case": ("Cat", "cat"), "case beyond ASCII": ("\u00dcbung", "\u00fcbung"), "blank before": (" cat", "cat"),
    "blank behind": ("cat ", "cat"), "no-break space": ("red cat", "red\u00a0cat"), "full width": ("cat", "\uff43at"),
    "ligature": ("\ufb01sh", "fish"), "not shown": ("cat", "cat\u200b"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", LOOK_ALIKE.values(), ids=LOOK_ALIKE)
def test_class_folders_that_look_alike_are_two_and_named(tmp_path, names, packed):
    paths = [f"{name}/1.jpg" for name in (*names, "dog")]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    assert set(read_classes(src)["train"].values()) == {*names, "dog"}
    (said,) = [notice for notice in notices_of(src)["train"] if "kept apart" in notice]
    assert ", ".join(map(repr, sorted(names))) in said and "dog" not in said
    assert not any("kept apart" in notice for notice in notices_of(src, classes=(*names, "dog"))["train"])


def test_class_folders_that_differ_in_more_are_not_spoken_of(tmp_path):
    make_files(tmp_path / "photos", "cat/1.jpg", "cats/1.jpg", "c at/1.jpg", "c\u00e2t/1.jpg", "cat-/1.jpg")
    assert notices_of(tmp_path / "photos") == {"train": []}


def test_a_split_that_is_a_link_to_another_is_named(tmp_path):
    make_files(tmp_path / "photos", "train/cat/1.jpg", "train/dog/1.jpg")
    (tmp_path / "photos/val").symlink_to("train")
    assert {split: len(images) for split, images in read_classes(tmp_path / "photos").items()} == {"train": 2, "val": 2}
    said = "\n".join(notices_of(tmp_path / "photos")["train"])
    assert "train/ and val/ lead to the same folder: both splits have its images" in said
    (tmp_path / "photos/val").unlink()
    make_files(tmp_path / "photos", "val/cat/1.jpg")
    assert notices_of(tmp_path / "photos") == {"train": [], "val": []}


def test_a_tar_that_is_a_link_to_that_of_another_split_is_named(tmp_path):
    pack_tar(tmp_path / "tars/train.tar", "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "tars/val.tar").symlink_to("train.tar")
    assert "val.tar and train.tar are the same file: their images are the same" in notices_of(tmp_path / "tars")["val"]


@pytest.mark.parametrize("packed", [False, True])
def test_splits_below_classes_are_kept_by_what_the_advice_says(tmp_path, packed):
    paths = ["cat/train/1.jpg", "cat/val/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg"]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    with pytest.raises(SourceError, match=r"move cat/train to train/cat .*a table of file, class and split") as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    rows = (f"{path},{path.split('/')[0]},{path.split('/')[1]}" for path in paths)
    mini.write(tmp_path / "table.csv", "\n".join(["file,class,split", *rows]).encode())
    found = read_classes(src, labels=parse_label_options(tmp_path / "table.csv", "", partial=False))
    start = "photos.tar/" if packed else ""
    assert found == {
        "train": {f"{start}cat/train/1.jpg": "cat", f"{start}dog/train/3.jpg": "dog"},
        "val": {f"{start}cat/val/2.jpg": "cat", f"{start}dog/val/4.jpg": "dog"},
    }
    make_files(
        tmp_path / "moved", *(f"{split}/{wnid}/{name}" for wnid, split, name in (path.split("/") for path in paths))
    )
    assert {split: set(images.values()) for split, images in read_classes(tmp_path / "moved").items()} == {
        "train": {"cat", "dog"}, "val": {"cat", "dog"}
    }  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_test_images_without_labels_count_one_by_one(tmp_path, packed):
    paths = ["train/cat/1.jpg", "train/dog/1.jpg", *(f"test/images/{i}.jpg" for i in range(5))]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    (plan,) = plan_splits(ShardRequest(source=src, folder=Path("/nowhere/out")))
    start = "photos.tar/" if packed else ""
    assert [path for path, _ in plan.listing.excluded] == [start + path for path in paths[2:]]
    assert any("left out: 5 test images, without labels" in notice for notice in plan.listing.notices)
    assert format_left_out(plan.listing.excluded) == [
        f"NOTE left out: 5 × test images, which have no labels, the first: {start}test/images/0.jpg"
    ]


@pytest.mark.parametrize("name", ["all", "images", "data"])
def test_a_tar_of_tars_is_called_imagenet_only_where_it_is(tmp_path, name):
    for folder, classes in (("other", ("cat", "dog")), ("imagenet", ("n01440764", "n01443537"))):
        inner = [(f"{wnid}.tar", mini.tar_bytes([(f"{wnid}_1.JPEG", b"x")])) for wnid in classes]
        mini.write(tmp_path / folder / f"{name}.tar", mini.tar_bytes(inner))
    assert detect_source(tmp_path / "other").description == f"class folders packed as tars in a tar ({name}.tar)"
    assert (
        detect_source(tmp_path / f"other/{name}.tar").description
        == f"class folders packed as tars in a tar ({name}.tar)"
    )
    assert detect_source(tmp_path / "imagenet").description == f"imagenet: original archives ({name}.tar)"
