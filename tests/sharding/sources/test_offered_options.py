"""Every option that an error about the structure offers settles the doubt, and gives what the error says."""

import pytest

from alexstream.core.errors import SourceError
from tests.support.offered_options import Offer, find_offers
from tests.support.source_layouts import make_files, pack_tar, plan_source, read_classes


def of_classes(folder, classes, end=".jpg"):
    """Two images of each class in a folder, whose names no other folder has."""
    return [f"{folder}/{name}/{folder.replace('/', '_')}{i}{end}" for name in classes.split() for i in (1, 2)]


# Layouts of which more than one reading is possible.
ASKED = {
    "a folder beside splits": [p for top in ("train", "val", "extra") for p in of_classes(top, "cat dog emu")],
    "a copy of the splits": [p for top in ("train", "val", "x/train", "x/val") for p in of_classes(top, "cat dog")],
    "an extra folder of training images": of_classes("train", "cat dog") + of_classes("train_extra", "cat dog"),
    "train and val in one": of_classes("trainval", "a b") + of_classes("test", "a b"),
    "two kinds of test images": ["private_test/1.jpg", "public_test/1.jpg", *of_classes("train", "a b")],
    "parts with common classes": of_classes("train_1", "a b") + of_classes("train_2", "b c") + of_classes("val", "a"),
    "two validation splits": of_classes("train", "a b") + of_classes("val", "a b") + of_classes("valid", "a b"),
    "a part with images alone": [*of_classes("train_1", "a b"), "train_2/1.jpg", *of_classes("val", "a b")],
    "parts of one folder": of_classes("train_1/train_1", "a") + of_classes("train_2/train_2", "b"),
    "one class": ["cat/1.jpg", "cat/2.jpg"],
    "one class in folders": ["cat/2019/may/1.jpg"],
    "sites": of_classes("site1", "cat dog") + of_classes("site2", "cat"),
    "kinds": of_classes("animals", "cat dog") + of_classes("plants", "rose"),
    "years": ["cats/2019/1.jpg", "dogs/2020/1.jpg"],
    "a class that holds classes": ["rose/1.jpg", *of_classes("more", "daisy tulip")],
    "images beside classes": ["cat/1.jpg", "dog/1.jpg", "3.jpg"],
    "images beside the classes of a split": ["train/cat/1.jpg", "train/dog/1.jpg", "train/3.jpg", "val/cat/4.jpg"],
    "flat splits": ["train/1.jpg", "test/2.jpg"],
    "a flat test among classes": ["cat/1.jpg", "dog/1.jpg", "test/1.jpg"],
    "images and masks": ["images/1.jpg", "masks/1.png"],
    "images and lists": [*of_classes("images", "a b"), "masks/1.png"],
    "variants": of_classes("color", "a b") + of_classes("gray", "a b"),
    "splits below classes": [p for c in ("cat", "dog") for p in of_classes(c, "train test")],
    "splits below folds": [p for way in ("1/train", "1/val", "2/train", "2/val") for p in of_classes(way, "a b")],
    "splits below wnids": [p for c in ("n01440764", "n01443537") for p in of_classes(c, "train val")],
    "unlabelled images among classes": ["cat/1.jpg", "dog/1.jpg", "unlabeled/1.jpg"],
    "a name that speaks of a split": of_classes("dogs_val", "a b"),
    "numbered parts": ["part_1/1.jpg", "part_2/2.jpg"],
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("above", ["", "wrap/", "a/b/"])
@pytest.mark.parametrize("name", ASKED)
def test_each_option_that_an_error_offers_gives_what_it_says(tmp_path, name, above, packed):
    paths = [above + path for path in ASKED[name]]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    with pytest.raises(SourceError) as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    for offer in find_offers(str(error.value)):
        check_offer(src, offer)


def check_offer(src, offer):
    """Follow an offer; what it gives may be asked about again only where another folder is the source."""
    try:
        chosen = read_classes(**{"src": src, **offer.options})
    except SourceError as error:
        assert "src" in offer.options and "classes_at" not in offer.options, f"{offer}: {error}"
        return
    given = [set(images.values()) for images in chosen.values()]
    if offer.num_classes is not None:
        assert any(len(names) == offer.num_classes and set(offer.classes) <= names for names in given), (offer, given)
    if "split" in offer.options:
        assert list(chosen) == [offer.options["split"]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("above", "level"), [("", 1), ("w/", 2), ("a/b/", 3)])
def test_folders_beside_splits_are_offered_as_classes_at_their_level_below_the_source(tmp_path, above, level, packed):
    paths = [above + path for path in ASKED["a folder beside splits"]]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    with pytest.raises(SourceError) as error:
        read_classes(src)
    offers = find_offers(str(error.value))
    assert [(o.options["classes_at"], set(o.classes)) for o in offers if "classes_at" in o.options] == [
        (level, {"train", "val", "extra"})
    ]


def test_offers_are_found_in_a_message():
    message = (
        "x; choose: `source` /a `classes_at` 2 for 3 classes (a, b, …, c), `split` val, or `source` /a/b for that alone"
    )
    assert find_offers(message) == [
        Offer({"classes_at": 2, "src": "/a"}, 3, ("a", "b", "c")), Offer({"split": "val"}), Offer({"src": "/a/b"})
    ]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("level", [2, 3, -1])
def test_no_level_makes_training_images_of_a_folder_of_another_split(tmp_path, level, packed):
    paths = [f"w/{path}" for path in ASKED["a folder beside splits"]]
    src = pack_tar(tmp_path / "photos.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    if level == 2:  # the folders of the splits as classes, which is what the caller says
        assert set(read_classes(src, classes_at=level)["train"].values()) == {"train", "val", "extra"}
    else:
        with pytest.raises(SourceError, match=r"would make images of val/, which is called like the val split, train"):
            read_classes(src, classes_at=level)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names", [("train.X1", "train.X2", "val.X"), ("train_a", "train_b", "val"), ("w/Train1", "w/Train2", "w/dev")]
)
def test_parts_of_a_split_without_a_common_class_are_one_split(tmp_path, names, packed):
    one, two, val = names
    of_train, of_val = [*of_classes(one, "cat dog"), *of_classes(two, "emu")], of_classes(val, "cat emu")
    paths = [*of_train, *of_val]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths, "Labels.json")
    truth = {"train": {p: p.split("/")[-2] for p in of_train}, "val": {p: p.split("/")[-2] for p in of_val}}
    start = "p.tar/" if packed else ""
    assert read_classes(src) == {s: {start + p: c for p, c in images.items()} for s, images in truth.items()}
    assert read_classes(src, classes_at=1) == read_classes(src, classes_at=-1) == read_classes(src)


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_unlabelled_folders_beside_splits_are_left_out_and_counted(tmp_path, packed):
    of_splits = of_classes("seg_train/seg_train", "sea ice") + of_classes("seg_test/seg_test", "sea ice")
    paths = [*of_splits, "seg_pred/seg_pred/1.jpg", "seg_pred/seg_pred/2.jpg", "unlabeled2017/3.jpg"]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    (train, test) = plan_source(src)
    assert len(train.listing) == len(test.listing) == 4
    assert {path.removeprefix("p.tar/") for path, _ in train.listing.excluded} == set(paths) - set(of_splits)
    said = " ".join(train.listing.notices)
    assert "seg_pred/: left out: 2 files" in said and "unlabeled2017/: left out: 1 file" in said


def test_an_unlabelled_folder_among_classes_may_be_moved_away(tmp_path):
    make_files(tmp_path / "photos", *ASKED["unlabelled images among classes"])
    with pytest.raises(SourceError, match=r"or move unlabeled/ away if its images have no labels"):
        read_classes(tmp_path / "photos")


def test_an_unlabelled_folder_with_class_folders_is_asked_about(tmp_path):
    make_files(tmp_path / "photos", *of_classes("train", "a b"), *of_classes("unlabeled", "a b"))
    with pytest.raises(SourceError, match="beside it unlabeled"):
        read_classes(tmp_path / "photos")


def test_a_split_that_is_asked_for_is_read_without_the_folders_beside_it(tmp_path):
    make_files(tmp_path / "photos", *ASKED["a folder beside splits"])
    (train,) = plan_source(tmp_path / "photos", split="train")
    assert {path for path, _ in train.listing.excluded} == set(of_classes("extra", "cat dog emu"))
    assert "extra/: left out: 6 files: in a folder beside those of the splits" in train.listing.notices
    assert list(read_classes(tmp_path / "photos", split="val")) == ["val"]
    pack_tar(tmp_path / "train.tar", *of_classes("train", "a b"), *of_classes("extra", "a b"))
    with pytest.raises(SourceError, match="beside it extra"):  # the name of the tar is not what the caller asks for
        read_classes(tmp_path / "train.tar")


@pytest.mark.parametrize("packed", [False, True])
def test_folders_of_other_splits_inside_classes_are_named(tmp_path, packed):
    paths = ["cat/1.jpg", "cat/test/2.jpg", "cat/test/3.jpg", "dog/1.jpg", "dog/train/4.jpg", "dog/old/test/5.jpg"]
    src = pack_tar(tmp_path / "p.tar", *paths) if packed else make_files(tmp_path / "photos", *paths)
    (train,) = plan_source(src)
    assert len(train.listing) == 6
    (said,) = [text for text in train.listing.notices if "another split" in text]
    assert said.startswith("cat/test/: 3 images in class folders") and said.endswith("read as train")


def test_a_tar_with_the_labels_of_its_flat_images_in_it_says_to_unpack_it(tmp_path):
    of_train = ["tiny/train/n01440764/images/1.JPEG", "tiny/train/n01443537/images/1.JPEG"]
    pack_tar(tmp_path / "tiny.tar", *of_train, "tiny/val/images/val_0.JPEG", "tiny/val/val_annotations.txt")
    with pytest.raises(SourceError, match=r"in tiny/val/val_annotations\.txt in the tar.*tar -xf tiny\.tar"):
        read_classes(tmp_path / "tiny.tar")
