"""Two ranks with one column each are the single-device grouped network: outputs and every gradient."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trainer.columns import Columns
from trainer.geometry import initial_parameters, join
from trainer.launch import Rank, run
from trainer.model import AlexNet
from trainer.recipe import Recipe

NUM_CLASSES, NUM_IMAGES, STEP, SEED = 7, 3, 5, 11


def outputs_and_gradients(rank, folder):
    """Write what this rank computes, in float64, with dropout on."""
    generator = torch.Generator().manual_seed(1)
    images = 60 * torch.randn(NUM_IMAGES, 3, 224, 224, generator=generator, dtype=torch.float64)
    # Wider than the paper's weights, so that every gradient is far from zero and LRN matters.
    start = {k: v.double() for k, v in initial_parameters(NUM_CLASSES, 0.03, SEED).items()}
    model = AlexNet(start, rank.columns, Recipe(), SEED)
    logits = model(images, STEP)
    F.cross_entropy(logits, torch.arange(NUM_IMAGES)).backward()
    state = {"logits": logits.detach(), "evaluation": model(images).detach()}
    state |= {name: p.grad for name, p in model.named().items()}
    torch.save(state, Path(folder) / f"rank{rank.columns.index}of{rank.columns.count}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    run(outputs_and_gradients, (folder,), 2, "cpu")
    outputs_and_gradients(Rank(columns=Columns(), device=torch.device("cpu")), folder)
    names = ("rank0of1", "rank0of2", "rank1of2")
    return [torch.load(folder / f"{name}.pt") for name in names]


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", ["logits", "evaluation"])
def test_both_ranks_give_the_single_device_output(results, name):
    single, *ranks = results
    for rank in ranks:
        assert relative_error(rank[name], single[name]) < 1e-9


@pytest.mark.parametrize("name", sorted(initial_parameters(2, 0.0, 0)))
def test_joined_gradients_of_two_ranks_are_the_single_device_gradients(results, name):
    single, *ranks = results
    assert single[name].abs().max() > 0
    assert relative_error(join(name, [rank[name] for rank in ranks]), single[name]) < 1e-9


def test_the_replicated_bias_has_the_same_gradient_on_both_ranks(results):
    assert torch.equal(results[1]["fc8.bias"], results[2]["fc8.bias"])
