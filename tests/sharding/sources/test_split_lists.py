"""Lists of splits around the images: they tell the splits, agree with what does, or the command asks."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.labels.label_table import parse_label_options
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import make_files, pack_tar, read_classes

FOUR = ("ant/a1.jpg", "ant/a2.jpg", "bee/b1.jpg", "bee/b2.jpg")
TRAIN, TEST = ("ant/a1.jpg", "bee/b1.jpg"), ("ant/a2.jpg", "bee/b2.jpg")


def write(root, **texts):
    """Write texts under their names, where ``__`` stands for a slash and ``_`` for a dot."""
    for name, text in texts.items():
        mini.write(root / name.replace("__", "/").replace("_", "."), text.encode())
    return root


def lines(*names):
    return "".join(f"{name}\n" for name in names)


def read_names(src, **options):
    """The file names of the images, by split."""
    return {
        split: sorted(path.rpartition("/")[2] for path in images)
        for split, images in read_classes(src, **options).items()
    }


def read_notices(src, **options):
    request = ShardRequest(source=src, folder=Path("/nowhere/out"), **options)
    return [notice for plan in plan_splits(request) for notice in plan.listing.notices]


HALVES = {"train": ["a1.jpg", "b1.jpg"], "test": ["a2.jpg", "b2.jpg"]}
ALL = ["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"]
FORMS = {
    "joined words": {"trainlist01_txt": lines(*TRAIN), "testlist01_txt": lines(*TEST)},
    "another extension": {"train_list": lines(*TRAIN), "test_list": lines(*TEST)},
    "no extension": {"train": lines(*TRAIN), "test": lines(*TEST)},
    "folders of splits": {"train-set__list_txt": lines(*TRAIN), "test-set__list_txt": lines(*TEST)},
    "JSON": {"splits_json": json.dumps({"train_ids": TRAIN, "test_ids": TEST})},
    "JSON of classes": {"x_json": json.dumps({"train": {"ant": TRAIN[:1], "bee": TRAIN[1:]}, "test": {"x": TEST}})},
    "JSON of records": {
        "split_json": json.dumps({"train": [[n, 0, "a"] for n in TRAIN], "test": [[n, 0, "b"] for n in TEST]})
    },
    "JSON of images": {
        "dataset_json": json.dumps(
            {"images": [{"file_name": n, "split": "train" if n in TRAIN else "test"} for n in FOUR]}
        )
    },
    "a JSON map": {"map_json": json.dumps({n: "train" if n in TRAIN else "test" for n in FOUR})},
    "a column for each split": {"split_csv": ",train,test\n0,ant/a1.jpg,ant/a2.jpg\n1,bee/b1.jpg,bee/b2.jpg\n"},
    "words without a header": {"split_txt": "".join(f"{n} {'train' if n in TRAIN else 'test'}\n" for n in FOUR)},
}


@pytest.mark.parametrize("texts", FORMS.values(), ids=FORMS)
def test_lists_of_any_form_tell_the_splits_of_class_folders(tmp_path, texts):
    src = write(make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR)), **texts)
    assert read_names(src) == HALVES
    assert read_names(src, classes_at=2) == {"train": ALL}
    assert any("left aside, so 2 images listed in test are read as train" in n for n in read_notices(src, classes_at=2))


@pytest.mark.parametrize("places", ["beside", "inside", "source"])
def test_lists_in_a_tar_and_beside_it_tell_the_splits(tmp_path, places):
    members = [(f"food/images/{path}", path.encode()) for path in FOUR]
    texts = [("meta/train.txt", lines("ant/a1", "bee/b1")), ("meta/test.txt", lines("ant/a2", "bee/b2"))]
    if places == "inside":
        members += [(f"food/{name}", text.encode()) for name, text in texts]
    else:
        for name, text in texts:
            mini.write(tmp_path / "set" / name, text.encode())
    mini.write(tmp_path / "set/food.tar", mini.tar_bytes(members))
    src = tmp_path / "set/food.tar" if places == "source" else tmp_path / "set"
    assert read_names(src) == HALVES
    assert read_names(src, classes_at=3) == {"train": ALL}
    assert any("2 images listed in test are read as train" in one for one in read_notices(src, classes_at=3))


def test_a_list_in_a_tar_that_leaves_images_out_names_the_level_that_settles_it(tmp_path):
    members = [(f"food/images/{path}", b"x") for path in FOUR] + [("food/test.txt", lines(*TEST).encode())]
    mini.write(tmp_path / "set/food.tar", mini.tar_bytes(members))
    with pytest.raises(SourceError, match=r"2 images in none of them .*`classes_at` 3 for the class folders"):
        read_names(tmp_path / "set")
    assert read_names(tmp_path / "set", classes_at=3) == {"train": ALL}


@pytest.mark.parametrize("place", ["", "meta/", "images/"])
def test_lists_that_contradict_folders_of_splits_are_asked_about(tmp_path, place):
    top = place if place == "images/" else ""
    src = make_files(tmp_path / "set", *(f"{top}train/{path}" for path in FOUR))
    mini.write(src / place / "train.txt", lines(*(f"train/{path}" for path in TRAIN)).encode())
    mini.write(src / place / "val.txt", lines(*(f"train/{path}" for path in TEST)).encode())
    with pytest.raises(
        SourceError,
        match=r"val\.txt says that \S*train/ant/a2\.jpg \(2 such\) is in val, .*read as train; .*`classes_at` 1 ",
    ) as error:
        read_names(src)
    assert "\n" not in str(error.value)
    assert read_names(src, classes_at=1) == {"train": ALL}
    assert any("2 images listed in val are read as train" in notice for notice in read_notices(src, classes_at=1))


def test_lists_that_are_exchanged_are_asked_about_in_both_splits(tmp_path):
    src = make_files(tmp_path / "set", *(f"train/{path}" for path in TRAIN), *(f"test/{path}" for path in TEST))
    write(src, train_txt=lines(*(f"train/{path}" for path in TRAIN)), test_txt=lines(*(f"test/{p}" for p in TEST)))
    assert read_names(src) == HALVES
    write(src, test_txt=lines(*(f"train/{path}" for path in TRAIN)), train_txt=lines(*(f"test/{p}" for p in TEST)))
    for split in ("", "train", "test"):
        with pytest.raises(SourceError, match="and it is read as"):
            read_names(src, split=split)


def test_a_list_of_one_split_may_name_images_as_those_of_another_are_named(tmp_path):
    src = make_files(tmp_path / "set", *(f"{split}/{path}" for split in ("train", "val") for path in FOUR))
    write(src, val_txt=lines(*FOUR))
    assert read_names(src) == {"train": ALL, "val": ALL}
    assert read_names(src, split="train") == {"train": ALL}
    mini.write(src / "val.txt", lines(*FOUR, "train/bee/b2.jpg").encode())
    with pytest.raises(SourceError, match=r"val\.txt says that train/bee/b2\.jpg is in val"):
        read_names(src)


@pytest.mark.parametrize("name", ["test_results.csv", "evaluation.csv", "eval-preds.txt"])
def test_one_list_of_all_images_that_is_named_for_a_split_is_asked_about(tmp_path, name):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    mini.write(src / name, ("path,label\n" if name.endswith("csv") else "").encode() + lines(
        *(f"{path},{path[:3]}" if name.endswith("csv") else path for path in FOUR)
    ).encode())  # fmt: skip
    with pytest.raises(SourceError, match=rf"{name} may say that all images are in test.*`split` test.*`classes_at` 2"):
        read_names(src)
    assert read_names(src, split="test") == {"test": ALL}
    assert read_names(src, classes_at=2) == read_names(src, classes_at=2, split="train") == {"train": ALL}
    assert read_names(src, classes_at=2, split="val") == {"val": ALL}


def test_numbers_for_splits_are_asked_about(tmp_path):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    write(src, **{"list-eval-partition_txt": "".join(f"{path} {n % 3}\n" for n, path in enumerate(FOUR))})
    with pytest.raises(SourceError, match=r"has 0, 1, 2 in column 2, which may stand for splits, .*`classes_at` 2"):
        read_names(src)
    assert read_names(src, classes_at=2) == {"train": ALL}


FLAT = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
LABELS = "file,label\n1.jpg,ant\n2.jpg,bee\n3.jpg,ant\n4.jpg,bee\n"
FLAT_HALVES = {"train": ["1.jpg", "2.jpg"], "test": ["3.jpg", "4.jpg"]}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("folder", ["", "images/"])
@pytest.mark.parametrize("form", ["lists", "in a folder", "a table"])
def test_lists_beside_a_table_of_labels_tell_the_splits(tmp_path, asked, folder, form):
    src = write(make_files(tmp_path / "set", *(f"{folder}{name}" for name in FLAT)), labels_csv=LABELS)
    if form == "a table":
        write(src, split_csv="file,split\n1.jpg,train\n2.jpg,train\n3.jpg,test\n4.jpg,test\n")
    else:
        place = "" if form == "lists" else "splits__"
        write(src, **{f"{place}train_txt": lines("1", "2"), f"{place}test_txt": lines("3", "4")})
    labels = parse_label_options(src / "labels.csv", "", partial=False) if asked else None
    assert read_names(src, labels=labels) == FLAT_HALVES
    alone = parse_label_options(src / "labels.csv", "file,label", partial=False)
    assert read_names(src, labels=alone) == {"train": list(FLAT)}
    assert any("2 images listed in test are read as train" in one for one in read_notices(src, labels=alone))


def test_lists_that_leave_images_of_a_table_out_name_what_settles_it(tmp_path):
    src = write(make_files(tmp_path / "set", *FLAT), labels_csv=LABELS, test_txt=lines("4.jpg"))
    with pytest.raises(
        SourceError, match=r"3 images in none .*`labels` \S*labels\.csv with `labels.columns` FILE,CLASS"
    ):
        read_names(src)


def test_a_source_that_is_named_for_a_split_is_not_renamed_by_lists(tmp_path):
    src = write(make_files(tmp_path / "train", *FLAT), labels_csv=LABELS, val_txt=lines("1.jpg"))
    with pytest.raises(SourceError, match=r"val\.txt says that 1\.jpg is in val, and it is read as train"):
        read_names(src)


@pytest.mark.parametrize("place", ["", "meta/"])
def test_lists_one_level_above_the_source_tell_the_splits(tmp_path, place):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR)) / "images"
    mini.write(tmp_path / "set" / place / "train.txt", lines(*TRAIN).encode())
    mini.write(tmp_path / "set" / place / "test.txt", lines(*(f"images/{path}" for path in TEST)).encode())
    assert read_names(src) == HALVES
    assert read_names(src, classes_at=1) == {"train": ALL}


def test_the_flags_of_cub_above_the_source_tell_the_splits(tmp_path):
    root = make_files(tmp_path / "CUB", *(f"images/{path}" for path in FOUR), "segmentations/ant/a1.png")
    write(root, images_txt="".join(f"{n} {path}\n" for n, path in enumerate(FOUR)))
    (root / "train_test_split.txt").write_text("0 1\n1 0\n2 1\n3 0\n")
    with pytest.raises(SourceError, match=r"`source` \S*/images for that folder alone"):
        read_names(root)
    assert read_names(root / "images") == HALVES


def test_lists_above_a_source_of_one_split_are_about_it_by_their_folders(tmp_path):
    src = make_files(tmp_path / "set", *(f"train/{path}" for path in FOUR)) / "train"
    mini.write(tmp_path / "set/val.txt", lines(*FOUR).encode())  # relative to the folder val/
    assert read_names(src) == {"train": ALL}
    mini.write(tmp_path / "set/val.txt", lines(*(f"val/{path}" for path in FOUR)).encode())
    assert read_names(src) == {"train": ALL}
    mini.write(tmp_path / "set/val.txt", b"train/ant/a2.jpg\n")
    with pytest.raises(SourceError, match=r"\.\./val\.txt says that ant/a2\.jpg is in val, and it is read as train"):
        read_names(src)


@pytest.mark.parametrize(
    "name", ["test.npy", "train.pkl", "split.xlsx", "lists/test_list.mat", "split.yaml", "a.parquet"]
)
def test_a_list_that_cannot_be_read_is_a_notice(tmp_path, name):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    mini.write(src / name, b"\x93NUMPY\x01")
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"path": TEST, "split": ["test", "test"]}), src / name)
    assert read_names(src) == {"train": ALL}
    assert any(one.startswith(f"{name} may be a list of splits") for one in read_notices(src))


def test_a_list_in_another_encoding_is_a_notice(tmp_path):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    mini.write(src / "test.txt", "ant/a2.jpg\ncafé.jpg\n".encode("latin-1"))
    assert any(one.startswith("test.txt may be a list of splits") for one in read_notices(src))


def test_a_list_with_the_names_of_images_in_other_folders_is_a_notice(tmp_path):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    write(src, test_txt=lines("elsewhere/a2.jpg", "elsewhere/b2.jpg"))
    assert read_names(src) == {"train": ALL}
    assert any(one.startswith("test.txt may be a list of splits: it names a2.jpg") for one in read_notices(src))


def test_texts_about_something_else_say_nothing(tmp_path):
    src = make_files(tmp_path / "set", *(f"train/{path}" for path in FOUR))
    write(src, test_txt=lines("x/9.jpg"), notes_txt="a photo of a test\n", train_py="import os\n", data_yaml="nc: 2\n")
    assert read_names(src) == {"train": ALL}
    assert not [one for one in read_notices(src) if "may be" in one]
    assert pack_tar(tmp_path / "t/x.tar", *(f"d/{path}" for path in FOUR), "d/notes.txt", "d/ant/test.txt")
    assert read_names(tmp_path / "t") == {"train": [*ALL, "test.txt"]}


def test_usage_columns_with_two_words_for_a_split_are_asked_about(tmp_path):
    src = make_files(tmp_path / "set", *(f"images/{path}" for path in FOUR))
    usage = dict(zip(FOUR, ("Training", "PublicTest", "Training", "PrivateTest"), strict=True))
    rows = "".join(f"{path},{path[:3]},{word}\n" for path, word in usage.items())
    write(src, meta_csv="path,label,Usage\n" + rows)
    with pytest.raises(SourceError, match=r"'PublicTest' in column 'Usage', and 'PrivateTest' too.*`classes_at` 2"):
        read_names(src)
    with pytest.raises(SourceError, match=r"'PublicTest' in column 'Usage'.*`labels.columns` FILE,CLASS leaves"):
        read_names(src, labels=parse_label_options(src / "meta.csv", "", partial=False))
    assert read_names(src, classes_at=2) == {"train": ALL}


@pytest.mark.parametrize("label", ["\0bee", "b\x07ee", "bee\x7f"])
def test_labels_with_control_characters_are_refused(tmp_path, label):
    src = write(make_files(tmp_path / "set", *FLAT), x_csv=LABELS.replace("4.jpg,bee", f"4.jpg,{label}"))
    with pytest.raises(SourceError, match=r"line 5 has .* expected one class"):
        read_names(src, labels=parse_label_options(src / "x.csv", "", partial=False))


def test_the_level_of_classes_is_not_given_beside_a_table_nor_0_without_tars(tmp_path):
    src = write(make_files(tmp_path / "set", *FOUR), x_csv="file,label\n" + lines(*(f"{p},x" for p in FOUR)))
    with pytest.raises(SourceError, match="`labels` gives the classes by a table, and `classes_at`"):
        read_names(src, labels=parse_label_options(src / "x.csv", "", partial=False), classes_at=1)
    with pytest.raises(SourceError, match="`classes_at` 0 is for tars"):
        read_names(src, classes_at=0)
    split = make_files(tmp_path / "splits", *(f"train/{path}" for path in FOUR))
    with pytest.raises(SourceError, match="`classes_at` 0 is for tars"):
        read_names(split, classes_at=0)


def test_a_table_that_was_found_is_named_with_the_option_for_its_columns(tmp_path):
    src = make_files(tmp_path / "set", *FLAT)
    write(src, train_csv="file,x,y\n1.jpg,a,b\n2.jpg,a,c\n3.jpg,d,b\n4.jpg,d,c\n")
    with pytest.raises(SourceError, match=r"`labels` \S*/train\.csv `labels.columns` FILE,CLASS names the columns"):
        read_names(src)
    assert read_names(src, labels=parse_label_options(src / "train.csv", "file,y", partial=False)) == {
        "train": list(FLAT)
    }


def test_a_table_with_a_column_for_each_class_is_named_for_what_it_is(tmp_path):
    src = make_files(tmp_path / "set", *FLAT)
    write(src, labels_csv="file,ant,bee\n1.jpg,1,0\n2.jpg,0.0,1.0\n3.jpg,1,0\n4.jpg,0,1\n")
    with pytest.raises(SourceError, match=r"a column of 0 and 1 for each class .'ant', 'bee'., which no option reads"):
        read_names(src)


def test_two_lists_of_file_and_label_tell_classes_and_splits(tmp_path):
    src = make_files(tmp_path / "set", *(f"images/{name}" for name in FLAT))
    write(src, train_txt="images/1.jpg 0\nimages/2.jpg 1\n", test_txt="images/3.jpg 0\nimages/4.jpg 1\n")
    assert read_names(src) == FLAT_HALVES
    assert set(read_classes(src)["test"].values()) == {"0", "1"}
    write(src, test_txt="images/3.jpg 0\nimages/4.jpg 0\n")  # no labels, but 0 for all: test images
    with pytest.raises(SourceError, match="no row for 2 of 4 images"):
        read_names(src)


def test_a_wrapped_imagenet_of_kaggle_is_read_as_the_one_in_it(tmp_path):
    for number, wnid in enumerate(mini.WNIDS[:2], 1):
        make_files(tmp_path / "wrap/imagenet/ILSVRC/Data/CLS-LOC", f"train/{wnid}/{wnid}_1.JPEG")
        make_files(tmp_path / "wrap/imagenet/ILSVRC/Data/CLS-LOC", f"val/ILSVRC2012_val_{number:08}.JPEG")
    rows = [f"ILSVRC2012_val_{number:08},{wnid} 1 2 3 4" for number, wnid in enumerate(mini.WNIDS[:2], 1)]
    (tmp_path / "wrap/imagenet/LOC_val_solution.csv").write_text(lines("ImageId,PredictionString", *rows))
    mini.write(tmp_path / "wrap/imagenet/ILSVRC/ImageSets/CLS-LOC/val.txt", b"ILSVRC2012_val_00000001 1\n")
    read = read_classes(tmp_path / "wrap")
    assert {split: sorted(images.values()) for split, images in read.items()} == {
        "train": sorted(mini.WNIDS[:2]), "val": sorted(mini.WNIDS[:2])
    }  # fmt: skip


def test_the_table_of_flat_validation_images_is_named(tmp_path):
    src = make_files(tmp_path / "set", *(f"train/{wnid}/{wnid}_1.JPEG" for wnid in mini.WNIDS[:2]))
    make_files(src, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    rows = (f"ILSVRC2012_val_{n:08}.JPEG {wnid}" for n, wnid in enumerate(mini.WNIDS[:2], 1))
    (src / "val_map.txt").write_text(lines(*rows))
    with pytest.raises(SourceError, match=r"or give `labels` \S*/val_map\.txt"):
        read_names(src)
    labels = parse_label_options(src / "val_map.txt", "", partial=False)
    assert {split: len(images) for split, images in read_names(src, labels=labels).items()} == {"train": 2, "val": 2}


CARD = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n{}---\n# Photos\n"
CARDS = {
    "split and path": '  - split: train\n    path: a.parquet\n  - split: test\n    path: "b*"\n',
    "path and split": "  - path: a.parquet\n    split: train\n  - path: ./b.parquet\n    split: test\n",
    "lists of paths": "  - split: train\n    path:\n    - a*\n    - c*\n  - split: test\n    path: [b.parquet]\n",
}


def write_parquet(root, *names):
    root.mkdir(exist_ok=True)
    for name in names:
        rows = [{"image": {"bytes": name.encode(), "path": f"{name[0]}.jpg"}, "label": n} for n in (0, 1)]
        pq.write_table(pa.Table.from_pylist(rows), root / name)
    return root


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_card_of_a_data_set_tells_the_splits_of_parquet_files(tmp_path, card):
    src = write_parquet(tmp_path / "set", "a.parquet", "b.parquet")
    (src / "README.md").write_text(CARD.format(card))
    read = {split: {path[:1] for path in images} for split, images in read_classes(src).items()}
    assert read == {"train": {"a"}, "test": {"b"}}


def test_a_card_that_contradicts_names_or_itself_is_an_error(tmp_path):
    src = write_parquet(tmp_path / "set", "train.parquet", "b.parquet")
    card = "  - split: {}\n    path: train.parquet\n  - split: test\n    path: b.parquet\n"
    (src / "README.md").write_text(CARD.format(card.format("train")))
    assert set(read_classes(src)) == {"train", "test"}
    (src / "README.md").write_text(CARD.format(card.format("validation")))
    with pytest.raises(SourceError, match=r"train\.parquet is train by its name and val by the README\.md"):
        read_classes(src)
    (src / "README.md").write_text(CARD.format(card.format("train") + "  - split: val\n    path: '*'\n"))
    with pytest.raises(SourceError, match=r"README\.md puts b\.parquet into test and into val"):
        read_classes(src)
