"""Evaluation against the same by hand: means of softmax over views and checkpoints, ties, classes, fitted weights."""

import csv
import math
import resource
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from alexstream.core.errors import OutputError
from alexstream.pipeline.batch import Batch
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.evaluation.evaluate import (
    Assessment,
    Score,
    ScoreCounter,
    Totals,
    WeightFit,
    WeightFitData,
    assess,
    evaluate_model,
)
from alexstream.trainer.evaluation.predictions import PredictionsFile
from alexstream.trainer.evaluation.scoring import compute_log_probabilities, compute_topk_credit, select_top_classes
from tests.support.logit_images import FACTS, SpokenData, checkpoint, readers, softmax, spoken

CPU = torch.device("cpu")


def by_hand(data, factors, views, weights=None):
    """Mean probabilities (N, K) in NumPy."""
    shown = data.logits_NVK if views == 10 else data.logits_NVK[:, 4:5]
    each = np.stack([softmax(factor * shown).mean(axis=1) for factor in factors])
    return np.average(each, axis=0, weights=weights)


def measures(p_NK, labels_N):
    own = p_NK[np.arange(len(labels_N)), labels_N]
    place = (p_NK > own[:, None]).sum(axis=1)
    return -np.log(own).mean(), (place < 1).mean(), (place < 5).mean()


def expected(score):
    return pytest.approx((score.loss, score.top1, score.top5), rel=1e-12)


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("factors", [(1.0,), (1.0, -0.5, 2.0)])
def test_all_measures_are_those_of_the_mean_of_softmax_over_views_and_checkpoints(views, factors):
    data = spoken()
    found = assess(data, readers(*factors), CPU, views=views, quiet=True)
    assert measures(by_hand(data, factors, views), data.labels_N) == expected(found.score)
    assert found.score.num_images == 11 and found.weights == (1 / len(factors),) * len(factors)


def test_the_mean_of_probabilities_is_not_the_mean_of_logits():
    """Two networks, each sure of another class, and a third class that neither excludes."""
    logits = np.array([[8.0, 0.0, 4.5], [0.0, 8.0, 4.5]])
    models = [lambda images, i=i: torch.from_numpy(logits[i : i + 1]) for i in (0, 1)]
    p = compute_log_probabilities(models, torch.zeros(1, 3, 1, 1)).exp().mean(0)
    assert logits.mean(0).argmax() == 2 and p.argmax() != 2


def test_probabilities_too_small_for_a_number_still_have_a_loss():
    said = compute_log_probabilities([lambda images: torch.tensor([[0.0, -2000.0]])], torch.zeros(1, 2))[0]
    assert said[0, 1] == -2000.0
    both = compute_log_probabilities([lambda images: torch.tensor([[0.0, -2000.0]])], torch.zeros(1, 10, 2))[0]
    assert both[0, 1] == pytest.approx(-2000.0)


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_narrow_type_are_made_probabilities_in_float64(dtype, views):
    logits = (3 * torch.from_numpy(np.random.default_rng(0).standard_normal((5, views, 7)))).to(dtype)
    images = logits[..., None, None] if views == 10 else logits[:, 0, :, None, None]
    said = compute_log_probabilities([lambda images: images[..., 0, 0]], images)[0]
    expected = np.log(softmax(logits.double().numpy()).mean(axis=1))
    assert said.dtype == torch.float64
    assert np.allclose(said, expected, rtol=1e-12, atol=1e-14)


def test_ten_views_go_through_the_network_one_by_one():
    sizes = []

    def model(images):
        sizes.append(tuple(images.shape))
        return torch.zeros(len(images), 2)

    compute_log_probabilities([model], torch.zeros(3, 10, 3, 4, 4))
    assert sizes == [(3, 3, 4, 4)] * 10


def said_of(labels_and_ties, num_classes=7):
    """Log-probabilities (N, K) and labels in which each label is among the first classes, of which so many tie."""
    p = torch.full((len(labels_and_ties), num_classes), 0.01, dtype=torch.float64)
    for row, (label, ties) in zip(p, labels_and_ties, strict=True):
        row[[(label + step) % num_classes for step in range(ties)]] = 0.1
    return p.log(), torch.tensor([label for label, _ in labels_and_ties])


def test_shares_are_exact_whatever_ties():
    """15 images of 50 earn a third each: 5 of 50 is 0.1, which neither float32 nor a sum of thirds gives."""
    tally = ScoreCounter()
    missed = torch.tensor([[0.9, 0.1, *[0.2] * 5]], dtype=torch.float64).log()
    for _ in range(35):
        tally.add(missed, torch.tensor([1]))
    tally.add(*said_of([(n % 7, 3) for n in range(15)]))
    assert tally.score().top1 == 0.1
    assert tally.score().top5 == 0.3  # label 1 comes after the fifth class


def test_one_right_of_ten_is_a_tenth():
    tally = ScoreCounter()
    logits = torch.zeros(10, 7)
    logits[:, 6] = 1.0
    tally.add(compute_log_probabilities([lambda images: logits], logits)[0], torch.tensor([6] + [0] * 9))
    assert tally.score().top1 == 0.1 and tally.by_class()[6].top1 == 1.0 and tally.by_class()[0].top1 == 0.0


@pytest.mark.parametrize("replicas", [2, 3, 5, 40])
def test_any_number_of_replicas_counts_ties_as_one_does(replicas):
    """Expected from fractions: an image earns 1 / ties of top-1, and 5 / ties of top-5 where six or seven tie."""
    images = [(n % 7, 1 + n * n % 7) for n in range(40)]
    top1 = sum(Fraction(1, ties) for _, ties in images) / 40
    top5 = sum(min(Fraction(1), Fraction(5, ties)) for _, ties in images) / 40
    assert top1.denominator > 40, "a round number of images would hide the ties"
    parts = []
    for first in range(replicas):
        tally = ScoreCounter()
        for image in images[first::replicas]:
            tally.add(*said_of([image]))
        parts.append(tally.totals(7))
    together = Totals(
        num_images=sum(part.num_images for part in parts),
        loss=math.fsum(part.loss for part in parts),
        places_2T=sum(part.places_2T for part in parts),
    )
    assert (together.score().top1, together.score().top5) == (float(top1), float(top5))
    assert ScoreCounter().totals(7).places_2T.shape == (2, 8)  # a replica that had nothing but padding


def test_classes_that_tie_share_the_places_they_tie_for():
    said = torch.tensor([[0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64).log()
    earned = [[float(compute_topk_credit(said, torch.tensor([label]), k)) for label in range(7)] for k in (1, 5)]
    assert earned[0] == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 0, 1 / 3])  # three tie for the first place
    assert earned[1] == pytest.approx([1, 0.5, 1, 0.5, 0.5, 0.5, 1])  # four tie for the two places left
    assert sum(earned[1]) == pytest.approx(5)


def test_a_network_that_says_nothing_earns_chance_and_one_that_fails_earns_nothing():
    data = SpokenData(np.zeros((8, 10, 7)), np.arange(8) % 7)
    score = assess(data, readers(1.0), CPU, quiet=True).score
    assert (score.top1, score.top5) == (pytest.approx(1 / 7), pytest.approx(5 / 7))
    broken = assess(SpokenData(np.full((8, 10, 7), np.nan), np.arange(8) % 7), readers(1.0), CPU, quiet=True).score
    assert (broken.top1, broken.top5) == (0, 0) and np.isnan(broken.loss)


def test_of_equally_probable_classes_the_lower_is_named_first():
    classes, _ = select_top_classes(torch.tensor([[0.1, 0.4, 0.1, 0.4]]).log())
    assert classes.tolist() == [[1, 3, 0, 2]]


def test_classes_sum_to_the_total_and_one_without_images_has_no_score():
    data = spoken(23)
    data.labels_N[data.labels_N == 2] = 3
    found = assess(data, readers(1.0, 2.0), CPU, quiet=True)
    assert found.by_class[2] is None
    scored = [score for score in found.by_class if score]
    counts = [score.num_images for score in scored]
    assert sum(counts) == found.score.num_images == 23
    for name in ("loss", "top1", "top5"):
        total = np.dot(counts, [getattr(score, name) for score in scored])
        assert total / 23 == pytest.approx(getattr(found.score, name))
    wrong = by_hand(data, (1.0, 2.0), 1)[data.labels_N == 3].argmax(axis=1) != 3
    assert found.by_class[3].top1 == pytest.approx(1 - wrong.mean())


def test_padding_is_left_out_whatever_it_says():
    data = spoken(5)  # two batches of four, three entries of the second are padding
    data.labels_N[:] = [0, 6, 1, 0, 3]
    alone = evaluate_model(lambda images: images.flatten(1), data.validation(None, None, CPU))
    assert alone.num_images == 5
    assert alone == assess(data, readers(1.0), CPU, quiet=True).score
    with pytest.raises(ValueError, match="no images"):
        padding = Batch(images_NCHW=torch.zeros(1, 2), labels_N=torch.tensor([-1]), ids_N=torch.tensor([-1]))
        evaluate_model(lambda images: images, [padding])


def test_one_as_json_and_as_lines():
    data = spoken()
    found = assess(data, readers(1.0, 2.0), CPU, views=10, quiet=True)
    said = found.to_dict(data.facts(), per_class=True)
    assert [row["class"] for row in said["classes"]] == list(FACTS.classes)
    assert said["views"] == 10 and [row["weight"] for row in said["checkpoints"]] == [0.5, 0.5]
    assert said["loss"] == found.score.loss and "classes" not in found.to_dict(data.facts())
    assert found.to_text().splitlines()[-1].startswith("validation loss")
    assert len(found.to_text(FACTS.classes).splitlines()) == 2 + 7 + 1


def test_what_is_said_to_a_person_and_to_a_program():
    """Two checkpoints of other steps, fitted weights; every number where it belongs."""
    score = Score(num_images=3, loss=1.25, top1=0.5, top5=0.75)
    equal = Score(num_images=3, loss=1.5, top1=0.25, top5=1.0)
    found = Assessment(
        paths=(Path("a"), Path("b")),
        steps=(7, 9),
        weights=(0.125, 0.875),
        views=10,
        score=score,
        by_class=(equal, None),
        fit=WeightFit(num_images=5, loss_equal=2.5, loss_fitted=2.25),
        equal=equal,
    )
    line = "loss 1.2500  top-1 50.00 % (chance 12.5 %)  top-5 75.00 % (chance 62.5 %)  (3 images)"
    assert score.to_text(8) == line
    ten_views = "validation loss 1.2500  top-1 50.00 % (chance 50 %)  top-5 75.00 % (chance 100 %)  (3 images)"
    assert found.to_text(("ant", "bee")).splitlines() == [
        "weight 0.1250  a at step 7",
        "weight 0.8750  b at step 9",
        "weights fitted on 5 other images: loss 2.2500 there (2.5000 with equal weights)",
        f"equal weights: validation {equal.to_text(2)}",
        "ant: loss 1.5000  top-1 25.00 % (chance 50 %)  top-5 100.00 % (chance 100 %)  (3 images)",
        "bee: no images",
        f"{ten_views}, mean of ten views",
    ]
    assert replace(found, views=1, fit=None, equal=None).to_text().splitlines()[2:] == [ten_views]
    facts = replace(FACTS, classes=("ant", "bee"), val_digest="v9")
    assert found.to_dict(facts, per_class=True) == {
        "num_images": 3,
        "loss": 1.25,
        "top1": 0.5,
        "top5": 0.75,
        "views": 10,
        "checkpoints": [{"path": "a", "step": 7, "weight": 0.125}, {"path": "b", "step": 9, "weight": 0.875}],
        "val_digest": "v9",
        "fit": {"num_images": 5, "loss_equal": 2.5, "loss_fitted": 2.25},
        "equal_weights": {"num_images": 3, "loss": 1.5, "top1": 0.25, "top5": 1.0},
        "classes": [
            {"class": "ant", "num_images": 3, "loss": 1.5, "top1": 0.25, "top5": 1.0},
            {"class": "bee", "num_images": 0, "loss": None, "top1": None, "top5": None},
        ],
    }


def test_the_steps_and_paths_are_those_of_the_checkpoints():
    network = readers(1.0, 2.0)
    network = replace(network, states=(checkpoint(), replace(checkpoint(), step=11)))
    found = assess(spoken(), network, CPU, quiet=True)
    assert found.steps == (3, 11) and found.paths == network.paths and found.fit is found.equal is None


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predictions_read_back_are_what_was_scored(tmp_path, ending):
    data, path = spoken(), tmp_path / f"said.{ending}"
    keys = [f"image-{i}" for i in range(11)]
    predictions = PredictionsFile(path, keys, FACTS.classes)
    found = assess(data, readers(1.0, -0.5), CPU, views=10, predictions=predictions, quiet=True)
    predictions.write()
    rows = list(csv.DictReader(path.read_text().splitlines())) if ending == "csv" else pq.read_table(path).to_pylist()
    p = by_hand(data, (1.0, -0.5), 10)
    assert [row["key"] for row in rows] == keys
    assert [int(row["label"]) for row in rows] == data.labels_N.tolist()
    for row, own in zip(rows, p, strict=True):
        order = np.argsort(-own)[:5]
        assert [row[f"class_{place}"] for place in range(1, 6)] == [FACTS.classes[i] for i in order]
        assert [float(row[f"probability_{place}"]) for place in range(1, 6)] == pytest.approx(own[order].tolist())
    assert sum(row["class"] == row["class_1"] for row in rows) / 11 == pytest.approx(found.score.top1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_predictions_file_that_cannot_be(tmp_path):
    with pytest.raises(TrainError, match=r"said\.txt.*\.csv or \.parquet"):
        PredictionsFile(tmp_path / "said.txt", [], [])
    with pytest.raises(TrainError, match="does not exist"):
        PredictionsFile(tmp_path / "nowhere" / "said.csv", [], [])


# What begins with a character of the first line is calculated by a spreadsheet; the second line is left as it is.
LIVE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1+1", "'quoted", "=cmd|' /C calc'!A0", '=HYPERLINK("x";"y")']
DEAD = ["plain", "a=b", "x-1", " =1", "é", "", "a'b"]


def spoken_of(keys, names, path):
    """A file of predictions of one image each, whose label and most probable class both are that of its place."""
    predictions = PredictionsFile(path, keys, names)
    count = len(names)
    ids = torch.arange(count)
    predictions.add(
        Batch(images_NCHW=torch.zeros(count, 3, 1, 1), labels_N=ids, ids_N=ids),
        torch.log_softmax(9 * torch.eye(count, dtype=torch.float64), 1),
    )
    predictions.write()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_names_are_no_live_formulas_in_csv_and_unchanged_in_parquet(tmp_path, ending):
    names, path = [*LIVE, *DEAD], tmp_path / f"said.{ending}"
    spoken_of(names, names, path)
    if ending == "parquet":
        rows = pq.read_table(path).to_pylist()
        assert [row["class"] for row in rows] == [row["class_1"] for row in rows] == names
        return
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column in ("key", "class", "class_1"):
        assert [row[column] for row in rows] == [f"'{name}" for name in LIVE] + DEAD


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_link_for_the_predictions_is_refused_before_the_work_and_their_temporary_name_is_not_guessed(
    tmp_path, ending
):
    path = tmp_path / f"said.{ending}"
    (tmp_path / "victim").write_text("precious")
    path.symlink_to("victim")
    with pytest.raises(OutputError, match=r"is a link to .*victim, which is not followed"):
        PredictionsFile(path, [], [])
    path.unlink()
    (tmp_path / f"said.{ending}.tmp").symlink_to("victim")
    spoken_of(["k"], ["a"], path)
    assert (tmp_path / "victim").read_text() == "precious" and path.is_file() and not path.is_symlink()


def test_weights_are_fitted_on_images_that_are_not_scored(tmp_path):
    data = spoken(40)
    predictions = PredictionsFile(tmp_path / "said.csv", [str(i) for i in range(40)], FACTS.classes)
    found = assess(
        data, readers(1.0, 0.1, -1.0), CPU, fit_on=WeightFitData(share=0.25), predictions=predictions, quiet=True
    )
    predictions.write()
    scored = [int(row["key"]) for row in csv.DictReader((tmp_path / "said.csv").read_text().splitlines())]
    fitted = sorted(set(range(40)) - set(scored))
    assert (found.fit.num_images, found.score.num_images, len(fitted)) == (10, 30, 10)
    own = by_hand(data, (1.0, 0.1, -1.0), 1, found.weights)
    assert measures(own[scored], data.labels_N[scored]) == expected(found.score)
    assert measures(own[fitted], data.labels_N[fitted])[0] == pytest.approx(found.fit.loss_fitted)
    assert measures(by_hand(data, (1.0, 0.1, -1.0), 1)[scored], data.labels_N[scored]) == expected(found.equal)
    assert found.fit.loss_fitted < found.fit.loss_equal
    assert found == assess(data, readers(1.0, 0.1, -1.0), CPU, fit_on=WeightFitData(share=0.25), quiet=True)


@pytest.mark.parametrize(("images", "share", "fitted"), [(11, 0.5, 6), (10, 0.25, 2), (10, 0.06, 1), (10, 0.94, 9)])
def test_a_share_is_rounded_to_whole_images(images, share, fitted):
    """5.5 and 2.5 to the even number."""
    found = assess(spoken(images), readers(1.0, 2.0), CPU, fit_on=WeightFitData(share=share), quiet=True)
    assert (found.fit.num_images, found.score.num_images) == (fitted, images - fitted)


def test_weights_are_fitted_on_a_split_of_its_own():
    data, other = spoken(12, seed=1), spoken(30, seed=2, val_digest="v2")
    found = assess(data, readers(1.0, 0.1), CPU, fit_on=WeightFitData(data=other), quiet=True)
    assert (found.fit.num_images, found.score.num_images) == (30, 12)
    loss = measures(by_hand(other, (1.0, 0.1), 1, found.weights), other.labels_N)[0]
    assert loss == pytest.approx(found.fit.loss_fitted)
    assert "fitted on 30 other images" in found.to_text() and found.to_dict(data.facts())["fit"]["num_images"] == 30


@pytest.mark.parametrize(
    ("factors", "fit_on", "message"),
    [
        ((1.0,), WeightFitData(share=0.5), "one checkpoint"),
        ((1.0, 2.0), WeightFitData(share=0.01), "0 of 11"),
        ((1.0, 2.0), WeightFitData(share=0.99), "11 of 11"),
        ((1.0, 2.0), WeightFitData(data=spoken(0, val_digest="v2")), "received a split without images"),
        ((1.0, 2.0), WeightFitData(data=spoken()), "the one that is scored"),
        ((1.0, 2.0), WeightFitData(data=spoken(val_digest="d1")), "the one that was trained on"),
        ((1.0, np.nan), WeightFitData(share=0.5), "reader1.*NaN"),
    ],
)
def test_what_gives_no_weights_is_refused(factors, fit_on, message):
    with pytest.raises(TrainError, match=message):
        assess(spoken(), readers(*factors), CPU, fit_on=fit_on, quiet=True)


@pytest.mark.parametrize(
    ("facts", "both"),
    [
        ({"classes": tuple("abc")}, "7 names.*3 names"),
        ({"classes": tuple("abcdefx")}, "'g' as number 6.*'x'"),
        ({"augmentation": "original"}, "paper.*original"),
        ({"train_digest": "d2"}, "d1.*d2.*`val`"),
    ],
)
def test_data_that_the_network_was_not_trained_on_is_refused_with_both_values(facts, both):
    data = replace(spoken(), facts_of=replace(FACTS, **facts))
    with pytest.raises(CheckpointError, match=both) as refused:
        assess(data, readers(1.0), CPU, quiet=True)
    assert "\n" not in str(refused.value)


def test_without_a_validation_split_there_is_nothing_to_score():
    with pytest.raises(TrainError, match="no validation split"):
        assess(spoken(0), readers(1.0), CPU, quiet=True)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_predictions_file_is_replaced_whole_or_not_at_all(tmp_path, ending):
    """A limit on the size of files ends the writing on its way, as a full disk does."""
    path, (soft, hard) = tmp_path / f"said.{ending}", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"an older one")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(TrainError, match=r"cannot write .*said"):
            spoken_of(["key"], ["class"], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"an older one" and list(tmp_path.iterdir()) == [path]
    spoken_of(["key"], ["class"], path)
    assert b"an older one" not in path.read_bytes() and list(tmp_path.iterdir()) == [path]
