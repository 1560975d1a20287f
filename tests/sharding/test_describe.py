"""What ``info`` and ``shard --dry-run`` say of a data set, against sums done here."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from PIL import Image

from alexstream.core.errors import DatasetError
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.manifest import find_split, list_split_folders, load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.describe import facts, load_quarantine
from alexstream.sharding.estimate import estimate_conversion
from alexstream.sharding.split_plans import ShardRequest
from tests.support.comparisons import file_hashes
from tests.support.small_dataset import Small


def test_notes_are_counted_one_by_one(tmp_path):
    small = Small(tmp_path / "train")
    small.rows[0][0]["notes"], small.rows[1][1]["notes"] = "gray; turned", "turned"
    small.write()
    assert facts(small.folder)["notes"] == {"turned": 2, "gray": 1}


def test_a_list_of_refused_files_that_is_not_the_manifest_s_is_an_error(tmp_path):
    small = Small(tmp_path / "train")
    row = {"outcome": "excluded", "path": "a", "reason": "system file"}
    (small.folder / layout.QUARANTINE).write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match="sha256 differs from the manifest's; find all damage with"):
        list(load_quarantine(small.folder, load_manifest(small.folder)))
    with pytest.raises(DatasetError, match="sha256 differs"):
        facts(small.folder)


def test_the_estimate_is_the_size_of_the_tar_in_mib(tmp_path):
    """Raw samples have one size: 256 × 256 × 3 bytes, a label of 4, a header of 512 bytes before each, in blocks."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (300, 300), (9, 90, 200)).save(tmp_path / "photos" / name / f"{number}.png")
    before = file_hashes(tmp_path)
    request = ShardRequest(
        source=tmp_path / "photos", folder=tmp_path / "out", num_workers=2, encode=EncodeRecipe(encoding="raw")
    )
    raw = estimate_conversion(request)
    expected = 40 * (512 + 256 * 256 * 3 + 512 + 512) / 2**20
    assert f"  about {expected:,.0f} MiB, " in raw
    assert re.search(r"with 2 workers \(from 40 files drawn by the plan, 0 of them bad\)", raw)
    assert file_hashes(tmp_path) == before


def _make_link(path):
    path.symlink_to("nowhere")


def _make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, _make_link, _make_socket])
def test_a_split_whose_manifest_is_no_file_is_an_error_and_is_not_passed_over(tmp_path, make, monkeypatch):
    """``info`` and ``report`` would have described the other split alone."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    Small(tmp_path / "val")
    (tmp_path / "train").mkdir()
    make(Path("train/manifest.json"))
    for find in (
        list_split_folders,
        lambda folder: find_split(folder, "train"),
        lambda of: find_split(of / "train", "x"),
    ):
        with pytest.raises(DatasetError, match=r"train/manifest\.json is no file, or a link to none"):
            find(tmp_path)
    assert list_split_folders(tmp_path, damaged=True) == [tmp_path / "val"]
    assert find_split(tmp_path, "val") == tmp_path / "val"
