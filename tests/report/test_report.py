"""The report as a user makes it: its rules, its content, what is missing, hostile names, many classes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexstream.pipeline.stream import ShardedData
from alexstream.report import compose
from alexstream.report.subject import ReportRequest, open_subject
from alexstream.sharding.dataset_v1.manifest import Counts, load_manifest, save_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats, save_stats
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.model import AlexNet
from tests.support.commands import call, error_of
from tests.support.report_pages import checked

HOSTILE = ["<script>alert(1)</script>", 'a"onload="x', "$\\frac{1}$", "new\nline", "{{ 7*7 }}", "]]>&amp;", "\x1b[31m"]


def made(folder, out, *words):
    """The page of a report, and what was said."""
    result = call("report", folder, "--out", out, "--quiet", *words)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout and not result.stderr
    return checked(out)


@pytest.fixture(scope="module")
def of_run(trained_run, tmp_path_factory):
    """The report of a run, with its data set."""
    return made(trained_run, tmp_path_factory.mktemp("report") / "run.html", "--neighbours", 2)


@pytest.fixture(scope="module")
def of_data(sample_shards, sample_images, tmp_path_factory):
    """The report of a data set, with its source."""
    return made(sample_shards, tmp_path_factory.mktemp("report") / "data.html", "--src", sample_images)


def test_a_data_set_is_told_with_counts_reasons_and_axes(of_data, sample_shards):
    stats = load_stats(sample_shards / "train", load_manifest(sample_shards / "train"))
    assert of_data.titles(2) == ["The data set", "What augmentation does", "How to do it again"]
    for words in (
        "found 71 = written 67 + quarantined 3 + excluded 1",
        "found 16 = written 16",
        stats.dataset_digest,
        f"{stats.eigenvalues_255[0]:,.2f}",
        f"{stats.eigenvalues_01[2]:.6f}",
        "bullseye/truncated.jpg",
        "not-an-image",
        "checkerboard",
    ):
        assert words in of_data.text, words


def test_refused_files_are_shown_as_far_as_they_can_be(of_data):
    assert [one["alt"] for one in of_data.images].count("decoded part of the file") == 0
    assert "cannot be decoded" in of_data.text and "was not found" not in of_data.text.replace("not-", "")


def test_a_run_is_told_with_curves_and_all_that_came_of_it(of_run, trained_run):
    assert of_run.titles(2) == [
        *("How it was trained", "The network", "The data set", "What augmentation does", "How to do it again")
    ]
    facts = json.loads((trained_run / "run.json").read_text())
    width = checkpoints.load_checkpoint(trained_run).recipe.width
    activations = f"({int(4096 * width):,} activations of the center crop)"
    for words in (
        facts["data"]["train_digest"],
        activations,
        "batch-size = 32",
        "column 1: black",
        "z = −2",
        "torch 2.",
    ):
        assert words in of_run.text, words
    charts = {figure["aria-label"].partition(".")[0] for figure in of_run.figures if "aria-label" in figure}
    assert {"Loss", "Error", "Learning rate by step", "Throughput", "Images by class"} <= charts


def test_the_worst_mistakes_are_those_of_numpy(of_run, trained_run, sample_shards):
    state = checkpoints.load_checkpoint(trained_run)
    data = ShardedData(train=sample_shards / "train", val=sample_shards / "val", batch_size=16)
    (batch,) = data.validation()
    network = AlexNet(state.parameters, Columns(), state.recipe, 0).eval()
    logits = network(batch.images_NCHW).detach().numpy().astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    own, labels = p[np.arange(16), batch.labels_N.numpy()], batch.labels_N.numpy()
    expected = [i for i in np.argsort(own, kind="stable") if p[i].argmax() != labels[i]]
    keys = SampleLookup.from_folder(sample_shards / "val").keys
    told = [re.search(r"predicted .*; sample (\S+)", one["alt"]) for one in of_run.images]
    assert [found[1] for found in told if found] == [keys[i] for i in expected]


def test_nearest_images_can_be_left_out(trained_run, tmp_path):
    page = made(trained_run, tmp_path / "r.html", "--neighbours", 0)
    assert "Nearest training images" not in page.text and "Worst mistakes" in page.text


@pytest.fixture
def moved(trained_run, tmp_path):
    """A copy of the run whose data set is not there any more."""
    folder = tmp_path / "moved"
    shutil.copytree(trained_run, folder)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(re.sub(r"^data = .*$", 'data = "/nowhere/at/all"', text, flags=re.MULTILINE))
    return folder


def test_a_run_without_its_data_set_is_told_all_the_same(moved, tmp_path):
    page = made(moved, tmp_path / "r.html")
    assert page.titles(2) == ["How it was trained", "The network", "The data set", "How to do it again"]
    assert "the data set is missing" in page.text and "/nowhere/at/all" in page.text


def test_a_run_whose_data_set_is_another_now(moved, sample_shards, tmp_path):
    shutil.copytree(sample_shards / "val", tmp_path / "train")
    line = error_of("report", moved, "--data", sample_shards / "val", "--out", tmp_path / "r.html")
    assert "no training split" in line
    assert not (tmp_path / "r.html").exists()


def test_a_run_of_an_older_version_and_one_without_a_checkpoint(moved, sample_shards, tmp_path):
    (moved / "config.toml").unlink()
    page = made(moved, tmp_path / "old.html", "--data", sample_shards, "--neighbours", 0)
    assert "run.json" in page.text and "Accuracy by class" in page.text
    for path in (moved / "latest", *moved.glob("checkpoint-*.pt")):
        path.unlink()
    page = made(moved, tmp_path / "r.html")
    assert page.titles(2) == ["How it was trained", "The data set", "How to do it again"]
    assert "does not say which data set" in page.text


def test_a_resumed_run_and_its_validations(moved, tmp_path):
    path = moved / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for epoch in range(2, 400):
        rows += [{**row, "epoch": epoch, "step": row["step"] + 3 * (epoch - 1)} for row in rows[:4]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 12')
    page = made(moved, tmp_path / "r.html")
    assert "1,197 steps" in page.text and "399 (best)" not in page.text and "1 (best)" in page.text


def test_names_that_want_to_be_code_are_text(tmp_path):
    generator = np.random.default_rng(0)
    for name in HOSTILE:
        for split in ("train", "val"):
            folder = tmp_path / "images" / split / name.replace("/", "\N{FRACTION SLASH}")
            folder.mkdir(parents=True)
            image = Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8))
            image.save(folder / "a.png")
            image.save(folder / "b.png")
        (folder / "<img src=x onerror=y>\n.jpg").write_bytes(b"")
    for split in ("train", "val"):
        list(shard_all(ShardRequest(source=tmp_path / "images" / split, folder=tmp_path / split), quiet=True))
    page = made(tmp_path, tmp_path / "r.html", "--src", tmp_path / "images")
    for shown in ("<script>alert(1)<\N{FRACTION SLASH}script>", r"new\nline", "{{ 7*7 }}", "$\\frac{1}$", r"\x1b[31m"):
        assert shown in page.text, shown
    assert r"<img src=x onerror=y>\n.jpg" in page.text and "<script" not in page.html and "<img src=x" not in page.html


def test_a_thousand_classes_stay_small(sample_shards, tmp_path):
    train = tmp_path / "train"
    shutil.copytree(sample_shards / "train", train)
    manifest = load_manifest(train)
    stats = load_stats(train, manifest)
    mean = load_mean_image(train, stats)
    some = Counts(found=1300, written=1300, quarantined=0, excluded=0)
    classes = tuple(f"n{i:08d}" for i in range(1000))
    many = replace(manifest, classes=classes, counts_by_class=dict.fromkeys(classes, some))
    save_manifest(train, many)
    save_stats(train, replace(stats, dataset_digest=many.digest), mean)
    page = made(tmp_path, tmp_path / "r.html")
    assert "1,000 classes" in page.text and "n00000999" in page.text
    assert len(page.html) < 1_000_000


def test_verify_still_finds_nothing_after_a_report(sample_shards, tmp_path):
    shutil.copytree(sample_shards, tmp_path / "set")
    for folder, place in (("set", "set/report.html"), ("set/val", "set/val-report.html")):
        result = call("report", tmp_path / folder, "--quiet")
        assert result.exit_code == 0 and (tmp_path / place).is_file(), result.output
    assert call("verify", tmp_path / "set", "--fast", "--quiet").exit_code == 0


def test_a_data_set_in_a_bucket_is_told(sample_images, s3_folder, tmp_path):
    assert call("shard", "--src", sample_images, "--out", s3_folder, "--quiet").exit_code == 0
    page = made(s3_folder, tmp_path / "r.html", "--cache", tmp_path / "cache")
    assert page.titles(2) == ["The data set", "What augmentation does", "How to do it again"]


def test_what_cannot_be_reported_is_one_line(sample_shards, tmp_path):
    assert "neither a data set nor a run" in error_of("report", tmp_path)
    assert "does not exist" in error_of("report", tmp_path / "nowhere")
    assert "is a split" in error_of("report", sample_shards, "--out", sample_shards / "train" / "r.html")
    assert "a folder that exists" in error_of("report", sample_shards, "--out", tmp_path / "no" / "r.html")


def test_a_split_without_a_training_split_is_told(sample_shards, tmp_path):
    page = made(sample_shards / "val", tmp_path / "val.html")
    assert page.titles(2) == ["The data set", "How to do it again"]


def test_pictures_outside_the_source_are_not_read(sample_images, tmp_path):
    from alexstream.report.refused import build_refused_table

    shutil.copy(next((sample_images / "val" / "disc").iterdir()), tmp_path / "secret.jpg")
    (tmp_path / "source").mkdir()
    shutil.copy(tmp_path / "secret.jpg", tmp_path / "source" / "known.jpg")
    (tmp_path / "source" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    paths = ("known.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "nul\0.jpg", "")
    rows = [{"path": path, "outcome": "quarantined", "reason": "r", "split": "train"} for path in paths]
    (table,) = build_refused_table(rows, len(rows), {"train": [tmp_path / "source"]})
    assert [isinstance(row[3], str) for row in table.rows] == [False, True, True, True, True, True]


def test_sections_are_made_without_a_command(sample_shards):
    assert [one.name for one in compose.build_sections(open_subject(ReportRequest(folder=sample_shards)))] == [
        *("data", "augmentation", "again")
    ]


def test_a_full_device_is_the_reason_why_there_is_no_report(sample_shards, tmp_path):
    if not Path("/dev/full").is_char_device():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "page.html").symlink_to("/dev/full")
    line = error_of("report", sample_shards / "val", "--out", tmp_path / "page.html")
    assert "page.html: No space left on device; make room, or name another file as --out" in line and "kept" not in line
