"""WebDataset tars of other tools: whole samples, labels that mean what they say, or one line that says why not."""

import json
import random
import tarfile

import numpy as np
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.overview import format_left_out
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.tars import walk
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import list_splits
from tests.support.source_splits import read_split


def write_tar(root, members, name="train-000.tar", **options):
    mini.write(root / name, mini.tar_bytes(members, **options))


def write_labels(root, labels, *, extension="cls"):
    """One sample a label, numbered by its place."""
    write_tar(root, [m for i, d in enumerate(labels) for m in ((f"{i:04d}.jpg", b"x"), (f"{i:04d}.{extension}", d))])


def class_of_sample(src, split="train"):
    """The class of each sample, by the number that its image's name is."""
    train = list_splits(src)[split]
    rows = zip(train.table.column("path").to_pylist(), train.table.column("label").to_pylist(), strict=True)
    return {int(path.rpartition(b"/")[2].partition(b".")[0]): train.classes[label] for path, label in rows}


@pytest.mark.parametrize("spelling", ["{}", "{}\n", " {}\r\n", "{}.0", "{}.", "{:03d}", "+{}", "{:.18e}", "\ufeff{}"])
def test_cls_numbers_are_numbers_however_they_are_written(tmp_path, spelling):
    numbers = [11, 0, 10, 9, 2, 1, 3, 4, 5, 6, 7, 8]
    write_labels(tmp_path, [spelling.format(number).encode() for number in numbers])
    assert list_splits(tmp_path)["train"].classes == tuple(map(str, range(12)))
    assert class_of_sample(tmp_path) == {i: str(number) for i, number in enumerate(numbers)}


@pytest.mark.parametrize("write", [int, float, str], ids=["integer", "float", "text"])
@pytest.mark.parametrize("key", ["label", "cls", "class_id", "target", "category"])
def test_json_numbers_are_numbers(tmp_path, write, key):
    numbers = [10, 2, 0, 9]
    write_labels(tmp_path, [json.dumps({"url": "x", key: write(n)}).encode() for n in numbers], extension="json")
    assert class_of_sample(tmp_path) == {i: str(number) for i, number in enumerate(numbers)}
    assert list_splits(tmp_path)["train"].classes == tuple(map(str, range(11)))


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_names_of_classes_are_labels_too(tmp_path, extension):
    names = ["Übung", "red cat", "red cat", "dog"]
    write_labels(
        tmp_path,
        [name.encode() + b"\n" if extension == "cls" else json.dumps({"label": name}).encode() for name in names],
        extension=extension,
    )
    assert list_splits(tmp_path)["train"].classes == ("dog", "red cat", "Übung")
    assert class_of_sample(tmp_path) == dict(enumerate(names))


@pytest.mark.parametrize("kind", ["<i1", "<u1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "<f4"])
@pytest.mark.parametrize("order", [1, -1])
def test_binary_numbers_are_refused_by_the_first_that_is_no_text(tmp_path, kind, order):
    write_labels(tmp_path, [np.array(number, kind).tobytes() for number in range(100)][::order])
    with pytest.raises(SourceError, match=r"the label in '00\d\d.cls' is (\d bytes that are no text|'\[')"):
        list_splits(tmp_path)


@pytest.mark.parametrize("number", [9, 10, 11, 13, 32])
def test_bytes_that_python_takes_for_blanks_are_no_blanks(tmp_path, number):
    write_labels(tmp_path, [np.array(number, "<i2").tobytes()])
    with pytest.raises(SourceError, match="2 bytes that are no text"):
        list_splits(tmp_path)


@pytest.mark.parametrize("label", [b"7\x0b", b"\x0c7", b"\x1c7", b"cat\x1f", b"7\0"])
def test_control_characters_beside_a_label_are_not_taken_away(tmp_path, label):
    write_labels(tmp_path, [b"7", label])
    with pytest.raises(SourceError, match=r"'0001.cls' is \d bytes that are no text"):
        list_splits(tmp_path)


REFUSED = {
    "list": b"[3]", "text list": b'["cat"]', "negative": b"-1", "fraction": b"3.5", "nan": b"nan", "inf": b"inf",
    "huge": b"1e300", "object": b"{}", "None": b"None", "null": b"null", "two lines": b"cat\ndog",
    "npy": b"\x93NUMPY\x01\0v\0", "pickle": b"\x80\x04K\x03.", "utf-16": "cat".encode("utf-16"), "latin-1": b"caf\xe9",
}  # fmt: skip


@pytest.mark.parametrize("label", REFUSED.values(), ids=REFUSED)
def test_a_cls_that_is_no_number_and_no_word_is_refused_in_one_line(tmp_path, label):
    write_labels(tmp_path, [b"0", label])
    with pytest.raises(SourceError, match=r"the label in '0001.cls' is .*expected a whole number") as error:
        list_splits(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["[3]", "[]", '{"id": 3}', "true", "false", "null", "NaN", "Infinity", "-1", "2.5"])
def test_a_json_value_that_is_no_number_and_no_word_is_refused_in_one_line(tmp_path, value):
    write_labels(tmp_path, [b'{"label": 0}', f'{{"label": {value}}}'.encode()], extension="json")
    with pytest.raises(SourceError, match=r"the label in '0001.json' .*expected a whole number"):
        list_splits(tmp_path)


def test_json_that_names_the_label_in_two_fields_is_refused(tmp_path):
    write_labels(tmp_path, [b'{"target": 3, "category": "cat"}'], extension="json")
    with pytest.raises(SourceError, match="may be any of 'target', 'category'"):
        list_splits(tmp_path)
    write_labels(tmp_path, [b'{"target": 3, "category": "cat", "label": 1}'], extension="json")
    assert class_of_sample(tmp_path) == {0: "1"}


@pytest.mark.parametrize("labels", [[b"0", b"cat"], [b"cat", b"0"]])
def test_numbers_and_words_in_one_set_are_refused(tmp_path, labels):
    write_labels(tmp_path, labels)
    with pytest.raises(SourceError, match=r"write all\s+labels|all labels"):
        list_splits(tmp_path)


def test_text_beside_an_image_is_no_label(tmp_path):
    write_labels(tmp_path, [b'{"caption": "a cat", "width": 3}'], extension="json")
    with pytest.raises(SourceError, match=r"no sample has an image and a label; .*fields caption, width"):
        list_splits(tmp_path)


def shuffled(members, how):
    if how == "images first":
        return sorted(members, key=lambda member: member[0].endswith(".cls"))
    if how == "labels first":
        return sorted(members, key=lambda member: member[0].endswith(".jpg"))
    if how == "half":
        return members[:40] + shuffled(members[40:], "images first")
    return random.Random(how).sample(members, len(members))


@pytest.mark.parametrize("folder", ["", "./", "a/b/"])
@pytest.mark.parametrize("how", ["images first", "labels first", "half", 1, 2])
def test_a_sample_is_whole_wherever_in_the_tar_its_members_lie(tmp_path, how, folder):
    whole = [m for i in range(60) for m in ((f"{folder}{i}.jpg", b"x"), (f"{folder}{i}.cls", str(i % 7).encode()))]
    write_tar(tmp_path, shuffled(whole, how))
    assert class_of_sample(tmp_path) == {i: str(i % 7) for i in range(60)}
    assert not list_splits(tmp_path)["train"].excluded


def test_what_is_not_whole_is_counted_and_told(tmp_path):
    members = [(f"{i}.jpg", b"x") for i in range(5)] + [(f"{i}.cls", b"0") for i in (0, 1, 7)]
    write_tar(tmp_path, members)
    train = list_splits(tmp_path)["train"]
    assert len(train) == 2
    assert len(train.excluded) == 4
    assert format_left_out(train.excluded) == [
        "NOTE left out: 3 × sample without a label, the first: train-000.tar/2.jpg",
        "NOTE left out: 1 × sample without an image, the first: train-000.tar/7.cls",
    ]


def test_a_sample_torn_between_two_tars_is_an_error(tmp_path):
    write_tar(tmp_path, [("0.jpg", b"x"), ("0.cls", b"0"), ("1.jpg", b"x")])
    write_tar(tmp_path, [("2.jpg", b"x"), ("2.cls", b"0"), ("1.cls", b"0")], "train-001.tar")
    with pytest.raises(SourceError, match=r"'1' has its image in train-000.tar and its label in train-001.tar"):
        list_splits(tmp_path)


def test_a_mask_before_the_image_is_not_the_image(tmp_path):
    write_tar(tmp_path, [("7.mask.png", b"m"), ("7.png", b"x"), ("7.cls", b"0")])
    train = list_splits(tmp_path)["train"]
    assert train.table.column("path").to_pylist() == [b"train-000.tar/7.png"]
    assert train.excluded == (("train-000.tar/7.mask.png", "second image of a sample"),)


def contents_by_tarfile(path):
    """Name and bytes of every file as ``tar -x`` would leave them: the last member of a name."""
    with tarfile.open(path) as tar:
        return {member.name.removeprefix("./"): tar.extractfile(member).read() for member in tar if member.isreg()}


def contents_by_listing(src, split="train"):
    data = src.read_bytes()
    return {
        entry.path.partition("/")[2].removeprefix("./"): data[entry.offset : entry.offset + entry.size]
        for entry in read_split(detect_source(src).splits[split]).entries
    }


REPLACED = {
    "class folders": [("train/cat/0.jpg", b"old"), ("train/dog/0.jpg", b"x"), ("./train/cat/0.jpg", b"new")],
    "three times": [("a/0.jpg", b"1"), ("b/0.jpg", b"x"), ("a/0.jpg", b"22"), ("b/1.jpg", b"y"), ("a/0.jpg", b"333")],
    "one class": [("n01440764_1.JPEG", b"old"), ("n01440764_2.JPEG", b"x"), ("n01440764_1.JPEG", b"new")],
}


@pytest.mark.parametrize("most_held", [1 << 17, 1])
@pytest.mark.parametrize("members", REPLACED.values(), ids=REPLACED)
def test_the_last_member_of_a_name_counts_as_for_tar(tmp_path, members, most_held, monkeypatch):
    monkeypatch.setattr(walk, "_MAX_HELD_MEMBERS", most_held)
    path = tmp_path / "train.tar"
    path.write_bytes(mini.tar_bytes(members))
    assert contents_by_listing(path) == contents_by_tarfile(path)
    train = list_splits(path)["train"]
    replaced = [path for path, why in train.excluded if why == walk.REPLACED]
    assert len(replaced) + len(train) == len(members)
    assert f"left out: {len(replaced)} × replaced by a later member" in format_left_out(train.excluded)[0]


def test_an_image_and_a_label_that_were_replaced_are_the_last_ones(tmp_path):
    write_tar(tmp_path, [("0.jpg", b"old"), ("0.cls", b"1"), ("1.jpg", b"x"), ("1.cls", b"1")])
    with tarfile.open(tmp_path / "train-000.tar", "a") as tar:
        tar.addfile(*member("0.cls", b"0"))
        tar.addfile(*member("0.jpg", b"new!"))
    assert class_of_sample(tmp_path) == {0: "0", 1: "1"}
    assert contents_by_listing(tmp_path / "train-000.tar")["0.jpg"] == b"new!"
    assert len(list_splits(tmp_path)["train"].excluded) == 2


def member(name, data):
    import io

    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, io.BytesIO(data)


def test_a_hard_link_to_itself_replaces_nothing(tmp_path):
    link = tarfile.TarInfo("cat/0.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "cat/0.jpg"
    members = [("cat/0.jpg", b"x"), ("dog/0.jpg", b"y"), (link, b"")]
    (tmp_path / "train.tar").write_bytes(mini.tar_bytes(members))
    train = list_splits(tmp_path / "train.tar")["train"]
    assert len(train) == 2
    assert format_left_out(train.excluded) == ["NOTE left out: 1 × hard link, the first: train.tar/cat/0.jpg"]


def test_a_replaced_class_archive_is_the_last_one(tmp_path):
    old, new = (mini.tar_bytes([(f"n01440764_{n}.JPEG", b"x")]) for n in (1, 2))
    write_tar(tmp_path, [("n01440764.tar", old), ("n01440764.tar", new)], "ILSVRC2012_img_train.tar")
    train = list_splits(tmp_path)["train"]
    assert train.table.column("key").to_pylist() == ["n01440764_2"]


def test_a_stray_tar_in_the_folder_of_a_class_does_not_make_it_a_webdataset(tmp_path):
    for name in ("cat", "dog"):
        mini.write(tmp_path / name / "0.jpg", mini.jpeg(1))
    write_tar(tmp_path / "cat", [("0.jpg", b"x"), ("0.cls", b"0")], "backup.tar")
    mini.write(tmp_path / "dog" / "meta.parquet", b"PAR1")
    assert list_splits(tmp_path)["train"].classes == ("cat", "dog")


@pytest.mark.parametrize("sidecar", ["json", "txt"])
def test_a_test_split_without_labels_is_left_out_and_named(tmp_path, sidecar):
    write_labels(tmp_path, [b"0", b"1"])
    write_tar(tmp_path, [("0.jpg", b"x"), (f"0.{sidecar}", b"{}")], "test-000.tar")
    assert list(detect_source(tmp_path).splits) == ["train"]
    assert "test-000.tar/0.jpg" in dict(list_splits(tmp_path)["train"].excluded)


def test_labels_in_a_val_split_of_train_that_has_words_are_told_by_name(tmp_path):
    write_tar(tmp_path, [("0.jpg", b"x"), ("0.cls", b"dog"), ("1.jpg", b"x"), ("1.cls", b"cat")])
    write_tar(tmp_path, [("0.jpg", b"x"), ("0.cls", b"dog")], "val-000.tar")
    assert class_of_sample(tmp_path, "val") == {0: "dog"}


# members of a tar; the class of each image that is a sample, by the image's name
DOTTED = {
    "one pair": (["a.0.jpg:1", "a.0.cls"], {"a.0.jpg": "1"}),
    "a pair, and a second image": (["a.0.jpg", "a.1.jpg:1", "a.1.cls"], {"a.1.jpg": "1"}),
    "dates": (["x.2019.jpg:0", "x.2019.cls", "y.2019.jpg:1", "y.2019.cls"], {"x.2019.jpg": "0", "y.2019.jpg": "1"}),
    "a label for the first of several": (["a.v1.jpg:1", "a.v2.jpg", "a.cls"], {"a.v1.jpg": "1"}),
    "a mask with facts of its own": (["a.mask.png", "a.mask.json:[1]", "a.png:1", "a.cls"], {"a.png": "1"}),
    "JSON beside a dotted image": (["a.0.jpg:1", "a.0.json"], {"a.0.jpg": "1"}),
    "capitals": (["a.V.JPG:1", "a.v.CLS"], {"a.V.JPG": "1"}),
}  # fmt: skip


def members_of(words):
    """``NAME:LABEL`` is an image; the labels that follow have its number."""
    label, members = b"", []
    for word in words:
        name, _, value = word.partition(":")
        if name.lower().endswith(".json"):
            members.append((name, value.encode() or b'{"label": ' + label + b"}"))
        elif name.lower().endswith(".cls"):
            members.append((name, label))
        else:
            members.append((name, b"x"))
            label = value.encode() or label
    return members


@pytest.mark.parametrize("name", DOTTED)
def test_a_key_ends_at_the_first_dot_and_its_label_is_beside_the_image(tmp_path, name):
    words, truth = DOTTED[name]
    members = members_of(words)
    whole = [("other.jpg", b"x"), ("other.cls", b"0"), ("more.jpg", b"x"), ("more.cls", b"1")]
    write_tar(tmp_path, [*members, *whole])
    train = list_splits(tmp_path)["train"]
    found = {
        path.decode().partition("/")[2]: train.classes[label]
        for path, label in zip(*(train.table.column(c).to_pylist() for c in ("path", "label")), strict=True)
    }
    assert found == {**truth, "other.jpg": "0", "more.jpg": "1"}


@pytest.mark.parametrize(
    "members",
    [
        ["img.0.jpg:0", "img.0.cls", "img.1.jpg:1", "img.1.cls"],
        ["img.jpg:0", "img.cls", "img.1.jpg:1", "img.1.cls"],
        ["v1.a.jpg:0", "v1.a.json", "v1.b.jpg:1", "v1.b.json"],
        ["img.0.jpg:0", "img.1.jpg", "img.0.cls", "img.1.cls"],
    ],
)
def test_several_samples_of_one_key_are_refused(tmp_path, members):
    write_tar(tmp_path, [*members_of(members), ("other.jpg", b"x"), ("other.cls", b"0")])
    with pytest.raises(SourceError, match=r"each have a label of their own, .* ends at the first dot") as error:
        list_splits(tmp_path)
    assert "\n" not in str(error.value)


def test_the_library_reads_dotted_names_by_the_same_rule(tmp_path):
    library = pytest.importorskip("webdataset.tariterators", reason="webdataset is not installed (extra: dev)")
    assert library.base_plus_ext("d/img.0.jpg") == ("d/img", "0.jpg")
    assert library.base_plus_ext("d/img.0.cls") == ("d/img", "0.cls")


def test_labels_that_look_alike_are_two_classes_and_named(tmp_path):
    write_labels(tmp_path, [b"Cat", b"cat", b"dog"])
    train = list_splits(tmp_path)["train"]
    assert train.classes == ("Cat", "cat", "dog")
    assert any("kept apart: 'Cat', 'cat'; if" in notice for notice in train.notices)


def test_a_test_tar_that_is_left_out_counts_its_images(tmp_path):
    write_labels(tmp_path, [b"0", b"1"])
    write_tar(tmp_path, [(f"{i}.jpg", b"x") for i in range(7)] + [("0.json", b"{}")], "test-000.tar")
    left = dict(list_splits(tmp_path)["train"].excluded)
    assert {path for path in left if path.endswith(".jpg")} == {f"test-000.tar/{i}.jpg" for i in range(7)}


def test_folders_of_a_tar_are_part_of_the_key(tmp_path):
    members = [(f"{name}.{end}", data) for name, label in (("a/0", b"0"), ("b/0", b"1")) for end, data in
               (("jpg", b"x"), ("cls", label))]  # fmt: skip
    for order in (members, [*members[::2], *members[1::2]]):
        write_tar(tmp_path, order)
        train = list_splits(tmp_path)["train"]
        paths, labels = (train.table.column(name).to_pylist() for name in ("path", "label"))
        assert dict(zip(paths, labels, strict=True)) == {b"train-000.tar/a/0.jpg": 0, b"train-000.tar/b/0.jpg": 1}
        assert train.excluded == ()
