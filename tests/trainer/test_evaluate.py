"""Evaluation against the same by hand: means of softmax over views and checkpoints, ties, classes, fitted weights."""

import csv
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.batch import Batch
from tests.trainer.spoken import FACTS, SpokenData, readers, softmax, spoken
from trainer.errors import CheckpointError, TrainError
from trainer.evaluate import FitOn, assess, evaluate
from trainer.predictions import Predictions
from trainer.probabilities import credit, first_classes, log_probabilities

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
    p = log_probabilities(models, torch.zeros(1, 3, 1, 1)).exp().mean(0)
    assert logits.mean(0).argmax() == 2 and p.argmax() != 2


def test_probabilities_too_small_for_a_number_still_have_a_loss():
    said = log_probabilities([lambda images: torch.tensor([[0.0, -2000.0]])], torch.zeros(1, 2))[0]
    assert said[0, 1] == -2000.0
    both = log_probabilities([lambda images: torch.tensor([[0.0, -2000.0]])], torch.zeros(1, 10, 2))[0]
    assert both[0, 1] == pytest.approx(-2000.0)


def test_ten_views_go_through_the_network_one_by_one():
    sizes = []

    def model(images):
        sizes.append(tuple(images.shape))
        return torch.zeros(len(images), 2)

    log_probabilities([model], torch.zeros(3, 10, 3, 4, 4))
    assert sizes == [(3, 3, 4, 4)] * 10


def test_classes_that_tie_share_the_places_they_tie_for():
    said = torch.tensor([[0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64).log()
    earned = [[float(credit(said, torch.tensor([label]), k)) for label in range(7)] for k in (1, 5)]
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
    classes, _ = first_classes(torch.tensor([[0.1, 0.4, 0.1, 0.4]]).log())
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
    alone = evaluate(lambda images: images.flatten(1), data.validation(None, None, CPU))
    assert alone.num_images == 5
    assert alone == assess(data, readers(1.0), CPU, quiet=True).score
    with pytest.raises(ValueError, match="no images"):
        padding = Batch(images_NCHW=torch.zeros(1, 2), labels_N=torch.tensor([-1]), ids_N=torch.tensor([-1]))
        evaluate(lambda images: images, [padding])


def test_one_as_json_and_as_lines():
    data = spoken()
    found = assess(data, readers(1.0, 2.0), CPU, views=10, quiet=True)
    said = found.json(data.facts(), per_class=True)
    assert [row["class"] for row in said["classes"]] == list(FACTS.classes)
    assert said["views"] == 10 and [row["weight"] for row in said["checkpoints"]] == [0.5, 0.5]
    assert said["loss"] == found.score.loss and "classes" not in found.json(data.facts())
    assert found.lines().splitlines()[-1].startswith("validation loss")
    assert len(found.lines(FACTS.classes).splitlines()) == 2 + 7 + 1


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predictions_read_back_are_what_was_scored(tmp_path, ending):
    data, path = spoken(), tmp_path / f"said.{ending}"
    keys = [f"image-{i}" for i in range(11)]
    predictions = Predictions(path, keys, FACTS.classes)
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
        Predictions(tmp_path / "said.txt", [], [])
    with pytest.raises(TrainError, match="does not exist"):
        Predictions(tmp_path / "nowhere" / "said.csv", [], [])


def test_weights_are_fitted_on_images_that_are_not_scored(tmp_path):
    data = spoken(40)
    predictions = Predictions(tmp_path / "said.csv", [str(i) for i in range(40)], FACTS.classes)
    found = assess(data, readers(1.0, 0.1, -1.0), CPU, fit_on=FitOn(share=0.25), predictions=predictions, quiet=True)
    predictions.write()
    scored = [int(row["key"]) for row in csv.DictReader((tmp_path / "said.csv").read_text().splitlines())]
    fitted = sorted(set(range(40)) - set(scored))
    assert (found.fit.num_images, found.score.num_images, len(fitted)) == (10, 30, 10)
    own = by_hand(data, (1.0, 0.1, -1.0), 1, found.weights)
    assert measures(own[scored], data.labels_N[scored]) == expected(found.score)
    assert measures(own[fitted], data.labels_N[fitted])[0] == pytest.approx(found.fit.loss_fitted)
    assert measures(by_hand(data, (1.0, 0.1, -1.0), 1)[scored], data.labels_N[scored]) == expected(found.equal)
    assert found.fit.loss_fitted < found.fit.loss_equal
    assert found == assess(data, readers(1.0, 0.1, -1.0), CPU, fit_on=FitOn(share=0.25), quiet=True)


def test_weights_are_fitted_on_a_split_of_its_own():
    data, other = spoken(12, seed=1), spoken(30, seed=2, val_digest="v2")
    found = assess(data, readers(1.0, 0.1), CPU, fit_on=FitOn(data=other), quiet=True)
    assert (found.fit.num_images, found.score.num_images) == (30, 12)
    loss = measures(by_hand(other, (1.0, 0.1), 1, found.weights), other.labels_N)[0]
    assert loss == pytest.approx(found.fit.loss_fitted)
    assert "fitted on 30 other images" in found.lines() and found.json(data.facts())["fit"]["num_images"] == 30


@pytest.mark.parametrize(
    ("factors", "fit_on", "message"),
    [
        ((1.0,), FitOn(share=0.5), "one checkpoint"),
        ((1.0, 2.0), FitOn(share=0.01), "0 of 11"),
        ((1.0, 2.0), FitOn(share=0.99), "11 of 11"),
        ((1.0, 2.0), FitOn(data=spoken(0, val_digest="v2")), "no images to fit on"),
        ((1.0, 2.0), FitOn(data=spoken()), "the one that is scored"),
        ((1.0, 2.0), FitOn(data=spoken(val_digest="d1")), "the one that was trained on"),
        ((1.0, np.nan), FitOn(share=0.5), "reader1.*no number"),
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
        ({"train_digest": "d2"}, "d1.*d2.*--val"),
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
