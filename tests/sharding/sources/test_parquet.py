"""Parquet files of other tools: the splits that their names tell, and labels of every type that names one class."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.detect import detect_source
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import list_splits
from tests.support.source_splits import read_split

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, labels, *, column="label", extra=None, names=None):
    """One image a label; the n-th is called n.jpg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": mini.jpeg(i), "path": f"{path.stem}-{i}.jpg"} for i in range(len(labels))], IMAGE)
    table = pa.table({"image": images} | ({column: labels} if column else {}) | (extra or {}))
    if names:
        feature = {"names": names, "_type": "ClassLabel"}
        info = {"info": {"features": {"image": {"_type": "Image"}, column: feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


def write_files(root, names):
    for name in names:
        write(root / name, [0, 1])


def files_of(src, split="", **options):
    """The files that each split is read from."""
    return {
        name: sorted({entry.container for entry in read_split(find).entries})
        for name, find in detect_source(src, split=split, **options).splits.items()
    }


WORDS = {
    "train": "train", "training": "train", "Train": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@pytest.mark.parametrize("form", ["{}-00000-of-00001.parquet", "{}.parquet", "{}/0000.parquet", "x_{}_01.parquet"])
@pytest.mark.parametrize("folder", ["", "data/", "default/", "plain_text/"])
def test_splits_are_told_by_every_word_that_people_use(tmp_path, folder, form):
    for word, split in WORDS.items():
        root = tmp_path / word
        other = "val" if split == "train" else "train"
        write_files(root, [folder + form.format(word), folder + form.format(other)])
        assert files_of(root) == {split: [folder + form.format(word)], other: [folder + form.format(other)]}


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00001.parquet", "data/dev-00000-of-00001.parquet", "data/eval-00000-of-00001.parquet"],
        ["training-0.parquet", "valid-0.parquet", "testing-0.parquet"],
        ["train/0000.parquet", "validation/0000.parquet", "evaluation/0000.parquet"],
        ["data/a_train.parquet", "data/a_dev.parquet"],
        ["part-0001.parquet", "part-0002.parquet"],
        ["0000.parquet"],
    ],
)
def test_hugging_faces_own_library_sorts_the_same_files_into_the_same_splits(tmp_path, names):
    data_files = pytest.importorskip("datasets.data_files")
    write_files(tmp_path, names)
    patterns = data_files.get_data_patterns(str(tmp_path))
    theirs = data_files.DataFilesDict.from_patterns(patterns, base_path=str(tmp_path))
    called = WORDS  # in data/ a word before 00000-of-00001 stays what it is
    expected = {
        called[str(split)]: sorted(str(path).removeprefix(f"{tmp_path}/") for path in paths)
        for split, paths in theirs.items()
    }
    assert files_of(tmp_path) == expected


@pytest.mark.parametrize("unknown", ["extra-00000-of-00001.parquet", "unsupervised.parquet", "0000.parquet"])
def test_a_file_of_no_known_split_beside_others_is_an_error_and_never_training_data(tmp_path, unknown):
    write_files(tmp_path, ["train-00000-of-00001.parquet", unknown])
    with pytest.raises(SourceError, match=rf"{unknown} implies no split, while train-.* does; rename it .*`split`"):
        detect_source(tmp_path)
    assert files_of(tmp_path, "train") == {"train": ["train-00000-of-00001.parquet"]}
    found = read_split(detect_source(tmp_path, split="train").splits["train"])
    assert unknown in dict(found.excluded)


def test_files_of_one_unknown_split_are_asked_about(tmp_path):
    write_files(tmp_path, ["pool-00000-of-00002.parquet", "pool-00001-of-00002.parquet"])
    with pytest.raises(SourceError, match=r"'pool', which is not a known name .*`split`"):
        detect_source(tmp_path)
    assert list(files_of(tmp_path, "val")) == ["val"]


@pytest.mark.parametrize("name", ["part-0001", "0000", "shard-000", "data-00000-of-00001", "flowers-00000-of-00001"])
def test_files_that_tell_no_split_at_all_are_one_split(tmp_path, name):
    write_files(tmp_path / "flowers", [f"{name}.parquet"])
    assert list(files_of(tmp_path / "flowers")) == ["train"]
    assert list(files_of(tmp_path / "flowers", "test")) == ["test"]
    assert "no name tells a split" in detect_source(tmp_path / "flowers").description


def test_the_folder_that_is_the_source_may_tell_the_split(tmp_path):
    write_files(tmp_path, ["val/0000.parquet", "train/0000.parquet"])
    assert list(files_of(tmp_path / "val")) == ["val"]


def test_a_folder_and_a_name_of_two_splits_are_an_error(tmp_path):
    write_files(tmp_path, ["train/val-0000.parquet"])
    with pytest.raises(SourceError, match="a folder of one split and is named for another"):
        detect_source(tmp_path)


def test_the_cache_of_the_hub_is_read_through_its_links(tmp_path):
    root = tmp_path / "datasets--who--what"
    write_files(root, ["blobs/a.parquet", "blobs/b.parquet"])
    snapshot = root / "snapshots" / "0123abcd" / "data"
    snapshot.mkdir(parents=True)
    for blob, name in (("a", "train"), ("b", "test")):
        (root / "blobs" / f"{blob}.parquet").rename(root / "blobs" / blob)
        (snapshot / f"{name}-00000-of-00001.parquet").symlink_to(root / "blobs" / blob)
    mini.write(root / "refs" / "main", b"0123abcd")
    where = "snapshots/0123abcd/data/{}-00000-of-00001.parquet"
    assert files_of(root) == {"train": [where.format("train")], "test": [where.format("test")]}


@pytest.mark.parametrize("there, missing", [([0], "00001"), ([0, 2], "00001"), ([1, 2], "00000"), ([0, 1, 2], "")])
def test_files_that_are_missing_by_their_numbers_are_said(tmp_path, there, missing):
    write_files(tmp_path, [f"data/train-{number:05}-of-00003.parquet" for number in there])
    write_files(tmp_path, ["data/test-00000-of-00001.parquet"])
    notices = read_split(detect_source(tmp_path).splits["train"]).notices
    said = [notice for notice in notices if "files are there" in notice]
    expected = (
        f"train: {len(there)} of its 3 files are there, by their names; the first that is missing is {missing}-of"
    )
    assert [notice.startswith(expected) for notice in said] == ([True] if missing else [])


def test_two_configurations_beside_each_other_are_not_mixed(tmp_path):
    write_files(tmp_path, ["small/train-0.parquet", "large/train-0.parquet"])
    with pytest.raises(SourceError, match=r"2 sets beside each other, in large, small; give one .* as `source`"):
        detect_source(tmp_path)


def test_numbered_folders_are_parts_of_one_set(tmp_path):
    names = ["train/000/0.parquet", "train/001/0.parquet", "val/000/0.parquet"]
    write_files(tmp_path, names)
    assert files_of(tmp_path) == {"train": names[:2], "val": names[2:]}


def test_a_table_without_images_beside_the_files_is_left_out(tmp_path):
    write_files(tmp_path, ["train-0.parquet"])
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "metadata.parquet")
    found = read_split(detect_source(tmp_path).splits["train"])
    assert len(list(found.entries)) == 2
    assert "metadata.parquet" in dict(found.excluded)


def test_a_test_split_without_a_column_of_labels_is_left_out_and_named(tmp_path):
    write(tmp_path / "train-0.parquet", [0, 1])
    write(tmp_path / "test-0.parquet", [0], column=None)
    found = detect_source(tmp_path)
    assert list(found.splits) == ["train"]
    assert "1 Parquet file: left out: 1 test image, without labels" in read_split(found.splits["train"]).notices


TEXTS = ["dog", "cat", "dog", "Übung"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("column", ["label", "class", "category", "breed"])
def test_labels_in_words_are_the_sorted_classes(tmp_path, kind, column):
    write(tmp_path / "train-0.parquet", pa.array(TEXTS).cast(kind), column=column)
    train = list_splits(tmp_path)["train"]
    assert train.classes == ("cat", "dog", "Übung")
    assert [train.classes[label] for label in train.table.column("label").to_pylist()] == TEXTS


KINDS = [
    pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(),
    pa.float32(), pa.float64(), pa.dictionary(pa.int8(), pa.int64()),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_whole_numbers_of_any_type_are_labels(tmp_path, kind):
    numbers = [10, 2, 0, 9]
    values = pa.array(numbers).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(numbers).dictionary_encode()
    write(tmp_path / "train-0.parquet", values)
    assert list_splits(tmp_path)["train"].table.column("label").to_pylist() == numbers


def test_numbers_in_text_are_in_the_order_of_numbers(tmp_path):
    write(tmp_path / "train-0.parquet", ["10", "9", "0"])
    assert list_splits(tmp_path)["train"].classes == ("0", "9", "10")


def test_words_in_the_metadata_name_the_numbers(tmp_path):
    write(tmp_path / "train-0.parquet", [1, 0], names=["zebra", "ape"])
    train = list_splits(tmp_path)["train"]
    assert (train.classes, train.table.column("label").to_pylist()) == (("zebra", "ape"), [1, 0])


LISTS = {"list": [[0], [1]], "boolean": [True, False], "object": [{"a": 1}, {"a": 2}], "bytes": [b"a", b"b"]}


@pytest.mark.parametrize("labels", LISTS.values(), ids=LISTS)
def test_labels_that_are_no_one_class_are_refused_and_the_type_is_named(tmp_path, labels):
    write(tmp_path / "train-0.parquet", labels)
    with pytest.raises(SourceError, match=r"no column of labels, expected numbers or text .* label \(") as error:
        detect_source(tmp_path)
    assert str(pa.array(labels).type).partition("<")[0] in str(error.value)


def test_a_fraction_is_no_label(tmp_path):
    write(tmp_path / "train-0.parquet", [0.0, 2.5])
    with pytest.raises(SourceError, match=r"'label' holds 2.5, expected whole numbers"):
        list_splits(tmp_path)


def test_two_columns_that_may_be_labels_are_not_chosen_between(tmp_path):
    write(tmp_path / "train-0.parquet", ["a", "b"], column="breed", extra={"category": ["x", "y"]})
    with pytest.raises(SourceError, match=r"breed \(string\), category \(string\): rename the right column"):
        detect_source(tmp_path)


@pytest.mark.parametrize("none", [None, -1])
def test_rows_without_a_label_are_left_out_and_counted(tmp_path, none):
    write(tmp_path / "train-0.parquet", pa.array([0, none, 1, none], pa.int64()))
    train = list_splits(tmp_path)["train"]
    assert (len(train), len(train.excluded)) == (2, 2)
    assert {why for _, why in train.excluded} == {"no label"}


def test_a_label_beyond_the_given_classes_is_an_error(tmp_path):
    write(tmp_path / "train-0.parquet", [0, 7])
    with pytest.raises(SourceError, match=r"row 1 has label 7.*there are 2; give the list .* `classes`"):
        list(read_split(detect_source(tmp_path, classes=["a", "b"]).splits["train"]).entries)


@pytest.mark.parametrize("form", ["{}-000.tar", "{}/000.tar", "data/{}-00000-of-00001.tar", "set/x-{}-0.tar"])
def test_webdataset_tars_are_sorted_by_the_same_words(tmp_path, form):
    for word, split in WORDS.items():
        other = "val" if split == "train" else "train"
        names = {split: form.format(word), other: form.format(other)}
        for name in names.values():
            mini.write(tmp_path / word / name, mini.tar_bytes([("0.jpg", b"x"), ("0.cls", b"0")]))
        assert files_of(tmp_path / word) == {name: [path] for name, path in names.items()}


def test_a_webdataset_tar_of_no_known_split_is_an_error(tmp_path):
    for name in ("train-000.tar", "holdin-000.tar"):
        mini.write(tmp_path / name, mini.tar_bytes([("0.jpg", b"x"), ("0.cls", b"0")]))
    with pytest.raises(SourceError, match=r"holdin-000.tar implies no split"):
        detect_source(tmp_path)
    assert files_of(tmp_path, "train") == {"train": ["train-000.tar"]}


def test_labels_that_look_alike_are_two_classes_and_named(tmp_path):
    write(tmp_path / "train.parquet", ["cat", "cat ", "dog"])
    train = list_splits(tmp_path)["train"]
    assert train.classes == ("cat", "cat ", "dog")
    assert any("kept apart: 'cat', 'cat '; if" in notice for notice in train.notices)


@pytest.mark.parametrize("labels", [[-1] * 3, [None] * 3])
def test_test_images_without_labels_count_one_by_one(tmp_path, labels):
    write(tmp_path / "train.parquet", [0, 1])
    for part in (0, 1):
        write(tmp_path / f"test-{part:05}-of-00002.parquet", pa.array(labels, pa.int64()))
    train = list_splits(tmp_path)["train"]
    assert [path for path, _ in train.excluded] == [
        f"test-{part:05}-of-00002.parquet/{row}" for part in (0, 1) for row in range(3)
    ]
    assert "2 Parquet files: left out: 6 test images, without labels" in train.notices


def test_a_file_of_other_columns_or_names_of_classes_is_named_with_both(tmp_path):
    write(tmp_path / "a/train.parquet", [0, 1], names=["cat", "dog"])
    write(tmp_path / "a/test.parquet", [0, 1], names=["dog", "cat"])
    write(tmp_path / "b/train.parquet", [0, 1], names=["cat", "dog"])
    write(tmp_path / "b/test.parquet", [0, 1])
    write(tmp_path / "c/train.parquet", [0, 1])
    write(tmp_path / "c/test.parquet", [0, 1], column="species")
    for folder, received in (
        ("a", "'dog', 'cat' for 0, 1"),
        ("b", "numbers without names"),
        ("c", "labels in 'species'"),
    ):
        with pytest.raises(
            SourceError, match=rf"{folder}/test\.parquet: .*received .*{received}.*`source` \S+test.parq"
        ):
            list_splits(tmp_path / folder)
        assert list(list_splits(tmp_path / folder / "test.parquet")) == ["test"]
