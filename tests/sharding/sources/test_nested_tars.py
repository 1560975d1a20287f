"""Tars in a tar: each is read as a folder of its name, so that splits and classes follow the rules of folders."""

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.overview import format_left_out
from alexstream.sharding.pack import shard
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import LAST, TAR, make_files, read_classes


def tar_of(tree):
    """Bytes of a tar of ``tree``: name to contents, or to the tree of a tar in it."""
    return mini.tar_bytes([(name, tar_of(one) if isinstance(one, dict) else one) for name, one in tree.items()])


def of_paths(*paths):
    """A tree of tars in which each file contains its path; ``.tar`` at the end of a part makes it a tar."""
    tree = {}
    for path in paths:
        node, rest = tree, path.split("/")
        while any(part.endswith(".tar") for part in rest[:-1]):
            cut = next(depth for depth, part in enumerate(rest) if part.endswith(".tar")) + 1
            node, rest = node.setdefault("/".join(rest[:cut]), {}), rest[cut:]
        node["/".join(rest)] = path.encode()
    return tree


def write(path, *paths):
    mini.write(path, tar_of(of_paths(*paths)))
    return path


def without_first(found):
    return {split: {path.partition("/")[2]: wnid for path, wnid in images.items()} for split, images in found.items()}


# members, and the position in each path of split (None for none) and class
READ = {
    "a tar per split": (
        ["train.tar/ant/1.jpg", "train.tar/bee/2.jpg", "val.tar/ant/3.jpg", "val.tar/bee/4.jpg"], 0, 1,
    ),
    "a tar per split, with its folder": (
        ["train.tar/train/ant/1.jpg", "train.tar/train/bee/2.jpg", "val.tar/val/ant/3.jpg", "val.tar/val/bee/4.jpg"],
        0, 2,
    ),
    "class tars in folders of splits": (
        ["train/ant.tar/1.jpg", "train/bee.tar/2.jpg", "val/ant.tar/3.jpg", "val/bee.tar/4.jpg"], 0, 1,
    ),
    "class tars in a tar per split": (
        ["train.tar/ant.tar/1.jpg", "train.tar/bee.tar/2.jpg", "val.tar/ant.tar/3.jpg", "val.tar/bee.tar/4.jpg"], 0, 1,
    ),
    "a tar per class": (["ant.tar/1.jpg", "bee.tar/2.jpg"], None, 0),
    "a tar per class, with its folder": (["ant.tar/ant/1.jpg", "bee.tar/bee/2.jpg"], None, 0),
    "a tar around class folders": (["photos.tar/ant/1.jpg", "photos.tar/bee/2.jpg"], None, 1),
    "class tars and a class folder": (["n01440764.tar/1.jpg", "n01443537.tar/2.jpg", "n01484850/3.jpg"], None, 0),
    "class tars and class folders": (["ant.tar/1.jpg", "bee/2.jpg", "cow.tar/3.jpg"], None, 0),
    "class folders and, far behind, a class tar": ([*(f"ant/{i}.jpg" for i in range(60)), "bee.tar/1.jpg"], None, 0),
}  # fmt: skip


@pytest.mark.parametrize("in_a_folder", [False, True])
@pytest.mark.parametrize("name", READ)
def test_tars_in_a_tar_are_folders_of_their_name(tmp_path, name, in_a_folder):
    paths, split_at, class_at = READ[name]
    src = write(tmp_path / "set/photos.tar", *paths)
    expected = {}
    for path in paths:
        parts = [part.removesuffix(".tar") for part in path.split("/")]
        split = "train" if split_at is None else parts[split_at]
        expected.setdefault(split, {})[f"photos.tar/{path}"] = parts[class_at]
    assert read_classes(src.parent if in_a_folder else src) == expected


def test_the_bytes_of_an_image_in_two_tars_are_its_own(tmp_path):
    paths = READ["class tars in a tar per split"][0]
    src = write(tmp_path / "set/photos.tar", *paths).parent
    read_back = {}
    for plan in plan_splits(ShardRequest(source=src, folder=tmp_path / "out")):
        rows = plan.listing.table.to_pylist()
        reader = Reader(src)
        read_back |= {r["path"]: reader.read(r["container"].decode(), r["offset"], r["size"]).data for r in rows}
    assert read_back == {f"photos.tar/{path}".encode(): path.encode() for path in paths}


def test_tars_in_a_tar_give_the_shards_of_the_same_folders(tmp_path):
    images = {f"{split}/{wnid}/{i}.jpg": mini.jpeg(i) for split in ("train", "val") for i, wnid in enumerate("ab")}
    for path, data in images.items():
        mini.write(tmp_path / "folders" / path, data)
    inner = [
        (f"{split}.tar", mini.tar_bytes([(p.partition("/")[2], data) for p, data in images.items() if split in p]))
        for split in ("train", "val")
    ]
    mini.write(tmp_path / "all.tar", mini.tar_bytes(inner))
    made = [shard(tmp_path / name, tmp_path / f"out-{name}", num_workers=1) for name in ("folders", "all.tar")]
    assert {split: one.digest for split, one in made[0].items()} == {
        split: one.digest for split, one in made[1].items()
    }


# members, words of the one line, and by option what each reading makes of the images ("" for not read)
ASKED = {
    "the same classes in each": (
        ["a.tar/ant/1.jpg", "a.tar/bee/2.jpg", "b.tar/ant/3.jpg", "b.tar/bee/4.jpg"],
        r"all of a, b hold folders of the same names \(ant, bee\)",
        {1: ["a", "a", "b", "b"], 2: ["ant", "bee", "ant", "bee"]},
    ),
    "class folders and a tar of class folders": (
        ["ant/1.jpg", "bee/2.jpg", "more.tar/ant/3.jpg", "more.tar/bee/4.jpg"],
        r"`classes_at` 1 for 3 classes .*`classes_at` 2 for 2 .*`classes_at` last for 2 .* at any depth",
        {1: ["ant", "bee", "more", "more"], 2: ["", "", "ant", "bee"], LAST: ["ant", "bee", "ant", "bee"]},
    ),
    "one tar": (
        ["ant.tar/1.jpg"],
        "holds only one class, 'ant'; choose: `classes_at` 1",
        {1: ["ant"], TAR: ["photos"]},
    ),
    "a split of which there are two": (
        ["train-0.tar/ant/1.jpg", "train-0.tar/bee/2.jpg", "train-1.tar/ant/3.jpg", "train-1.tar/bee/4.jpg"],
        "train-0, train-1 are all called like the train split",
        {1: ["ant", "bee", "ant", "bee"]},
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_several_readings_of_tars_in_a_tar_are_one_line(tmp_path, name):
    paths, words, readings = ASKED[name]
    src = write(tmp_path / "photos.tar", *paths)
    with pytest.raises(SourceError, match=words) as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    for level, classes in readings.items():
        expected = {f"photos.tar/{path}": wnid for path, wnid in zip(paths, classes, strict=True) if wnid}
        assert read_classes(src, classes_at=level) == {"train": expected}


@pytest.mark.parametrize("beside", ["ant", "train"])
def test_a_tar_beside_the_folder_of_its_name_is_not_chosen_between(tmp_path, beside):
    src = write(tmp_path / "photos.tar", f"{beside}.tar/x/1.jpg", f"{beside}.tar/y/1.jpg", f"{beside}/x/1.jpg")
    with pytest.raises(
        SourceError, match=rf"holds {beside}\.tar and, beside it, a folder {beside}/.*unpack it"
    ) as error:
        read_classes(src)
    assert "\n" not in str(error.value)


def test_webdataset_tars_in_a_tar_are_no_classes(tmp_path):
    samples = {f"{i}.{end}": data for i in (0, 1) for end, data in (("jpg", mini.jpeg(i)), ("cls", b"%d" % i))}
    mini.write(tmp_path / "all.tar", tar_of({"train-0.tar": samples, "train-1.tar": samples}))
    with pytest.raises(
        SourceError, match=r"holds WebDataset tars \(train-0\.tar; 2 such\).*unpack it .*`source`"
    ) as error:
        read_classes(tmp_path / "all.tar")
    assert "\n" not in str(error.value)
    assert {*read_classes(tmp_path / "all.tar", classes_at=1)["train"].values()} == {"train-0", "train-1"}


@pytest.mark.parametrize("data", [b"", b"not a tar at all", b"\x1f\x8b" + bytes(2000)])
def test_what_is_called_tar_in_a_tar_and_is_none_is_named(tmp_path, data):
    mini.write(tmp_path / "all.tar", tar_of({"ant.tar": of_paths("1.jpg"), "bee.tar": data}))
    with pytest.raises(SourceError, match=r"all\.tar/bee\.tar: is not a tar .*unpack the tar around it"):
        read_classes(tmp_path / "all.tar")


def test_a_tar_of_class_tars_named_for_validation_is_no_training_data(tmp_path):
    wnids = ["n01440764.tar/n01440764_1.JPEG", "n01443537.tar/n01443537_1.JPEG"]
    src = write(tmp_path / "set/val.tar", *wnids).parent
    assert read_classes(src) == {"val": {f"val.tar/{path}": path[:9] for path in wnids}}
    write(src / "train.tar", *wnids)
    assert {split: len(images) for split, images in read_classes(src).items()} == {"train": 2, "val": 2}


def test_test_images_in_a_tar_of_a_tar_are_left_out_one_by_one(tmp_path):
    paths = [f"{split}.tar/{wnid}/1.jpg" for split in ("train", "val") for wnid in ("ant", "bee")]
    src = write(tmp_path / "all.tar", *paths, *(f"test.tar/{i}.jpg" for i in range(3)))
    train, _ = plan_splits(ShardRequest(source=src, folder=tmp_path / "out"))
    assert format_left_out(train.listing.excluded) == [
        "NOTE left out: 3 × test images, which have no labels, the first: all.tar/test.tar/0.jpg"
    ]


def test_every_member_of_every_tar_in_a_tar_is_accounted_for(tmp_path):
    paths = ["ant.tar/1.jpg", "ant.tar/deep/2.jpg", "bee.tar/3.jpg", "bee.tar/.DS_Store", "notes.txt", "bee.tar/x.txt"]
    src = write(tmp_path / "all.tar", *paths)
    (plan,) = plan_splits(ShardRequest(source=src, folder=tmp_path / "out"))
    listed = [row["path"].decode() for row in plan.listing.table.to_pylist()]
    assert sorted([*listed, *(path for path, _ in plan.listing.excluded)]) == sorted(f"all.tar/{p}" for p in paths)


def test_a_folder_of_tars_of_tars_keeps_its_splits(tmp_path):
    make_files(tmp_path / "set")
    for split in ("train", "val"):
        write(tmp_path / f"set/{split}.tar", "ant.tar/1.jpg", "bee.tar/2.jpg")
    assert without_first(read_classes(tmp_path / "set")) == {
        split: {"ant.tar/1.jpg": "ant", "bee.tar/2.jpg": "bee"} for split in ("train", "val")
    }


@pytest.mark.parametrize("names", [("ant", "bee"), ("n01440764", "n01443537")])
def test_every_level_may_be_chosen_in_a_tar_of_tars(tmp_path, names):
    paths = [f"{wnid}.tar/{inner}/1.jpg" for wnid in names for inner in ("x", "y")]
    src = write(tmp_path / "photos.tar", *paths)
    for level, place in ((1, 0), (2, 1), (LAST, 1)):
        expected = {f"photos.tar/{path}": path.split("/")[place].removesuffix(".tar") for path in paths}
        assert read_classes(src, classes_at=level) == {"train": expected}
    assert set(read_classes(src, classes_at=TAR)["train"].values()) == {"photos"}
