"""Who may write into a folder: one plan at a time, and nobody where other things lie. Nothing is changed on refusal."""

import fcntl
import os

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import OutputError
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.output import check_output_apart, check_parent_of_splits, clear_leftovers, open_output_folder
from alexstream.sharding.pack import shard
from tests.support.comparisons import file_hashes
from tests.support.small_dataset import Small, canonical

PLAN = "0123"
CONTENT = {"schema": "alexstream-dataset/1", "rules": 2, "split": "train", "plan": PLAN}


def holds(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def claim(folder, plan=PLAN, split="train"):
    with open_output_folder(folder, plan, split) as manifest:
        return manifest


def test_a_new_folder_and_those_above_it_are_made_and_hold_the_plan(tmp_path):
    folder = tmp_path / "a" / "b"
    assert claim(folder) is None
    assert holds(folder) == {"plan.json": canonical(CONTENT)}
    assert claim(folder) is None, "the same plan goes on"


def test_another_plan_is_refused(tmp_path):
    claim(tmp_path / "out")
    before = holds(tmp_path / "out")
    with pytest.raises(OutputError, match="holds an unfinished conversion of another source, seed or recipe"):
        claim(tmp_path / "out", "4567")
    assert holds(tmp_path / "out") == before


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"plan": 5, "rules": 2}', b'{"plan": "0124", "rules": 2}']
)
def test_a_plan_that_cannot_be_read_is_another_one(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text)
    with pytest.raises(OutputError, match="another source, seed or recipe"):
        claim(tmp_path)
    assert holds(tmp_path) == {"plan.json": text}


@pytest.mark.parametrize("rules", [{}, {"rules": 1}, {"rules": 3}])
def test_an_unfinished_conversion_by_other_rules_is_refused_and_named(tmp_path, rules):
    text = canonical({"plan": PLAN, **rules})
    (tmp_path / "plan.json").write_bytes(text)
    with pytest.raises(OutputError, match="unfinished conversion of another version of alexstream"):
        claim(tmp_path)
    assert holds(tmp_path) == {"plan.json": text}


@pytest.mark.parametrize("name", ["photo.jpg", "train-000000.tar", "train-000000.part", ".hidden"])
def test_a_folder_with_files_of_others_is_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "plan.json.0123abcd.tmp").write_bytes(b"x")
    with pytest.raises(OutputError, match="is not empty and is not a data set of alexstream"):
        claim(tmp_path)
    assert set(holds(tmp_path)) == {name, "plan.json.0123abcd.tmp"}


# Each differs in one point from a name that a conversion makes.
NOT_OURS = ["work.tmp", "notes.part", "plan.json.tmp", "plan.json.old.tmp", "plan.json.0123ABCD.tmp", "x.0123abcd.tmp"]
NOT_OURS += [
    "train-000000.tar.0123abcde.tmp",
    "train-00000.part",
    "train-000000.parts",
    "TRAIN-000000.part",
    "xplan.json",
]


@pytest.mark.parametrize("name", NOT_OURS)
def test_files_whose_names_no_conversion_makes_are_kept(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="is not empty"):
        claim(tmp_path)
    assert holds(tmp_path) == {name: b"mine"}
    (tmp_path / "out").mkdir()
    claim(tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"mine")  # put there while the conversion goes on
    claim(tmp_path / "out")
    clear_leftovers(tmp_path / "out")
    assert holds(tmp_path / "out") == {name: b"mine"}
    Small(tmp_path / "whole")
    (tmp_path / "whole" / name).write_bytes(b"mine")
    claim(tmp_path / "whole", "p")
    assert (tmp_path / "whole" / name).read_bytes() == b"mine"


OURS = ["plan.json", "manifest.json", "stats.json", "mean.npy", "classes.json", "quarantine.jsonl", "README.md"]
OURS += [
    "_info.json",
    "train.json",
    "val.json",
    "test.json",
    "train-000000.tar",
    "train-1234567.idx",
    "val-000001.part",
]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("ending", ["0123abcd.tmp", "4194304.tmp"])
def test_every_half_written_file_of_a_conversion_is_cleared(tmp_path, name, ending):
    (tmp_path / f"{name}.{ending}").write_bytes(b"x")
    claim(tmp_path)
    assert set(holds(tmp_path)) == {"plan.json"}


def test_half_written_files_are_cleared_and_parts_are_kept(tmp_path):
    claim(tmp_path)
    for name in ("train-000000.tar.9.tmp", "train-000000.part", "train-000000.tar"):
        (tmp_path / name).write_bytes(b"x")
    claim(tmp_path)
    assert set(holds(tmp_path)) == {"plan.json", "train-000000.part", "train-000000.tar"}
    clear_leftovers(tmp_path)
    assert set(holds(tmp_path)) == {"train-000000.tar"}


def test_a_finished_folder_of_this_plan_is_given_back(tmp_path):
    Small(tmp_path / "out")
    (tmp_path / "out" / "train-000000.part").write_bytes(b"x")
    manifest = claim(tmp_path / "out", "p")  # the plan that ``Small`` names
    assert manifest == load_manifest(tmp_path / "out")
    assert not (tmp_path / "out" / "train-000000.part").exists() and not (tmp_path / "out" / "plan.json").exists()


def test_a_finished_folder_of_another_plan_is_refused(tmp_path):
    Small(tmp_path / "out")
    before = holds(tmp_path / "out")
    with pytest.raises(
        OutputError, match=r"holds another data set \(6 train samples of 'source', digest [0-9a-f]{12}…"
    ):
        claim(tmp_path / "out", "q")
    assert holds(tmp_path / "out") == before


@pytest.mark.parametrize(("change", "found"), [(lambda p: p.unlink(), "is missing"), (
    lambda p: os.truncate(p, p.stat().st_size - 1), r"has \d+ bytes, expected \d+ bytes")])  # fmt: skip
@pytest.mark.parametrize("shard", [0, 1])
def test_a_finished_folder_without_a_whole_shard_is_an_error(tmp_path, change, found, shard):
    Small(tmp_path / "out")
    change(tmp_path / "out" / f"train-{shard:06d}.tar")
    with pytest.raises(OutputError, match=rf"train-{shard:06d}\.tar {found}"):
        claim(tmp_path / "out", "p")


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path):
    with (
        open_output_folder(tmp_path / "out", PLAN, "train"),
        pytest.raises(OutputError, match="is in use by another conversion"),
    ):
        claim(tmp_path / "out")
    claim(tmp_path / "out")
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_conversion_that_fails_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), open_output_folder(tmp_path / "out", PLAN, "train"):
        _ = 1 / 0
    claim(tmp_path / "out")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(OutputError, match="is a file; give a folder"):
        claim(tmp_path / "out")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("photos", "is the source"), ("photos/../photos", "is the source"), ("linked", "is the source"),
        ("photos/shards", "lies inside the source"), ("linked/a/b", "lies inside the source"),
        (".", "contains the source"), ("above", "contains the source"),
    ],
)  # fmt: skip
def test_an_output_folder_apart_from_the_source_is_demanded(tmp_path, out, said):
    (tmp_path / "photos").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "above").symlink_to(tmp_path)
    with pytest.raises(OutputError, match=said):
        check_output_apart(tmp_path / "photos", tmp_path / out)


@pytest.mark.parametrize("out", ["photos-shards", "photo", "photos.tar", "other/photos"])
def test_a_folder_beside_the_source_is_apart(tmp_path, out):
    (tmp_path / "photos").mkdir()
    check_output_apart(tmp_path / "photos", tmp_path / out)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_splits_do_not_go_into_the_folder_of_a_data_set(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match="holds a data set of one split"):
        check_parent_of_splits(tmp_path)


def test_the_folder_of_splits_is_new_empty_or_ours(tmp_path):
    check_parent_of_splits(tmp_path / "new")
    check_parent_of_splits(tmp_path)
    (tmp_path / "train").mkdir()
    check_parent_of_splits(tmp_path)
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(OutputError, match="is not empty and is not a data set of alexstream"):
        check_parent_of_splits(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "plan.json").touch()  # begun before; reports and runs may have come since
    check_parent_of_splits(tmp_path)


def test_a_link_that_leads_nowhere_is_told_as_one(tmp_path):
    (tmp_path / "dang").symlink_to(tmp_path / "nothing")
    match = "dang is a link that leads nowhere; make its target"
    for folder in (tmp_path / "dang", tmp_path / "dang" / "train"):
        with pytest.raises(OutputError, match=match), open_output_folder(folder, "d", "train"):
            raise AssertionError
    assert not (tmp_path / "nothing").exists()


def test_a_source_of_one_split_into_a_set_of_several_is_told_what_is_there(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    shard(tmp_path / "photos", tmp_path / "out", val_share=0.25, num_workers=1)
    before = file_hashes(tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds a data set of several splits \(train, val\), .* as `val_share`$"):
        shard(tmp_path / "photos", tmp_path / "out", num_workers=1)
    assert file_hashes(tmp_path / "out") == before
