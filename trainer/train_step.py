"""The training step of one rank: forward, loss, backward and update of its part of the network.

Shape legend: N = batch of the replica.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from alexstream.pipeline.batch import Batch
from alexstream.trainer.checkpoint import Tensors
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.errors import TrainError
from alexstream.trainer.network.geometry import cut_parameter, join_parameter
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.optim.update import PaperSGD
from alexstream.trainer.recipe import Phase, Recipe

Precision = Literal["fp32", "tf32", "bf16"]


class Learner:
    """Parameters and velocity of one rank, and the step that updates them. All ranks take the same steps together."""

    def __init__(
        self,
        rank: Rank,
        recipe: Recipe,
        start: Tensors,
        velocity: Tensors | None = None,
        *,
        seed: int,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        """Take this rank's share of the canonical float32 parameters ``start``, and of ``velocity`` (None: zero).

        Raises TrainError for tf32 on a CPU, where torch would silently compute in fp32.
        """
        if precision == "tf32" and rank.device.type != "cuda":
            raise TrainError("`precision` tf32: received on the CPU, expected on a GPU; give fp32 or bf16")
        _require_determinism(compiled)
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        self._rank = rank
        dtype = torch.bfloat16 if precision == "bf16" else None
        self.model = AlexNet(start, rank.columns, recipe, seed, dtype).to(rank.device)
        self._update = PaperSGD(self.model.canonical_parameters(), recipe)
        self._update.restore(self._take_shares(start), self._take_shares(velocity) if velocity is not None else None)
        self._network = self._wrap_network(compiled)

    def step(self, batch: Batch, number: int, phase: Phase) -> torch.Tensor:
        """Take one step and return loss and accuracy over all replicas' batches, float64 (2,), on the rank's device.

        ``number`` is the step's number, which with the seed determines the dropout masks.
        """
        logits = self._network(batch.images_NCHW, number).float()
        loss = F.cross_entropy(logits, batch.labels_N)
        with self._watch_gradients():
            loss.backward()  # type: ignore[no-untyped-call]
        self._update.step(phase)
        right = (logits.detach().argmax(1) == batch.labels_N).double().mean()
        return self._average_over_replicas(torch.stack((loss.detach().double(), right)))

    def state(self) -> tuple[Tensors, Tensors]:
        """Return canonical parameters and velocity on the main rank, nothing on others; all of a replica call this."""
        return self._gather_parameters(self._update.master), self._gather_parameters(self._update.velocity)

    def _wrap_network(self, compiled: bool) -> torch.nn.Module:
        network = self.model.to_compiled() if compiled else self.model
        if self._rank.columns.replicas > 1:
            # Averages gradients over the replicas during the backward pass.
            with self._watch_gradients():
                network = DistributedDataParallel(network, process_group=self._rank.columns.replica_group)
        return network

    def _watch_gradients(self) -> AbstractContextManager[object]:
        """Return the context for the backward pass: replicas wait for each other inside of it, where only torch knows.

        The whole backward pass is therefore watched as one wait.
        """
        columns = self._rank.columns
        return columns.wait_for("another replica's gradients") if columns.replicas > 1 else nullcontext()

    def _average_over_replicas(self, measured: torch.Tensor) -> torch.Tensor:
        columns = self._rank.columns
        if columns.replicas > 1:
            with columns.wait_for("another replica"):
                dist.all_reduce(measured, group=columns.replica_group)
            measured /= columns.replicas
        return measured

    def _gather_parameters(self, shares: Tensors) -> Tensors:
        columns, whole = self._rank.columns, {}
        for name, share in shares.items():
            halves = [share]
            if columns.count > 1:
                halves = [torch.empty_like(share) for _ in range(columns.count)]
                with columns.wait_for("another rank's parameters"):
                    dist.all_gather(halves, share.contiguous(), group=columns.group)
            if self._rank.is_main:
                whole[name] = join_parameter(name, halves).cpu()
        return whole

    def _take_shares(self, canonical: Tensors) -> Tensors:
        columns = self._rank.columns
        if columns.count == 1:
            return canonical
        return {name: cut_parameter(name, whole, columns.index) for name, whole in canonical.items()}


def _require_determinism(compiled: bool) -> None:
    """Make torch's operations in this process deterministic, or raise where they cannot be.

    ``use_deterministic_algorithms`` also informs torch's compiler, which it imports for that; this takes longer than
    importing all other modules of a rank, so it is used only where the network is compiled.
    """
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_deterministic_debug_mode("error")
