"""Class-per-folder sources: labels, splits, exclusions, errors; and the list of classes."""

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.labels.class_list import load_classes
from tests.support.source_layouts import list_splits


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def only(root):
    (lst,) = list_splits(root).values()
    return lst


def paths(lst):
    return [path.decode() for path in lst.table.column("path").to_pylist()]


def test_labels_are_positions_of_sorted_class_names(tmp_path):
    lst = only(make(tmp_path, "n02/b.jpg", "n01/a.jpg", "n02/c.jpg"))
    assert lst.classes == ("n01", "n02")
    assert list(zip(paths(lst), lst.table.column("label").to_pylist(), strict=True)) == [
        ("n01/a.jpg", 0),
        ("n02/b.jpg", 1),
        ("n02/c.jpg", 1),
    ]


def test_numeric_class_names_sort_as_numbers(tmp_path):
    assert only(make(tmp_path, "10/a.jpg", "2/a.jpg", "1/a.jpg")).classes == ("1", "2", "10")


def test_files_in_nested_folders_are_found(tmp_path):
    assert only(make(tmp_path, "cat/2019/may/a.jpg")).table.column("key").to_pylist() == ["cat_2019_may_a"]


def test_system_files_and_stray_files_are_excluded_and_listed(tmp_path):
    lst = only(make(tmp_path, "cat/a.jpg", "cat/.DS_Store", "cat/Thumbs.db", "readme.txt", ".git/x"))
    assert paths(lst) == ["cat/a.jpg"]
    assert lst.excluded == (
        (".git", "system file"),
        ("cat/.DS_Store", "system file"),
        ("cat/Thumbs.db", "system file"),
        ("readme.txt", "not inside a class folder"),
    )


def test_an_empty_class_folder_keeps_its_label(tmp_path):
    (tmp_path / "a").mkdir()
    assert only(make(tmp_path, "b/x.jpg")).table.column("label").to_pylist() == [1]


def test_missing_empty_and_file_sources_are_errors(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        detect_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is empty"):
        detect_source(tmp_path)
    make(tmp_path, "file.jpg")
    with pytest.raises(SourceError, match="is a file"):
        detect_source(tmp_path / "file.jpg")
    with pytest.raises(SourceError, match=r"holds 1 image .* and no class folders"):
        detect_source(tmp_path)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_source_with_train_and_val_is_two_splits(tmp_path, name):
    make(tmp_path, "train/a/x.jpg", f"{name}/a/y.jpg", ".cache/z")
    lists = list_splits(tmp_path)
    assert {split: paths(lst) for split, lst in lists.items()} == {
        "train": ["train/a/x.jpg"],
        "val": [f"{name}/a/y.jpg"],
    }
    assert lists["train"].excluded == ((".cache", "system file"),)


@pytest.mark.parametrize(("name", "split"), [("valid", "val"), ("test", "test"), ("photos", "train")])
def test_a_single_split_is_the_one_that_its_folder_name_means(tmp_path, name, split):
    assert list(detect_source(make(tmp_path / name, "a/x.jpg")).splits) == [split]


@pytest.mark.parametrize("other", ["extra/a/z.jpg", "valid/a/z.jpg"])
def test_folders_beside_the_splits_are_neither_classes_nor_lost(tmp_path, other):
    make(tmp_path, "train/a/x.jpg", "val/a/y.jpg", other)
    with pytest.raises(SourceError, match=other.split("/")[0]):
        detect_source(tmp_path)


def test_a_class_called_train_does_not_make_a_split(tmp_path):
    assert only(make(tmp_path, "train/x.jpg", "plane/y.jpg")).classes == ("plane", "train")


def write_list(folder, text):
    (folder / "list").write_text(text)
    return folder / "list"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("n01440764 tench, Tinca tinca\nn01443537\n", ("n01440764", "n01443537")),
        ("great grey owl\t24\nelk\n", ("great grey owl", "elk")),
        ('[{"index": 1, "wnid": "b"}, {"index": 0, "wnid": "a"}]', ("a", "b")),
        ('["x", "y"]', ("x", "y")),
        ('{"0": "cat", "2": "elk", "1": "dog"}', ("cat", "dog", "elk")),
        ('{"cat": 0, "elk": 2, "dog": 1}', ("cat", "dog", "elk")),
        ('{"7": 1, "8": 0}', ("8", "7")),
        ('{"1": "1", "0": "0"}', ("0", "1")),
        ('{"00": "cat", "01": "dog"}', ("cat", "dog")),
    ],
)
def test_a_list_of_classes_is_read_in_label_order(tmp_path, text, classes):
    assert load_classes(write_list(tmp_path, text)) == classes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a\n\nb\n", "empty class"),
        ("a\nb\na\n", "'a' twice"),
        ('{"a": 1}', "indexes are not 0, 1, 2"),
        ('{"0": "a", "2": "b"}', "indexes are not 0, 1, 2"),
        ('{"a": 0, "b": 0}', "indexes are not 0, 1, 2"),
        ('{"0": "a", "00": "b"}', "indexes are not 0, 1, 2"),
        ('{"a": 0, "b": 1, "a": 1}', "a key twice"),
        ('{"0": "a", "0": "b"}', "a key twice"),
        ('{"0": "a", "1": "a"}', "'a' twice"),
        ('{"0": "1", "1": "2", "2": "0"}', "numbers to numbers"),
        ('{"a": -1, "b": 0}', "indexes are not 0, 1, 2"),
        ('{"a": 0.0}', "must be like"),
        ('{"a": true, "b": false}', "must be like"),
        ('{"a": "b"}', "must be like"),
        ('{"0": ["n01440764", "tench"]}', "must be like"),
        ("{}", "is empty"),
        ('[{"index": 5, "wnid": "a"}]', "indexes"),
        ("[1", "no list of classes"),
    ],
)
def test_a_wrong_list_of_classes_is_an_error_of_one_line(tmp_path, text, words):
    with pytest.raises(SourceError, match=words) as error:
        load_classes(write_list(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_finished_data_set_is_a_list_of_classes(sample_shards):
    classes = load_classes(sample_shards / "train")
    assert classes == load_classes(sample_shards / "train/manifest.json")
    assert classes == load_classes(sample_shards / "train/classes.json")
    assert len(classes) == 8
