"""The worst mistakes are those with the largest loss, whatever the batches."""

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import Batch
from alexstream.trainer.evaluation.mistakes import WorstMistakes


def spoken(count=200, classes=5):
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.standard_normal((count, classes)) * 3)
    return logits.log_softmax(1), torch.from_numpy(generator.integers(0, classes, count))


def heard(mistakes, said, labels, size):
    for start in range(0, len(labels), size):
        part, ids = slice(start, start + size), torch.arange(len(labels))[start : start + size]
        mistakes.add(Batch(images_NCHW=torch.zeros(len(ids)), labels_N=labels[part], ids_N=ids), said[part])
    return mistakes.worst()


def test_they_are_the_largest_losses_among_wrong_answers_in_any_batches():
    said, labels = spoken()
    p = said.exp().numpy()
    own, first = p[np.arange(200), labels.numpy()], p.argmax(1)
    expected = [i for i in np.argsort(own, kind="stable") if first[i] != labels[i]][:7]
    for size in (1, 32, 200):
        worst = heard(WorstMistakes(7), said, labels, size)
        assert [one.sample for one in worst] == expected
        assert all(np.isclose(one.p_label, own[one.sample]) and one.predicted == first[one.sample] for one in worst)
        assert all(np.isclose(one.p_predicted, p[one.sample].max()) for one in worst)


def test_right_answers_are_no_mistakes():
    said, _ = spoken()
    assert heard(WorstMistakes(7), said, said.argmax(1), 32) == []


def test_of_equally_wrong_answers_the_lower_id_comes_first_and_probabilities_are_told_apart():
    said = torch.tensor([[0.7, 0.2, 0.1]] * 4, dtype=torch.float64).log()
    labels = torch.tensor([1, 2, 1, 2])
    found = WorstMistakes(3)
    backwards = torch.tensor([3, 2, 1, 0])
    found.add(Batch(images_NCHW=torch.zeros(4), labels_N=labels[backwards], ids_N=backwards), said)
    worst = found.worst()
    assert [(one.sample, one.label, one.predicted) for one in worst] == [(1, 2, 0), (3, 2, 0), (0, 1, 0)]
    assert [(one.p_predicted, one.p_label) for one in worst] == [
        (pytest.approx(0.7), pytest.approx(p)) for p in (0.1, 0.1, 0.2)
    ]
