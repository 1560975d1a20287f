"""Parts of a report by themselves, from numbers that can be written down: what is in which row, and in which order."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexstream.core import parameters
from alexstream.report import dataset, network, refused, reproduce, training
from alexstream.report.subject import ReportRequest, open_subject
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.statistics import DatasetStats
from alexstream.trainer.evaluation.evaluate import Assessment, Score
from alexstream.trainer.metrics import Metrics, Validation
from alexstream.trainer.verdict import StepTimes

MEAN = (100.0, 120.0, 140.0)
STATS = DatasetStats(
    dataset_digest="0" * 64,
    num_images=1,
    num_pixels=65_536,
    rgb_sums=(1, 2, 3),
    rgb_products=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    mean_rgb_255=MEAN,
    covariance_255=((400.0, 0.0, 0.0), (0.0, 100.0, 0.0), (0.0, 0.0, 900.0)),
    eigenvalues_255=(900.0, 400.0, 100.0),
    eigenvalues_01=(900 / 65_025, 400 / 65_025, 100 / 65_025),
    eigenvectors=((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),  # columns: blue, red, green
    mean_image_sha256="0" * 64,
)


def pixels_of(picture):
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_axes_are_numbered_from_one_with_their_own_eigenpair():
    rows = dataset._build_axis_table(STATS).rows
    assert [row[0] for row in rows] == ["axis 1", "axis 2", "axis 3"]
    assert [row[1] for row in rows] == ["900.00", "400.00", "100.00"]
    assert [row[3] for row in rows] == ["30.00", "20.00", "10.00"]
    assert [row[4:] for row in rows] == [
        ["+0.0000", "+0.0000", "+1.0000"],
        ["+1.0000", "+0.0000", "+0.0000"],
        ["+0.0000", "+1.0000", "+0.0000"],
    ]


def test_each_axis_is_drawn_from_three_deviations_below_the_mean_colour_to_three_above():
    pixels = pixels_of(dataset._draw_axes(STATS))
    for top, axis, spread in ((0, 2, 30), (88, 0, 20), (176, 1, 10)):
        for column, sign in ((0, -1), (-1, 1)):
            colour = np.array(MEAN)
            colour[axis] += sign * 3 * spread
            assert np.array_equal(pixels[top + 40, column], colour.clip(0, 255).astype(int))


def score(top1, num_images=10):
    return Score(num_images=num_images, loss=1.0, top1=top1, top5=1.0)


def test_classes_are_listed_from_the_best_to_the_worst_and_equal_ones_by_label():
    found = Assessment(
        paths=(Path("a"),), steps=(1,), weights=(1.0,), views=1, score=score(0.5),
        by_class=(score(0.2), score(0.9), None, score(0.2), score(0.4)),
    )  # fmt: skip
    ((chart,),) = (block.charts for block in network._build_class_accuracy(found, "abcde", "vwxyz"))
    assert [row[:3] for row in chart.table.rows] == [["b", "1", "w"], ["e", "4", "z"], ["a", "0", "v"], ["d", "3", "y"]]
    assert chart.summary.startswith("From 90.0\N{NO-BREAK SPACE}% (b) down to 20.0\N{NO-BREAK SPACE}% (d)")


@pytest.mark.parametrize(
    ("p", "said"), [(1e-5, "below 0.01 %"), (1e-4, "0.01 %"), (0.00999, "1.00 %"), (0.01, "1.0 %"), (1.0, "100.0 %")]
)
def test_a_probability_is_never_said_to_be_nothing(p, said):
    assert network._format_probability(p) == said.replace(" %", "\N{NO-BREAK SPACE}%")


def run_metrics():
    steps = {name: np.arange(1.0, 6.0) for name in ("step", "epoch", "learning_rate", "elapsed_s", "wait_s")}
    steps |= {"loss": np.array([5.0, 3.0, 2.0, 1.0, 0.0]), "accuracy": np.array([0.1, 0.1, 0.4, 0.6, 0.8])}
    validations = [Validation(step=n, epoch=n, score=score(top1)) for n, top1 in ((1, 0.3), (2, 0.7), (3, 0.5))]
    return Metrics(steps=steps, validations=tuple(validations), step_times=StepTimes())


def test_groups_of_unequal_size_have_the_means_of_their_own_steps():
    groups = training.StepGroups.from_metrics(run_metrics(), most=2)
    assert groups.step_G.tolist() == [2.0, 5.0]
    assert groups.mean("loss").tolist() == [4.0, 1.0]


def test_the_curve_of_errors_is_what_is_not_right():
    loss, error = training._build_curves(run_metrics(), 4)
    assert "training top-1 from 90.0 to 20.0, least 20.0 at step 5" in error.summary
    assert "validation top-1 from 70.0 to 50.0, least 30.0 at step 2" in error.summary
    assert "guessing 75.0 throughout" in error.summary and "guessing 1.386 throughout" in loss.summary  # ln 4
    assert "guessing" not in training._build_curves(run_metrics(), 0)[1].summary  # run.json does not say


def test_one_step_is_no_course():
    metrics = run_metrics()
    first = replace(metrics, steps={name: column[:1] for name, column in metrics.steps.items()}, validations=())
    loss, _ = training._build_curves(first, 2)
    assert loss.summary == "training 5.000 at step 1; guessing 0.693 at step 1 (nats)."


def test_the_best_epoch_is_that_of_the_highest_top1():
    table = training._tabulate_validations(run_metrics().validations, 20)
    assert [row[0] for row in table.rows] == ["1", "2 (best)", "3"]
    assert table.head[3:5] == ["top-1 (chance 5 %)", "top-5 (chance 25 %)"]


def test_of_equal_epochs_the_one_with_the_least_loss_is_best():
    """As while a network guesses; a loss that is no number is the worst."""
    scores = [Score(num_images=10, loss=loss, top1=0.1, top5=0.5) for loss in (np.nan, 2.4, 2.2, 2.3)]
    found = [Validation(step=n, epoch=n, score=score) for n, score in enumerate(scores, 1)]
    rows = training._tabulate_validations(found, 10).rows
    assert [row[0] for row in rows] == ["1", "2", "3 (best)", "4"]


def test_a_network_that_guesses_is_told_of():
    steps = {name: np.arange(1.0, 401.0) for name in ("step", "epoch", "learning_rate", "elapsed_s", "wait_s")}
    steps |= {"loss": np.full(400, np.log(10)), "accuracy": np.full(400, 0.1)}
    metrics = Metrics(steps=steps, validations=(), step_times=StepTimes())
    (note,) = training._build_hint(metrics, 10)
    assert note.text.startswith("After 400 steps the network still guesses") and note.strong
    assert training._build_hint(metrics, 100) == training._build_hint(run_metrics(), 10) == []


@pytest.mark.parametrize(
    ("ordered", "told"),
    [
        ([("a", 0.9), ("b", 0.4), ("c", 0.2)], "From 90.0_% (a) down to 20.0_% (c); median 40.0_% (chance 25 %)."),
        ([("a", 0.5), ("b", 0.5)], "50.0_% in every class (chance 25 %)."),
        ([("a", 1.0)], "100.0_% in every class (chance 25 %)."),
    ],
)
def test_the_accuracy_of_classes_is_no_range_where_it_is_one_number(ordered, told):
    assert network._summarize_accuracy(ordered, 4) == told.replace("_%", "\N{NO-BREAK SPACE}%")


def test_one_image_is_no_images():
    assert [dataset._format_range(*pair) for pair in ((1, 1), (7, 7), (1, 1200))] == [
        *("1 image", "7 images", "1 to 1,200 images")
    ]


def test_a_refused_file_is_read_if_it_is_small_and_within_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(refused, "MAX_FILE_BYTES", 10)
    (tmp_path / "outside").write_bytes(b"secret")
    root = tmp_path / "source"
    root.mkdir()
    (root / "small").write_bytes(b"1" * 10)
    (root / "large").write_bytes(b"1" * 11)
    (root / "link").symlink_to(tmp_path / "outside")
    names = ("small", "large", "link", "../outside", "gone")
    assert [refused._read_source_file(root, name) for name in names] == [b"1" * 10, None, None, None, None]


def test_where_no_refused_file_is_found_the_option_that_names_the_source_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(parameters._names, "source", "--src")
    row = {"path": "a.jpg", "outcome": "quarantined", "reason": "r", "split": "train"}
    _, note = refused.build_refused_table([row], 1, {"train": [tmp_path]})
    assert note.text.endswith("give it with --src.")


def test_a_refused_file_with_too_many_pixels_is_not_decoded():
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    assert refused._decode_thumbnail(buffer.getvalue()) is None


def test_a_run_s_validation_split_is_its_own_unless_another_data_set_is_named(sample_shards, tmp_path):
    (tmp_path / "config.toml").write_text(f'data = "{sample_shards / "train"}"\nval = "{sample_shards / "val"}"\n')
    digests = {f"{split}_digest": load_manifest(sample_shards / split).digest for split in ("train", "val")}
    (tmp_path / "run.json").write_text(json.dumps({"data": digests}))
    assert list(open_subject(ReportRequest(folder=tmp_path)).splits) == [sample_shards / "train", sample_shards / "val"]
    other = open_subject(ReportRequest(folder=tmp_path, data=sample_shards / "train"))
    assert list(other.splits) == [sample_shards / "train"]


def test_a_file_of_the_run_folder_is_on_the_page_only_if_it_is_no_link(tmp_path):
    """The folder is another's and the page goes back to him: a link could lead to any file of the reader's."""
    (tmp_path / "secret").write_text("key = 1")
    (tmp_path / "config.toml").symlink_to(tmp_path / "secret")
    assert reproduce._quote_file(tmp_path / "config.toml") == reproduce._quote_file(tmp_path) == []
    (block,) = reproduce._quote_file(tmp_path / "secret")
    assert block.lines == ["key = 1"]
