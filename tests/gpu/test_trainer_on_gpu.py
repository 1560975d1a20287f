"""Training on GPUs: the CPU's network, the same numbers every time, exact resume, two columns on two devices."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.network.post_conv import PostConv
from alexstream.trainer.recipe import ORIGINAL, PAPER
from tests.support import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")


def train(shards, run, *words, check=True):
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "train",
        "--data",
        str(shards),
        "--run",
        str(run),
        "--device",
        "cuda",
    ]
    command += ["--batch-size", "32", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=300)


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_tail_and_its_gradient_are_those_of_the_cpu():
    tail = PostConv(maps=5, alpha=1e-4, k=2.0, size=3, stride=2)
    x = 30 * torch.randn(4, 96, 55, 55, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for device in ("cpu", "cuda"):
        given = x.to(device).requires_grad_()
        y = tail(given, 2)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(device))
        results.append((y.detach().cpu(), given.grad.cpu()))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recipe", [PAPER, ORIGINAL], ids=lambda recipe: recipe.name)
def test_outputs_and_gradients_are_those_of_the_cpu(recipe):
    start = {k: v.double() for k, v in make_initial_parameters(7, recipe, 1).items()}
    images = 60 * torch.randn(3, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for device in ("cpu", "cuda"):
        model = AlexNet(start, Columns(), recipe, 1).to(device)
        logits = model(images.to(device))  # without dropout: its masks are drawn on the device
        F.cross_entropy(logits, torch.arange(3, device=device)).backward()
        results.append([logits.detach().cpu(), *(p.grad.cpu() for p in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_run_repeats_and_resumes_to_the_bit(sample_shards, tmp_path, precision):
    options = ("--devices", 1, "--precision", precision)
    train(sample_shards, tmp_path / "whole", "--epochs", 2, *options)
    train(sample_shards, tmp_path / "parts", "--epochs", 1, *options)
    train(sample_shards, tmp_path / "parts", "--epochs", 2, "--resume", *options)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = (checkpoints.load_checkpoint(tmp_path / name).parameters for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_too_few_devices_are_said(sample_shards, tmp_path):
    if torch.cuda.device_count() >= 2:
        pytest.skip("two CUDA devices here")
    result = train(sample_shards, tmp_path / "run", "--devices", 2, check=False)
    assert result.returncode == 1 and "this machine has 1 GPU" in result.stderr


@needs_two
def test_two_devices_have_the_losses_of_one(sample_shards, tmp_path):
    for devices in (1, 2):
        train(sample_shards, tmp_path / str(devices), "--devices", devices, "--epochs", 2)
    # Dropout masks are drawn on the device, from the same generators.
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=1e-3)


def test_compiled_steps_have_the_losses_of_the_others(sample_shards, tmp_path):
    for name, options in {"eager": (), "compiled": ("--compile",)}.items():
        train(sample_shards, tmp_path / name, "--devices", 1, "--epochs", 1, *options)
    for a, b in pairwise([losses(tmp_path / "eager"), losses(tmp_path / "compiled")]):
        assert a == pytest.approx(b, rel=1e-3)
