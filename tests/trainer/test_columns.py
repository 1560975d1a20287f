"""Two ranks with one column each are the single-device grouped network: outputs, gradients, and ten steps."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alexstream.trainer.distributed.launch import Rank, run_on_ranks
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import join_parameter, make_initial_parameters, parameter_shapes
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.optim.update import PaperSGD
from alexstream.trainer.recipe import ORIGINAL, PAPER, scale_to_run

NUM_CLASSES, NUM_IMAGES, STEP, SEED = 7, 2, 5, 11
RECIPES = {
    "paper": PAPER,
    "original": replace(ORIGINAL, width=0.25),
    "columns that never talk": replace(PAPER, columns_talk=False, width=0.25),
    "six convolutions, tanh, no overlap": replace(PAPER, sixth_conv=True, activation="tanh", pool_size=2, width=0.25),
    "without conv3": replace(PAPER, removed="conv3", width=0.25),
}
RATES = {torch.float64: 0.01, torch.float32: 0.00001}  # type of the numbers: learning rate
SINGLE = Rank(columns=Columns(), device=torch.device("cpu"))


def images(dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(NUM_IMAGES, 3, 224, 224, generator=generator, dtype=dtype)


def outputs_and_gradients(rank, folder):
    """Write what this rank computes, in float64, with dropout on."""
    for name, recipe in RECIPES.items():
        # Wider than the paper's weights, so that every gradient is far from zero and LRN matters.
        wide = replace(recipe, weight_sd=0.03, upper_conv_sd=0.03)
        start = {k: v.double() for k, v in make_initial_parameters(NUM_CLASSES, wide, SEED).items()}
        model = AlexNet(start, rank.columns, recipe, SEED)
        logits = model(images(torch.float64), STEP)
        F.cross_entropy(logits, torch.arange(NUM_IMAGES)).backward()
        state = {"logits": logits.detach(), "evaluation": model(images(torch.float64)).detach()}
        state |= {key: p.grad for key, p in model.canonical_parameters().items()}
        torch.save(state, Path(folder) / f"{name}, rank {rank.columns.index} of {rank.columns.count}.pt")
    ten_steps(rank, folder)


def ten_steps(rank, folder):
    """Write the losses and the parameters after ten steps, in float64 at the recipe's rate, in float32 at a lower one.

    Rounding grows: a start that differs by one unit in the last place of float32 gives, on one device, losses that
    differ by 1e-4 after ten steps at 0.01.
    """
    for name, (dtype, rate) in product(("paper", "original"), RATES.items()):
        recipe = replace(scale_to_run(RECIPES[name], rate, 93), width=0.25)
        start = {k: v.to(dtype) for k, v in make_initial_parameters(NUM_CLASSES, recipe, SEED).items()}
        model, losses = AlexNet(start, rank.columns, recipe, SEED), []
        update = PaperSGD(model.canonical_parameters(), recipe)
        for step in range(10):
            loss = F.cross_entropy(model(images(dtype, step), step), torch.arange(NUM_IMAGES))
            loss.backward()
            update.step(choose_phase([], recipe))
            losses.append(loss.item())
        state = {"losses": torch.tensor(losses, dtype=torch.float64)} | update.master
        path = Path(folder) / f"{name}, ten steps in {dtype}, rank {rank.columns.index} of {rank.columns.count}.pt"
        torch.save(state, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    run_on_ranks(outputs_and_gradients, (folder,), 2, "cpu")
    outputs_and_gradients(SINGLE, folder)
    return folder


def loaded(folder, name):
    return [torch.load(folder / f"{name}, rank {rank}.pt") for rank in ("0 of 1", "0 of 2", "1 of 2")]


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_ranks_give_the_single_device_output(folder, recipe):
    single, *ranks = loaded(folder, recipe)
    for rank in ranks:
        assert relative_error(rank["logits"], single["logits"]) < 1e-9
        assert relative_error(rank["evaluation"], single["evaluation"]) < 1e-9


@pytest.mark.parametrize("recipe", RECIPES)
def test_joined_gradients_of_two_ranks_are_the_single_device_gradients(folder, recipe):
    single, *ranks = loaded(folder, recipe)
    for name in parameter_shapes(NUM_CLASSES, recipe=RECIPES[recipe]):
        assert single[name].abs().max() > 0
        assert relative_error(join_parameter(name, [rank[name] for rank in ranks]), single[name]) < 1e-9, name
    assert torch.equal(ranks[0]["fc8.bias"], ranks[1]["fc8.bias"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_ten_steps_agree(folder, recipe, dtype, tolerance):
    single, *ranks = loaded(folder, f"{recipe}, ten steps in {dtype}")
    for rank in ranks:
        assert relative_error(rank["losses"], single["losses"]) < tolerance
    for name in parameter_shapes(NUM_CLASSES, recipe=RECIPES[recipe]):
        whole = join_parameter(name, [rank[name] for rank in ranks])
        torch.testing.assert_close(whole, single[name], rtol=tolerance, atol=tolerance, msg=name)


def test_columns_that_never_talk_do_not():
    """Changing one column's kernels changes nothing in the other's features."""
    recipe = replace(PAPER, columns_talk=False, width=0.25)
    start = make_initial_parameters(NUM_CLASSES, recipe, SEED)
    before = AlexNet(start, Columns(), recipe, SEED).features(images(torch.float32))
    changed = {name: p * 2 if name == "conv4.weight" else p for name, p in start.items()}
    changed["conv4.weight"][48:] = start["conv4.weight"][48:]
    after = AlexNet(changed, Columns(), recipe, SEED).features(images(torch.float32))
    assert torch.equal(before[:, 512:], after[:, 512:]) and not torch.equal(before[:, :512], after[:, :512])


def test_a_process_alone_exchanges_nothing():
    assert Columns(count=1).exchange is None
    assert Columns(count=2).exchange is not None
