"""How to do it again: the command that a report shows makes the same splits again, wherever it is typed."""

import shlex
import shutil
from dataclasses import replace

import pytest

from alexstream.report import reproduce
from alexstream.sharding.dataset_v1.manifest import list_split_folders, load_manifest
from tests.support.commands import call


def commands_of(folders):
    return reproduce._list_commands(folders, [load_manifest(folder) for folder in folders])


def digests(folder):
    return {one.name: load_manifest(one).digest for one in list_split_folders(folder)}


@pytest.mark.parametrize("options", [(), ("--seed", 7, "--encode", "raw")])
def test_the_command_shown_makes_both_splits_again_and_is_at_home_in_a_good_set(photos, tmp_path, monkeypatch, options):
    monkeypatch.chdir(photos.parent)
    out = tmp_path / "shards"
    assert call("shard", "--src", photos.name, "--out", out, "--quiet", *options).exit_code == 0
    (line,) = commands_of(list_split_folders(out))
    assert line.startswith(f"shard --src 'my photos' --out {out} --seed")
    before = digests(out)
    assert call(*shlex.split(line), "--quiet").exit_code == 0  # inside the set it finds itself, and makes nothing
    assert digests(out) == before and sorted(path.name for path in out.iterdir()) == ["train", "val"]
    shutil.rmtree(out)
    assert call(*shlex.split(line), "--quiet").exit_code == 0
    assert digests(out) == before


def test_a_share_that_was_held_out_is_part_of_the_command(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    out = tmp_path / "shards"
    assert call("shard", "--src", "train", "--out", out, "--val-share", 0.25, "--quiet").exit_code == 0
    (line,) = commands_of(list_split_folders(out))
    assert line == f"shard --src train --out {out} --val-share 0.25 --seed 2012"
    before = digests(out)
    shutil.rmtree(out)
    assert call(*shlex.split(line), "--quiet").exit_code == 0 and digests(out) == before


@pytest.mark.parametrize(("source", "split"), [("my photos", "val"), ("my photos/train", "train")])
def test_one_split_alone_comes_to_where_it_was(photos, tmp_path, monkeypatch, source, split):
    """Of a source with two splits, and of one with a single split, which goes to ``--out`` itself."""
    monkeypatch.chdir(photos.parent)
    alone = source.endswith("train")
    out = tmp_path / "shards" / split if alone else tmp_path / "shards"
    assert call("shard", "--src", source, "--out", out, "--split", split, "--quiet").exit_code == 0
    folder, before = tmp_path / "shards" / split, digests(tmp_path / "shards")
    (line,) = commands_of([folder])
    assert line == f"shard --src {shlex.quote(source.rpartition('/')[2])} --out {out} --split {split} --seed 2012"
    shutil.rmtree(tmp_path / "shards")
    monkeypatch.chdir((photos.parent / source).parent)
    assert call(*shlex.split(line), "--quiet").exit_code == 0 and digests(tmp_path / "shards") == before


def test_splits_that_were_made_apart_have_a_command_each(shards):
    folders = list_split_folders(shards)
    manifests = [load_manifest(folder) for folder in folders]
    manifests[1] = replace(manifests[1], source="others", source_form="one folder per class (val)")
    lines = reproduce._list_commands(folders, manifests)
    assert [line.partition(" --seed")[0] for line in lines] == [
        f"shard --src 'my photos' --out {shards} --split train",
        f"shard --src others --out {shards / 'val'} --split val",
    ]


@pytest.mark.parametrize("notice", ["held out of train: 1e9999 % of", "held out of train: 1.2.3 % of", "-"])
def test_a_notice_that_no_conversion_writes_is_no_share(shards, notice):
    manifest = replace(load_manifest(shards / "val"), notices=(notice,))
    assert reproduce._read_held_out_share(manifest) == ""


def test_the_program_is_named_as_it_was_started(shards):
    folders = list_split_folders(shards)
    code, _ = reproduce._build_data(folders, [load_manifest(folder) for folder in folders], "python -m alexstream")
    assert len(code.lines) == 1 and code.lines[0].startswith("python -m alexstream shard --src ")
