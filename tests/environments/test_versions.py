"""Data sets, checkpoints, runs and caches of another version: named as such, never called damaged, never changed."""

import fcntl
import hashlib
import io
import json
import os
import shutil

import pytest
import torch
from click.testing import CliRunner

from alexstream.commands.main import main
from alexstream.core.errors import AlexstreamError, DatasetError
from alexstream.pipeline.cache.cache import ShardCache
from alexstream.pipeline.errors import StreamError
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import make_checksum_comment
from alexstream.trainer.errors import CheckpointError
from alexstream.trainer.recipe import Recipe

NEWER = "made by a newer alexstream .*upgrade alexstream"
OLDER = "made by an older alexstream, .*"


def rewrite(path, change, *, checksum=True):
    """Change a manifest or statistics as another version would have written them: with a checksum that is right."""
    value = json.loads(path.read_bytes())
    del value["checksum"]
    change(value)
    if checksum:
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        value["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def shards(sample_shards, tmp_path):
    return shutil.copytree(sample_shards, tmp_path / "shards")


def said(*words):
    """What a command says on standard error, which must be one line, and its exit code must be 1."""
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    return result.stderr


CHANGES = {
    "schema": (lambda value: value.update(schema="alexstream-dataset/2"), NEWER),
    "large schema": (lambda value: value.update(schema="alexstream-dataset/17", shards="elsewhere"), NEWER),
    "new field": (lambda value: value.update(colours="all"), NEWER + "|colours is not a known field"),
    "new field inside": (lambda value: value["encode"].update(gamma=1.0), NEWER),
    "no source_form": (lambda value: value.pop("source_form"), OLDER + "source_form is missing"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_data_set_of_another_version_is_named_by_every_command(shards, change):
    act, expected = CHANGES[change]
    rewrite(shards / "train" / "manifest.json", act)
    with pytest.raises(DatasetError, match=expected):
        load_manifest(shards / "train")
    for words in (("verify", shards), ("info", shards / "train"), ("stats", shards)):
        told = said(*words)
        assert "made by a" in told and "NOT INTACT" not in told and "not intact" not in told and "restore" not in told


def test_a_data_set_from_before_there_were_checksums_is_old_and_not_damaged(shards):
    rewrite(shards / "train" / "manifest.json", lambda value: value.pop("source_form"), checksum=False)
    told = said("verify", shards / "train")
    assert "made by an older alexstream" in told and "no checksum" in told and "shard the source again" in told


def test_statistics_of_another_version_are_named(shards):
    rewrite(shards / "train" / "stats.json", lambda value: value.update(schema="alexstream-dataset/3"))
    assert "made by a newer alexstream" in said("stats", shards / "train")


def test_what_is_no_schema_is_no_newer_version(shards):
    for schema in ("alexstream-dataset/01", "alexstream-dataset/2x", "alexstream-checkpoint/2", "/2", 2, None, ["x"]):
        rewrite(shards / "train" / "manifest.json", lambda value, schema=schema: value.update(schema=schema))
        with pytest.raises(DatasetError, match="expected 'alexstream-dataset/1'"):
            load_manifest(shards / "train")


def saved(folder, number=3, **changes):
    """A sealed checkpoint as another version would write it."""
    parameters, velocity = ({"fc8.bias": torch.zeros(2)} for _ in range(2))
    facts = {"train_digest": "0" * 64, "augmentation": "paper", "order": "global", "seed": 1, "batch_size": 4}
    state = {"schema": checkpoints.SCHEMA, "step": number, "errors": [0.5], "recipe": {"name": "paper"}}
    state |= {"data": {**facts, "classes": ["a", "b"]}, "parameters": parameters, "velocity": velocity, **changes}
    buffer = io.BytesIO()
    torch.save({name: value for name, value in state.items() if value is not None}, buffer)
    comment = make_checksum_comment(buffer)
    path = folder / f"checkpoint-{number:08d}.pt"
    path.write_bytes(buffer.getvalue() + comment)
    (folder / "latest").write_text(f"{path.name}\n")
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": "alexstream-checkpoint/3"}, NEWER),
        ({"schema": "alexstream-checkpoint/40", "step": "three"}, NEWER),
        ({"momentum": 0.9}, NEWER),
        ({"recipe": {"name": "paper", "sharpness": 2}}, NEWER),
        ({"errors": None}, OLDER + "errors is missing"),
    ],
)
def test_a_checkpoint_of_another_version_is_named(tmp_path, changes, expected):
    assert checkpoints.load_checkpoint(saved(tmp_path)).recipe == Recipe(name="paper")
    path = saved(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=expected):
        checkpoints.load_checkpoint(path)


def test_a_run_does_not_go_back_to_a_checkpoint_before_that_of_a_newer_version(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 2, schema="alexstream-checkpoint/3")
    with pytest.raises(CheckpointError, match="00000002.pt: " + NEWER):
        checkpoints.restore_checkpoint(tmp_path)


def test_a_run_of_a_newer_version_is_left_as_it_is(sample_shards, trained_run, tmp_path):
    folder = shutil.copytree(trained_run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    assert record["schema"] == "alexstream-run/1"
    (folder / "run.json").write_text(json.dumps({**record, "schema": "alexstream-run/2"}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ["train", "--data", sample_shards, "--run", folder, "--resume", "--epochs", 2, "--width", 0.125]
    assert "made by a newer alexstream" in said(*words, "--batch-size", 32, "--devices", 1, "--device", "cpu")
    assert "made by a newer alexstream" in said("report", folder, "--out", tmp_path / "r.html")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_from_before_there_was_a_schema_goes_on(sample_shards, trained_run, tmp_path):
    folder = shutil.copytree(trained_run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    del record["schema"]
    (folder / "run.json").write_text(json.dumps(record))
    words = ["train", "--data", sample_shards, "--run", folder, "--resume", "--epochs", 1, "--width", 0.125]
    words += ["--batch-size", 32, "--devices", 1, "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("text", ['{"use": [], "soon": [], "writing": [], "shared": ["x"]}', '{"use": 3}', "\0\0{"])
def test_a_cache_that_another_version_is_using_is_named(tmp_path, text):
    lease = tmp_path / "tmpother_00.lease"
    lease.write_text(text)
    with open(lease, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as long as its process lives
        with pytest.raises(StreamError, match=r"another version of alexstream .*tmpother_00\.lease.*`cache`"):
            ShardCache(tmp_path, 1 << 20)
    ShardCache(tmp_path, 1 << 20).close()
    assert not lease.exists()
    assert issubclass(StreamError, AlexstreamError) and os.listdir(tmp_path) == ["alexstream.lock"]
