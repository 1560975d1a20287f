"""The worst mistakes are those with the largest loss, whatever the batches."""

import numpy as np
import torch

from pipeline.batch import Batch
from trainer.mistakes import Mistakes


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
        worst = heard(Mistakes(7), said, labels, size)
        assert [one.sample for one in worst] == expected
        assert all(np.isclose(one.p_label, own[one.sample]) and one.said == first[one.sample] for one in worst)
        assert all(np.isclose(one.p_said, p[one.sample].max()) for one in worst)


def test_right_answers_are_no_mistakes():
    said, _ = spoken()
    assert heard(Mistakes(7), said, said.argmax(1), 32) == []
