"""The benchmarks run, in a tiny mode: their numbers mean nothing here. In the short run most are only loaded."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from alexstream.core.machine import Machine
from alexstream.core.measure import Ratio
from alexstream.pipeline.decode import fused
from tests.support import ROOT


def benchmark(name, out, *options, most=("--most", "4")):
    """Run a benchmark, and return what it wrote."""
    command = [sys.executable, f"benchmarks/{name}.py", "--rounds", "1", *most, "--out", out, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out.read_text()


@pytest.mark.soak
def test_conversion_compares_ours_with_pillow(sample_images, tmp_path):
    tools = "alexstream-lanczos,pillow-bicubic,decode,encode,verify"
    options = ("--images", sample_images, "--tools", tools, "--seconds", "0.2", "--fidelity", "2", "--copies", "1")
    text = benchmark("conversion", tmp_path / "conversion.md", *options)
    assert "not installed" not in text
    for row in ("| alexstream, Lanczos (default) |", "| Pillow, bicubic |", "| bound |", "`cli.py shard"):
        assert row in text


@pytest.mark.soak
def test_conversion_says_what_is_not_installed(sample_images, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXSTREAM_PEERS", str(tmp_path))
    options = ("--images", sample_images, "--tools", "pillow-bicubic,img2dataset", "--seconds", "0.2")
    text = benchmark("conversion", tmp_path / "conversion.md", *options, "--fidelity", "0", "--copies", "0")
    assert "img2dataset: not installed: run benchmarks/peers/install.py" in text


@pytest.mark.soak
def test_versions_compares_a_version_with_itself(sample_images, tmp_path):
    options = ("--before", ROOT, "--images", sample_images, "--blocks", "1", "--seconds", "0.1")
    text = benchmark("versions", tmp_path / "versions.md", *options)
    assert "| CPU |" in text and "| wall |" in text


def test_every_benchmark_can_be_loaded_and_says_what_it_does():
    """What a benchmark takes from the project is there, although only ``make soak`` runs most of them."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    done = subprocess.run([sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and len(names) > 10, done.stderr


def test_quality_compares_encodings(sample_images, tmp_path):
    text = benchmark("quality", tmp_path / "quality.md", "--images", sample_images)
    for row in ("| JPEG 95, 4:2:0 |", "| JPEG 100, 4:4:4 |", "| raw |", "| keep |"):
        assert row in text


@pytest.mark.soak
def test_opening_measures_both_orders(tmp_path):
    options = ("--samples", "600", "--shards", "3")
    text = benchmark("opening", tmp_path / "opening.md", *options, most=())
    for row in ("## Order: global", "## Order: grouped", "| open, s |", "| stall at a border of epochs, ms |"):
        assert row in text


@pytest.mark.soak
def test_operator_threads_compares_two_ways_of_running_it(sample_shards, tmp_path):
    if fused.find_operator_address() is None:
        pytest.skip("fused.c was not compiled here")
    options = ("--data", sample_shards / "train", "--batches", "2", "--warmup", "1", "--batch-size", "8")
    text = benchmark("operator_threads", tmp_path / "threads.md", *options, most=())
    assert "| images/s |" in text and "Both gave the same pixels" in text


@pytest.mark.soak
def test_stream_compares_ours_with_others_and_says_who_is_missing(sample_images, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXSTREAM_PEERS", str(tmp_path))
    options = ("--images", sample_images, "--samples", "128", "--seconds", "0.1", "--tries", "1")
    text = benchmark("stream", tmp_path / "stream.md", *options, "--only", "ours-jpeg", "threads", "ffcv-jpeg")
    for words in ("| alexstream |", "| threads + simplejpeg |", "- jpeg: alexstream ÷ the fastest peer (`threads`): "):
        assert words in text
    assert "FFCV, custom operation (jpeg): not measured: run benchmarks/peers/install.py" in text
    assert "</svg>" in (tmp_path / "stream.svg").read_text()


@pytest.fixture
def check(monkeypatch):
    """``benchmarks/check.py``, whose folder is no package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("check")


def test_a_ratio_may_lose_fifteen_per_cent_and_no_more(check):
    now = {"a": 0.86, "b": 0.84, "c": 3.0, "new": 1.0}
    verdicts = {v.name: v for v in check.compare(now, {"a": 1.0, "b": 1.0, "c": 1.0, "gone": 1.0})}
    assert {name: v.kept for name, v in verdicts.items()} == {
        "a": True,
        "b": False,
        "c": True,
        "gone": False,
        "new": True,
    }
    assert verdicts["b"].row().endswith("1.000     0.840   -16 %  SLOWER")
    assert verdicts["gone"].row().endswith("NOT MEASURED") and "--write" in verdicts["new"].row()


def test_ratios_that_were_written_are_kept_by_the_same_ones_and_lost_by_smaller_ones(check, capsys):
    def all_ratios(value):
        return {name: Ratio.from_rounds([value], [1.0]) for name in check.RATIOS}

    here = Machine.here()
    written = json.loads(check.text_of(all_ratios(2.0), here))
    assert written["machine"] == here.to_text() and written["ratios"]["stream ÷ Pillow"]["median"] == 2.0
    assert check.verdict_of(all_ratios(1.9), here, written)
    assert "SLOWER" not in capsys.readouterr().out
    assert not check.verdict_of(all_ratios(1.6), here, written)
    assert capsys.readouterr().out.count("SLOWER") == len(check.RATIOS)


def test_without_committed_ratios_nothing_is_measured(check, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check.py", "--ratios", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit, match="nothing to compare with; make it with"):
        check.main()


def test_pillows_batches_are_crops_of_the_stored_samples(check, sample_shards):
    samples = check.stored(sample_shards / "val")
    assert len(samples) == 16 and all(sample[:2] == b"\xff\xd8" for sample in samples)
    batch = next(check.pillow_batches(samples, 2))
    assert batch.shape == (check.BATCH, 224, 224, 3) and batch.std() > 0


@pytest.mark.soak
def test_the_whole_set_runs_on_a_cpu_and_keeps_what_fails_as_a_row(sample_images, tmp_path):
    options = ("--images", sample_images, "--device", "cpu", "--batch-sizes", "2", "--precisions", "bf16", "tf32")
    options += ("--steps", "1", "--only", "stream, jpeg", "step, batch 2, tf32, 1", "step, batch 2, bf16, 2")
    options += ("consumer, jpeg",)
    text = benchmark("whole_set", tmp_path / "whole.md", *options, most=())
    for row in ("| stream, jpeg, batch 2, cpu | ", "| step, batch 2, bf16, 2 device(s) | "):
        assert row in text
    assert "% at most up to" in text and "| step, batch 2, tf32, 1 device(s) | FAILED: Error: --precision tf32" in text
    kept = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert len(kept) == text.count("\n| ") - 1
