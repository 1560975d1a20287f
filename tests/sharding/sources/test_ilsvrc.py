"""What names and numbers of ImageNet's files say, at the borders of each rule; and lists of classes."""

import json

import pytest

from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.labels.class_list import load_classes


@pytest.mark.parametrize(
    ("wnid", "is_dog"),
    [("n02085619", False), ("n02085620", True), ("n02100000", True), ("n02113978", True), ("n02113979", False)],
)
def test_dogs_are_all_between_the_first_and_the_last(wnid, is_dog):
    assert ilsvrc.is_dog(wnid) == is_dog


def test_the_hub_s_names_are_those_of_imagenet_with_the_class_behind():
    assert ilsvrc.canonical_name("ILSVRC2012_val_00000001_n01751748.JPEG") == (
        "ILSVRC2012_val_00000001.JPEG",
        "n01751748",
    )
    assert ilsvrc.canonical_name("n01440764_18_n01440764.JPEG") == ("n01440764_18.JPEG", "n01440764")
    assert ilsvrc.canonical_name("n01440764_18.JPEG") == ("n01440764_18.JPEG", "n01440764")
    assert ilsvrc.canonical_name("holiday.jpg") == ("holiday.jpg", None)


def counts(known, foreign=0, each=1):
    return dict.fromkeys([*ilsvrc.load_wnids()[:known], *(f"n9999999{i}" for i in range(foreign))], each)


def test_one_class_in_ten_may_be_of_elsewhere_and_more_is_another_set():
    notices = ilsvrc.count_notices(counts(9, 1), "train")
    assert notices[0] == "train: classes that ILSVRC2012 does not have: n99999990"
    (notice,) = ilsvrc.count_notices(counts(8, 1), "train")
    assert "1 of 9 classes" in notice and "none of ILSVRC2012's" in notice


def test_the_year_2010_is_told_by_its_number_of_images():
    images = counts(1000, each=1261)
    images[ilsvrc.load_wnids()[0]] += 1_261_406 - 1_261_000
    (notice,) = ilsvrc.count_notices(images, "train")
    assert "ILSVRC-2010" in notice and "1,261,406 training images" in notice


@pytest.mark.parametrize(("split", "most"), [("train", 1300), ("val", 50)])
def test_a_class_with_more_images_than_any_has_is_named(split, most):
    images = counts(2)
    images["n01440764"] = most
    assert not any("images (1 such" in notice for notice in ilsvrc.count_notices(images, split))
    images["n01440764"] = most + 1
    assert any(
        f"class n01440764 has {most + 1:,} images (1 such" in notice for notice in ilsvrc.count_notices(images, split)
    )


def test_the_official_archives_are_told_by_their_bytes():
    assert ilsvrc.size_notices("train.tar", 147_897_477_120, ilsvrc.TRAIN_TAR) == []
    assert ilsvrc.size_notices("val.tar", 6_744_924_160, ilsvrc.VAL_TAR) == []
    (notice,) = ilsvrc.size_notices("val.tar", 147_897_477_120, ilsvrc.VAL_TAR)
    assert "147,897,477,120 bytes, where the official archive has 6,744,924,160" in notice


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("\ufeffn01440764\nn01443537\n", ("n01440764", "n01443537")),  # as Windows' editor writes it
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ("n01440764", "n01443537")),
        ("great white\t3\ntiger shark\t4\n", ("great white", "tiger shark")),
        ("\ufeff" + json.dumps(["b", "a"]), ("b", "a")),
        (json.dumps([{"index": 1, "wnid": "a"}, {"index": 0, "wnid": "b"}]), ("b", "a")),
    ],
)
def test_lists_of_classes_as_they_are_found(tmp_path, text, classes):
    (tmp_path / "classes").write_text(text, "utf-8")
    assert load_classes(tmp_path / "classes") == classes
