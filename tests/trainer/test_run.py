"""The library from images to a score in four calls, which give what the commands give."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import alexstream
from alexstream.commands.main import main
from alexstream.sharding import pack
from alexstream.trainer.distributed import launch
from tests.support import ROOT
from tests.support.opened_files import opened_files

TINY = alexstream.Recipe(width=0.125)


@pytest.fixture(scope="module")
def converted(sample_images, tmp_path_factory):
    """The sample images by one call: the folder, and the manifests that it returned."""
    folder = tmp_path_factory.mktemp("library") / "shards"
    return folder, alexstream.shard(sample_images, str(folder), num_workers=1)


def data_of(folder):
    return alexstream.ShardedData(train=folder / "train", val=folder / "val", batch_size=32)


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """One epoch by one call, in this process."""
    options = alexstream.RunOptions(folder=tmp_path_factory.mktemp("run") / "tiny", epochs=1, recipe=TINY, quiet=True)
    with opened_files() as opened:
        run = alexstream.train(data_of(converted[0]), options, devices=1, device="cpu")
    assert run == options.folder
    manifests = [path.parent.name for path in opened if path.name == "manifest.json"]
    assert sorted(manifests) == ["train", "val"], "a split is read and checked once, not again in each validation"
    return run


def test_shard_returns_the_manifests_of_what_it_made(converted, sample_images):
    folder, manifests = converted
    assert sorted(manifests) == ["train", "val"] and manifests["val"].classes == manifests["train"].classes
    assert sorted(path.name for path in folder.iterdir()) == ["train", "val"]
    for name, manifest in manifests.items():
        report = alexstream.verify(folder / name, num_workers=1, quiet=True)
        assert report.findings == () and report.manifest == manifest
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert alexstream.shard(sample_images, folder) == manifests
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_shard_takes_the_fields_of_a_request_and_shows_progress_if_asked(sample_images, tmp_path, monkeypatch):
    asked, bar = [], pack.progress_bar
    monkeypatch.setattr(pack, "progress_bar", lambda *words, quiet: asked.append(quiet) or bar(*words, quiet=True))
    encode = alexstream.EncodeRecipe(encoding="raw")
    manifests = alexstream.shard(sample_images, tmp_path / "raw", split="val", encode=encode, num_workers=1)
    assert list(manifests) == ["val"] and manifests["val"].encode == encode
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["val"]
    alexstream.shard(sample_images, tmp_path / "asked", split="val", num_workers=1, quiet=False)
    assert asked == [True, False]


def test_a_trained_network_is_that_of_the_command_to_the_byte(trained, trained_run):
    """``trained_run`` is of ``alexstream shard`` for each split and ``alexstream train`` with the same options."""
    mine, other = (sorted(run.glob("checkpoint-*.pt")) for run in (trained, trained_run))
    assert [path.name for path in mine] == [path.name for path in other] and len(mine) == 1
    assert mine[0].read_bytes() == other[0].read_bytes()


def test_evaluate_returns_the_score_that_the_run_had(trained, converted):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [row["validation"] for row in rows if "validation" in row][-1]
    found = alexstream.evaluate(data_of(converted[0]), trained, device="cpu")
    assert (found.score.num_images, found.views, found.weights) == (16, 1, (1.0,))
    assert found.score.loss == pytest.approx(last["loss"], rel=1e-4) and found.score.top1 == last["top1"]
    twice = alexstream.evaluate(data_of(converted[0]), [trained, trained], device="cpu")
    assert twice.weights == (0.5, 0.5) and twice.score.loss == pytest.approx(found.score.loss, rel=1e-6)
    assert alexstream.evaluate(data_of(converted[0]), trained, device="cpu", views=10).views == 10


def test_two_devices_are_two_processes_of_their_own(converted, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "import alexstream\n"
        "print('loaded', flush=True)\n"
        'if __name__ == "__main__":\n'
        "    shards, run = map(Path, sys.argv[1:])\n"
        "    data = alexstream.ShardedData(train=shards / 'train', batch_size=32)\n"
        "    options = alexstream.RunOptions(folder=run, epochs=1, recipe=alexstream.Recipe(width=0.125), quiet=True)\n"
        "    print(alexstream.train(data, options, device='cpu') == run, sorted(os.listdir(run)))\n"
    )
    command = [sys.executable, str(program), str(converted[0]), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loaded") == 3 and "True" in done.stdout and "checkpoint-" in done.stdout


def test_devices_and_data_that_do_not_fit_are_refused_before_there_is_a_folder(converted, tmp_path):
    options = alexstream.RunOptions(folder=tmp_path / "run", epochs=1, recipe=TINY)
    with pytest.raises(alexstream.TrainError, match="received 3, expected 1"):
        alexstream.train(data_of(converted[0]), options, devices=3)
    odd = alexstream.ShardedData(train=converted[0] / "train", batch_size=33)
    with pytest.raises(alexstream.TrainError, match="received 33, expected a multiple of 2"):
        alexstream.train(odd, options, device="cpu")
    assert not options.folder.exists()


@pytest.mark.parametrize(("gpus", "words", "is_told"), [(1, [], True), (1, ["--device", "cpu"], False), (0, [], False)])
def test_a_gpu_that_is_left_idle_is_told(converted, tmp_path, monkeypatch, gpus, words, is_told):
    monkeypatch.setattr(launch, "count_gpus", lambda: gpus)
    monkeypatch.setattr(launch, "run_on_ranks", lambda *_, **__: None)
    asked = ["train", "--data", converted[0], "--run", tmp_path / "run", "--width", 0.125, *words]
    result = CliRunner().invoke(main, list(map(str, asked)))
    assert result.exit_code == 0, result.output
    assert ("note: training on the CPU, as this machine has 1 GPU for --devices 2" in result.stderr) == is_told


def test_ctrl_c_says_how_to_go_on(trained, converted, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run_on_ranks", interrupt)
    options = alexstream.RunOptions(folder=trained, epochs=2, recipe=TINY, resume=True)
    with pytest.raises(KeyboardInterrupt, match=r"is kept: continue with: \S.*? train --resume --run"):
        alexstream.train(data_of(converted[0]), options, devices=1, device="cpu")
