"""Tables, lists and sidecars beside class folders: they agree, they tell the splits, or the command asks."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.labels.label_table import parse_label_options
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini

FOUR = ("ant/a1.jpg", "ant/a2.jpg", "bee/b1.jpg", "bee/b2.jpg")


def make(root, *paths, **texts):
    """Write an image at each path, and the texts under their names, where ``__`` stands for a slash and ``_`` a dot."""
    for path in paths:
        mini.write(root / path, path.encode())
    for name, text in texts.items():
        mini.write(root / name.replace("__", "/").replace("_", "."), text.encode())
    return root


def plan(src, **options):
    return list(plan_splits(ShardRequest(source=Path(src), folder=Path("/nowhere/out"), **options)))


def read(src, **options):
    """The class of every image, by split and by path below the source."""
    return {
        one.request.split: {
            os.fsdecode(row["path"]): one.listing.classes[row["label"]] for row in one.listing.table.to_pylist()
        }
        for one in plan(src, **options)
    }


def notices(src, **options):
    return [notice for one in plan(src, **options) for notice in one.listing.notices]


def folders_say(*paths):
    return {path: path.split("/")[-2] for path in paths}


CONTRADICTIONS = {
    "one row": ("labels_csv", "image,label\na1,ant\na2,bee\nb1,bee\nb2,bee\n"),
    "other words": ("labels_csv", "file,label\nant/a1.jpg,x\nant/a2.jpg,x\nbee/b1.jpg,y\nbee/b2.jpg,y\n"),
    "in a folder beside": ("meta__labels_csv", "image_id,label\na1,y\na2,x\nb1,y\nb2,x\n"),
    "an unknown column, alone": (
        "info_tsv",
        "image\tkind\nant/a1.jpg\tx\nant/a2.jpg\tx\nbee/b1.jpg\tx\nbee/b2.jpg\ty\n",
    ),
    "several numbers in a class": ("ids_csv", "file,class_id\na1.jpg,7\na2.jpg,8\nb1.jpg,3\nb2.jpg,3\n"),
    "JSON lines": (
        "metadata_jsonl",
        '{"file_name": "ant/a1.jpg", "label": "x"}\n{"file_name": "bee/b1.jpg", "label": "x"}',
    ),
    "a map of JSON": ("labels_json", json.dumps({"a1.jpg": "x", "a2.jpg": "x", "b1.jpg": "x", "b2.jpg": "y"})),
    "lines without a header": ("labels_txt", "a1.jpg x\na2.jpg y\nb1.jpg x\nb2.jpg y\n"),
}


@pytest.mark.parametrize("table", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_table_that_says_other_classes_than_the_folders_is_asked_about(tmp_path, table):
    src = make(tmp_path / "photos", *FOUR, **dict([table]))
    name = table[0].replace("__", "/").replace("_", ".")
    with pytest.raises(
        SourceError, match=rf"{name} says that .*`classes_at` 1 for 2 classes.*`labels` \S*{name}"
    ) as error:
        read(src)
    assert "\n" not in str(error.value)
    assert read(src, classes_at=1)["train"] == folders_say(*FOUR)


def test_the_option_that_is_named_reads_the_table(tmp_path):
    src = make(tmp_path / "photos", *FOUR, labels_csv="image,label\na1,ant\na2,bee\nb1,bee\nb2,bee\n")
    labels = parse_label_options(src / "labels.csv", "", partial=False)
    assert read(src, labels=labels)["train"] == {**folders_say(*FOUR), "ant/a2.jpg": "bee"}


AGREEMENTS = {
    "the same words": "image,species,age\na1,ant,3\na2,ant,4\nb1,bee,3\nb2,bee,3\n",
    "in other case": "file,label\nant/a1.jpg,Ant\nant/a2.jpg,ANT\nbee/b1.jpg,bee\nbee/b2.jpg,Bee\n",
    "a second, coarser column": "file,label,category\na1.jpg,ant,x\na2.jpg,ant,x\nb1.jpg,bee,x\nb2.jpg,bee,x\n",
    "a part of the images": "file,label\na1.jpg,ant\n",
    "numbers, one for each": "file,class_id\na1.jpg,7\na2.jpg,7\nb1.jpg,3\nb2.jpg,3\n",
}


@pytest.mark.parametrize("table", AGREEMENTS.values(), ids=AGREEMENTS)
def test_a_table_that_says_the_same_is_a_notice(tmp_path, table):
    src = make(tmp_path / "photos", *FOUR, labels_csv=table)
    assert read(src)["train"] == folders_say(*FOUR)
    assert [notice for notice in notices(src) if notice.startswith("labels.csv ")]


def test_a_name_that_several_images_have_is_no_contradiction(tmp_path):
    src = make(tmp_path / "photos", "ant/1.jpg", "bee/1.jpg", list_csv="subject,classname,img\np1,bee,1.jpg\n")
    assert read(src)["train"] == folders_say("ant/1.jpg", "bee/1.jpg")
    mini.write(src / "list.csv", b"subject,classname,img\np1,cow,1.jpg\n")
    with pytest.raises(SourceError, match=r"list\.csv says that ant/1\.jpg is 'cow'"):
        read(src)


def test_tables_of_something_else_are_no_contradiction(tmp_path):
    src = make(
        tmp_path / "photos", "train/ant/1.jpg", "train/bee/2.jpg", "test/3.jpg",
        sizes_csv="path,width,height\nant/1.jpg,4,4\nbee/2.jpg,5,4\n", words_csv="label,name\nant,Ameise\nbee,Biene\n",
    )  # fmt: skip
    mini.write(src / "other.csv", b"file,label\nelsewhere/1.jpg,cow\nelsewhere/2.jpg,cow\n")
    mini.write(src / "sample_submission.csv", b"id,label\n1,bee\n2,bee\n")
    assert read(src)["train"] == folders_say("train/ant/1.jpg", "train/bee/2.jpg")


@pytest.mark.parametrize("folders", [("part_1", "part_2"), ("batch1", "batch2"), ("x_images_a", "x_images_b")])
def test_folders_called_like_parts_are_asked_about(tmp_path, folders):
    src = make(tmp_path / "photos", *(f"{folder}/{folder}.jpg" for folder in folders))
    with pytest.raises(
        SourceError, match=rf"like parts of one set .*`classes_at` 1 for 2 classes \({', '.join(folders)}\)"
    ):
        read(src)
    assert set(read(src, classes_at=1)["train"].values()) == set(folders)


def test_parts_with_numbers_of_different_names_are_classes(tmp_path):
    src = make(tmp_path / "photos", "part_1/1.jpg", "photo_2/2.jpg")
    assert set(read(src)["train"].values()) == {"part_1", "photo_2"}


SPLITS = {
    "lists": {"meta__train_txt": "ant/a1\nbee/b1\n", "meta__test_txt": "ant/a2\nbee/b2\n"},
    "maps of JSON": {
        "train_json": '{"ant": ["ant/a1"], "bee": ["bee/b1"]}', "test_json": '{"x": ["ant/a2", "bee/b2"]}',
    },
    "tables": {
        "train_csv": "image,label\na1.jpg,ant\nb1.jpg,bee\n", "test_csv": "image,label\na2.jpg,ant\nb2.jpg,bee\n",
    },
    "a column": {"x_csv": "file,split\na1.jpg,train\nb1.jpg,train\na2.jpg,test\nb2.jpg,test\n"},
    "a flag": {"x_csv": "file,is_test\na1.jpg,False\nb1.jpg,False\na2.jpg,True\nb2.jpg,True\n"},
    "CUB": {
        "images_txt": "1 ant/a1.jpg\n2 ant/a2.jpg\n3 bee/b1.jpg\n4 bee/b2.jpg\n",
        "train-test-split_txt": "1 1\n2 0\n3 1\n4 0\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("texts", SPLITS.values(), ids=SPLITS)
def test_splits_are_read_from_what_lies_beside_the_class_folders(tmp_path, texts):
    src = make(tmp_path / "photos", *FOUR, **texts)
    if (src / "train-test-split.txt").exists():
        (src / "train-test-split.txt").rename(src / "train_test_split.txt")
    train, test = folders_say("ant/a1.jpg", "bee/b1.jpg"), folders_say("ant/a2.jpg", "bee/b2.jpg")
    assert read(src) == {"train": train, "test": test}
    assert read(src, split="test") == {"test": test}
    assert read(src, classes_at=1) == {"train": {**train, **test}}
    (said,) = [notice for notice in notices(src, classes_at=1) if "left aside" in notice]
    assert said.endswith(": its splits are left aside, so 2 images listed in test are read as train")


def test_lists_that_leave_an_image_out_or_name_it_twice_are_asked_about(tmp_path):
    src = make(tmp_path / "some", *FOUR, train_txt="ant/a1.jpg\nbee/b1.jpg\n", test_txt="ant/a2.jpg\n")
    with pytest.raises(SourceError, match=r"1 image in none of them \(bee/b2\.jpg.*choose: `classes_at` 1"):
        read(src)
    dtd = make(tmp_path / "dtd", *(f"images/{path}" for path in FOUR))
    for fold in (1, 2):
        mini.write(dtd / f"labels/train{fold}.txt", f"ant/a{fold}.jpg\nbee/b{fold}.jpg\n".encode())
        mini.write(dtd / f"labels/test{fold}.txt", f"ant/a{3 - fold}.jpg\nbee/b{3 - fold}.jpg\n".encode())
    with pytest.raises(SourceError, match=r"is in test and train at once .*choose: `classes_at` 2 for 2 classes"):
        read(dtd)
    for source, level in ((src, 1), (dtd, 2)):
        assert len(read(source, classes_at=level)["train"]) == 4
        assert any("splits are left aside" in notice for notice in notices(source, classes_at=level))


def test_a_column_of_splits_that_contradicts_the_folders_is_asked_about(tmp_path):
    src = make(tmp_path / "photos", "train/ant/a1.jpg", "train/bee/b1.jpg", "val/ant/a2.jpg")
    rows = "path,label,is_valid\ntrain/ant/a1.jpg,ant,{}\ntrain/bee/b1.jpg,bee,0\nval/ant/a2.jpg,ant,1\n"
    mini.write(src / "noisy.csv", rows.format(0).encode())
    assert set(read(src)) == {"train", "val"}
    mini.write(src / "noisy.csv", rows.format(1).encode())
    with pytest.raises(
        SourceError, match=r"noisy\.csv says that train/ant/a1\.jpg is in val, .* read as train; .* `classes_at` 1 "
    ):
        read(src)
    assert set(read(src, classes_at=1)) == {"train", "val"}
    assert [one for one in notices(src, classes_at=1) if "1 image listed in val is read as train" in one]


def test_the_tables_of_flat_images_tell_the_split_by_flags(tmp_path):
    src = make(tmp_path / "photos", "images/1.jpg", "images/2.jpg", "images/3.jpg")
    mini.write(src / "labels.csv", b"file,label,is_valid\n1.jpg,a,False\n2.jpg,b,False\n3.jpg,a,True\n")
    assert {split: set(images) for split, images in read(src).items()} == {
        "train": {"images/1.jpg", "images/2.jpg"}, "val": {"images/3.jpg"}
    }  # fmt: skip
    for column, cells in (("is_train", "110"), ("partition", "012"), ("is_valid", "01x")):
        rows = "".join(f"{number}.jpg,a,{cell}\n" for number, cell in enumerate(cells, 1))
        mini.write(src / "labels.csv", f"file,label,{column}\n{rows}".encode())
        with pytest.raises(SourceError, match=rf"in column '{column}'.*`labels.columns` FILE,CLASS leaves"):
            read(src)


def test_columns_that_tell_two_splits_are_an_error(tmp_path):
    src = make(tmp_path / "photos", "images/1.jpg", "images/2.jpg")
    mini.write(src / "labels.csv", b"file,label,split,is_valid\n1.jpg,a,train,0\n2.jpg,b,train,1\n")
    with pytest.raises(SourceError, match=r"line 3 tells two splits, in columns 'split' and 'is_valid'"):
        read(src)


def test_an_image_in_the_tables_of_two_splits_is_an_error(tmp_path):
    src = make(tmp_path / "photos", "images/1.jpg", "images/2.jpg", train_csv="file,label\n1.jpg,a\n2.jpg,b\n")
    mini.write(src / "val.csv", b"file,label\n2.jpg,b\n")
    with pytest.raises(SourceError, match=r"'2\.jpg' is 'b' in val, but line 3 of train\.csv says 'b' in train"):
        read(src)


@pytest.mark.parametrize("form", ["folder", "source", "table", "parquet", "webdataset", "tar"])
def test_split_does_not_rename_what_a_source_says(tmp_path, form):
    src = tmp_path / "photos"
    if form == "folder":
        make(src, "val/ant/1.jpg", "val/bee/2.jpg")
    elif form == "source":
        src = make(tmp_path / "val", "ant/1.jpg", "bee/2.jpg")
    elif form == "table":
        make(src, "images/1.jpg", "images/2.jpg", val_csv="image,label\n1.jpg,a\n2.jpg,b\n")
    elif form == "parquet":
        src.mkdir()
        rows = [
            {"image": {"bytes": b"1", "path": None}, "label": 0},
            {"image": {"bytes": b"2", "path": None}, "label": 1},
        ]
        pq.write_table(pa.Table.from_pylist(rows), src / "val.parquet")
    else:
        names = ["1.jpg", "1.cls", "2.jpg", "2.cls"] if form == "webdataset" else ["ant/1.jpg", "bee/2.jpg"]
        mini.write(src / "val-0.tar", mini.tar_bytes([(name, b"0") for name in names]))
    assert list(read(src)) == list(read(src, split="val")) == ["val"]
    for other in ("train", "test"):
        with pytest.raises(SourceError, match=f"says by its names that it is val, not {other}"):
            read(src, split=other)


def parquet(path, **columns):
    rows = [{"image": {"bytes": b"x", "path": f"{n}.jpg"}, "label": n % 2} for n in range(4)]
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path.parent


@pytest.mark.parametrize(
    "column", [("split", ["train", "train", "test", "train"]), ("is_test", [False, False, True, False])]
)
def test_a_column_of_parquet_tells_the_splits(tmp_path, column):
    src = parquet(tmp_path / "set/data.parquet", **dict([column]))
    assert read(src) == {
        "train": {"data.parquet/0.jpg": "0", "data.parquet/1.jpg": "1", "data.parquet/3.jpg": "1"},
        "test": {"data.parquet/2.jpg": "0"},
    }


def test_a_column_of_parquet_that_is_not_clear_is_asked_about(tmp_path):
    odd = parquet(tmp_path / "odd/data.parquet", split=["train", "x", "train", "train"])
    with pytest.raises(SourceError, match=r"column 'split' has 'x', .*`split` train, val or test takes all rows"):
        read(odd)
    assert len(read(odd, split="val")["val"]) == 4
    named = parquet(tmp_path / "named/train.parquet", split=["train", "train", "train", "test"])
    with pytest.raises(SourceError, match="row 3 is in test by column 'split', and the file is named for train"):
        read(named)
    assert set(read(parquet(tmp_path / "other/data.parquet", dataset=["a", "b", "a", "b"]))) == {"train"}


def samples(path, *members):
    mini.write(path, mini.tar_bytes([(name, text.encode()) for name, text in members]))
    return path


def test_sidecars_that_contradict_each_other_are_an_error(tmp_path):
    def pair(cls, label):
        return [("1.jpg", "x"), ("1.cls", cls), ("1.json", json.dumps({"label": label}))]

    assert read(samples(tmp_path / "same.tar", *pair("3", 3)))["train"] == {"same.tar/1.jpg": "3"}
    assert read(samples(tmp_path / "name.tar", *pair("3", "cat")))["train"] == {"name.tar/1.jpg": "3"}
    for cls, label in (("3", 4), ("cat", "dog")):
        with pytest.raises(SourceError, match=r"'1\.cls' is .* and that in '1\.json'"):
            read(samples(tmp_path / "other.tar", *pair(cls, label)))


@pytest.mark.parametrize("labels", ["77", "bb"])
def test_labels_that_are_not_those_of_the_folders_are_asked_about(tmp_path, labels):
    members = [("a/0.jpg", "x"), ("a/0.cls", labels[0]), ("b/1.jpg", "y"), ("b/1.cls", labels[1])]
    src = samples(tmp_path / "side.tar", *members)
    with pytest.raises(SourceError, match=r"'a/0\.jpg' has the label '?[7b]'?, .*`classes_at` last for 2 classes"):
        read(src)
    assert set(read(src, classes_at=-1)["train"].values()) == {"a", "b"}


@pytest.mark.parametrize("folders", ["aabb", "0011", "abab"])
def test_folders_that_are_no_other_classes_are_part_of_the_key(tmp_path, folders):
    labels = "3344" if folders != "abab" else "3443"
    members = [
        (f"{folder}/{n}.{kind}", text)
        for n, (folder, label) in enumerate(zip(folders, labels, strict=True))
        for kind, text in (("jpg", "x"), ("cls", label))
    ]
    assert set(read(samples(tmp_path / "x.tar", *members))["train"].values()) == {"3", "4"}


def test_images_that_splits_share_by_links_are_a_notice(tmp_path):
    src = make(tmp_path / "photos", "train/ant/1.jpg", "train/bee/2.jpg", "val/ant/3.jpg", "val/bee/4.jpg")
    assert not [notice for notice in notices(src) if "one file" in notice]
    (src / "val/ant/l.jpg").symlink_to(src / "train/ant/1.jpg")
    os.link(src / "train/bee/2.jpg", src / "val/bee/h.jpg")
    (src / "val/bee/folder").symlink_to(src / "train/bee")
    (said,) = [notice for notice in notices(src) if "one file" in notice]
    assert said.startswith("2 images of val and of train are one file by a link: ")
    assert said.endswith(" is train/ant/1.jpg") or said.endswith(" is train/bee/2.jpg")


def test_an_empty_folder_changes_nothing(tmp_path):
    src = make(tmp_path / "a", "Data/Train/ant/1.jpg", "Data/Train/bee/2.jpg", "Data/TEST/ant/3.jpg")
    caltech = make(tmp_path / "b", "101/ant/1.jpg", "101/bee/2.jpg")
    before = read(src), read(caltech)
    (src / "Notebook").mkdir()
    (caltech / "Annotations/ant").mkdir(parents=True)
    assert (read(src), read(caltech)) == before
    one = make(tmp_path / "c", "ant/1.jpg")
    (one / "empty").mkdir()
    with pytest.raises(SourceError, match="holds only one class, 'ant'"):
        read(one)


@pytest.mark.parametrize("names", [("cat", "с" + "at"), ("bob", "b" + "ο" + "b"), ("Bill", "BiII"), ("Cat", "cat")])
def test_names_that_look_alike_are_a_notice(tmp_path, names):
    src = make(tmp_path / "photos", *(f"{name}/1.jpg" for name in (*names, "zebra")))
    (said,) = [notice for notice in notices(src) if "look alike" in notice]
    assert all(repr(name) in said for name in names) and "zebra" not in said
    assert len(set(read(src)["train"].values())) == 3


def test_classes_called_by_numbers_that_are_not_their_labels_are_a_notice(tmp_path):
    said = "classes are called by numbers, which are not their labels: class '3' has label 1"
    assert [one for one in notices(make(tmp_path / "a", "0/1.jpg", "3/1.jpg")) if one.startswith(said)]
    assert not notices(make(tmp_path / "b", "0/1.jpg", "1/1.jpg"))
    assert not notices(tmp_path / "a", classes=("0", "3"))


@pytest.mark.parametrize(
    "rows, match",
    [
        ('[{"file": "1.jpg", "label": true}, {"file": "2.jpg", "label": false}]', "has 'true' in column 'label'"),
        ("file,label\n1.jpg,1\n2.jpg,cat\n", "has the number 1 as its class, and line 3 .* the word 'cat'"),
        ("file,label\n1.jpg,01\n2.jpg,1\n", "line 2 has '01' and line 3 '1'"),
        ("file,label\n1.jpg,1.5\n2.jpg,1\n", "line 2 has '1.5'"),
    ],
)
def test_labels_of_tables_follow_the_rules_of_other_labels(tmp_path, rows, match):
    src = make(tmp_path / "photos", "1.jpg", "2.jpg")
    mini.write(tmp_path / "table", rows.encode())
    with pytest.raises(SourceError, match=match):
        read(src, labels=parse_label_options(tmp_path / "table", "", partial=False))


def test_numbers_in_tables_are_read_however_they_are_written(tmp_path):
    src = make(tmp_path / "photos", "1.jpg", "2.jpg")
    mini.write(tmp_path / "t.csv", b"file,label\n1.jpg,2.0\n2.jpg,1.0e+01\n")
    labels = parse_label_options(tmp_path / "t.csv", "", partial=False)
    assert read(src, labels=labels)["train"] == {"1.jpg": "2", "2.jpg": "10"}


def test_a_list_of_images_in_labels_is_not_taken_for_boxes(tmp_path):
    src = make(tmp_path / "dtd", *(f"images/{path}" for path in FOUR), labels__train1_txt="ant/a1.jpg\nbee/b1.jpg\n")
    mini.write(src / "labels/test1.txt", b"ant/a2.jpg\nbee/b2.jpg\n")
    assert set(read(src)) == {"train", "test"}
    mini.write(src / "labels/test1.txt", b"0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(SourceError, match="laid out as YOLO"):
        read(src)
