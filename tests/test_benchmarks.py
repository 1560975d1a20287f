"""The benchmarks run, in a tiny mode: their numbers mean nothing here, and none is looked at."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def benchmark(name, out, *options, most=("--most", "4")):
    """Run a benchmark, and return what it wrote."""
    command = [sys.executable, f"benchmarks/{name}.py", "--rounds", "1", *most, "--out", out, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out.read_text()


def test_conversion_compares_ours_with_pillow(sample_images, tmp_path):
    tools = "alexstream-lanczos,pillow-bicubic,decode,encode,verify"
    options = ("--images", sample_images, "--tools", tools, "--seconds", "0.2", "--fidelity", "2", "--copies", "1")
    text = benchmark("conversion", tmp_path / "conversion.md", *options)
    assert "not installed" not in text
    for row in ("| alexstream, Lanczos (default) |", "| Pillow, bicubic |", "| bound |", "`cli.py shard"):
        assert row in text


def test_conversion_says_what_is_not_installed(sample_images, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXSTREAM_PEERS", str(tmp_path))
    options = ("--images", sample_images, "--tools", "pillow-bicubic,img2dataset", "--seconds", "0.2")
    text = benchmark("conversion", tmp_path / "conversion.md", *options, "--fidelity", "0", "--copies", "0")
    assert "img2dataset: not installed: run benchmarks/peers/install.py" in text


def test_quality_compares_encodings(sample_images, tmp_path):
    text = benchmark("quality", tmp_path / "quality.md", "--images", sample_images)
    for row in ("| JPEG 95, 4:2:0 |", "| JPEG 100, 4:4:4 |", "| raw |", "| keep |"):
        assert row in text


def test_opening_measures_both_orders(tmp_path):
    options = ("--samples", "600", "--shards", "3")
    text = benchmark("opening", tmp_path / "opening.md", *options, most=())
    for row in ("## Order: global", "## Order: grouped", "| open, s |", "| stall at a border of epochs, ms |"):
        assert row in text


def test_stream_compares_ours_with_others_and_says_who_is_missing(sample_images, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXSTREAM_PEERS", str(tmp_path))
    options = ("--images", sample_images, "--samples", "128", "--seconds", "0.1", "--tries", "1")
    text = benchmark("stream", tmp_path / "stream.md", *options, "--only", "ours-jpeg", "threads", "ffcv-jpeg")
    for words in ("| alexstream |", "| threads + simplejpeg |", "- jpeg: alexstream ÷ the fastest peer (`threads`): "):
        assert words in text
    assert "FFCV, custom operation (jpeg): not measured: run benchmarks/peers/install.py" in text
    assert "</svg>" in (tmp_path / "stream.svg").read_text()
