"""One step of one rank: the loss and the accuracy of the batch, the update that the gradient gives."""

import pytest
import torch
import torch.nn.functional as F

from alexstream.pipeline.batch import Batch
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.errors import TrainError
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.recipe import Phase, Recipe
from alexstream.trainer.train_step import Learner

RANK = Rank(columns=Columns(), device=torch.device("cpu"))
RECIPE = Recipe(width=0.125, weight_sd=0.05, upper_conv_sd=0.05)
RATES = Phase(start=0, rate=0.001, conv1_rate=0.002, bias_rate=0.004)
STEP = 3


LABELS = [0, 1, 2, 1, 1, 0]


def batch():
    generator = torch.Generator().manual_seed(0)
    images = 60 * torch.randn(6, 3, 224, 224, generator=generator)
    return Batch(images_NCHW=images, labels_N=torch.tensor(LABELS), ids_N=torch.arange(6))


@pytest.fixture(scope="module")
def start():
    return make_initial_parameters(3, RECIPE, 0)


def by_hand(start):
    """Logits of the step and the gradient of the mean cross-entropy, in float32."""
    model, given = AlexNet(start, Columns(), RECIPE, 5), batch()
    logits = model(given.images_NCHW, STEP)
    chance = logits.log_softmax(1)[torch.arange(6), given.labels_N]
    (-chance.sum() / 6).backward()
    return logits.detach(), -chance.mean().item(), {name: p.grad for name, p in model.canonical_parameters().items()}


def test_a_step_measures_its_batch_and_moves_every_parameter_by_the_rule(start):
    velocity = {name: torch.full_like(value, 1e-3) for name, value in start.items()}
    learner = Learner(RANK, RECIPE, start, velocity, seed=5)
    measured = learner.step(batch(), STEP, RATES)
    logits, loss, gradients = by_hand(start)
    right = sum(int(row.argmax()) == label for row, label in zip(logits, LABELS, strict=True))
    assert right not in (0, 3, 6)  # or the next line shows nothing
    assert measured.tolist() == pytest.approx([loss, right / 6], rel=1e-5)
    parameters, moved = learner.state()
    for name, gradient in gradients.items():
        rate = 0.004 if name.endswith("bias") else 0.002 if name == "conv1.weight" else 0.001
        v = 0.9 * velocity[name] - 0.0005 * rate * start[name] - rate * gradient
        torch.testing.assert_close(moved[name], v, rtol=1e-4, atol=1e-8, msg=name)
        torch.testing.assert_close(parameters[name], start[name] + v, rtol=1e-5, atol=1e-8, msg=name)


def test_a_bfloat16_step_begins_with_the_float32_parameters_and_measures_in_float64(start):
    learner = Learner(RANK, RECIPE, start, seed=5, precision="bf16")
    assert all(p.dtype == torch.bfloat16 for p in learner.model.canonical_parameters().values())
    parameters, velocity = learner.state()
    assert all(torch.equal(parameters[name], start[name]) for name in start)  # not roundings
    assert all(not v.any() for v in velocity.values())
    measured = learner.step(batch(), STEP, RATES)
    assert measured.dtype == torch.float64  # a share of right answers is a quotient of whole numbers
    said = learner.model(batch().images_NCHW)
    assert said.dtype == torch.bfloat16
    plain = Learner(RANK, RECIPE, start, seed=5).step(batch(), STEP, RATES)
    assert measured[0].item() == pytest.approx(plain[0].item(), rel=0.05)


def test_the_loss_of_bfloat16_logits_is_computed_in_float32(start):
    learner = Learner(RANK, RECIPE, start, seed=5, precision="bf16")
    with torch.no_grad():
        logits = learner.model(batch().images_NCHW, STEP).float()
    loss = F.cross_entropy(logits, batch().labels_N).item()
    assert learner.step(batch(), STEP, RATES)[0].item() == pytest.approx(loss, rel=1e-6)


def test_tensor_cores_are_refused_on_a_cpu(start):
    with pytest.raises(TrainError, match="`precision` tf32: received on the CPU"):
        Learner(RANK, RECIPE, start, seed=5, precision="tf32")


def test_what_is_measured_is_the_mean_over_the_replicas(start, monkeypatch):
    """Another replica has a loss of 3 and half of its images right."""
    learner = Learner(RANK, RECIPE, start, seed=5)
    group = object()
    learner._rank = Rank(columns=Columns(replicas=2, replica_group=group), device=RANK.device)

    def all_reduce(mine, group):
        assert group is learner._rank.columns.replica_group
        mine += torch.tensor([3.0, 0.5])

    monkeypatch.setattr("alexstream.trainer.train_step.dist.all_reduce", all_reduce)
    assert learner._average_over_replicas(torch.tensor([1.0, 0.0])).tolist() == [2.0, 0.25]
