"""One rank's network and its update: a step is forward, loss, backward, update.

Shape legend: N = batch of the replica.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from pipeline.batch import Batch
from trainer.checkpoint import Tensors
from trainer.errors import TrainError
from trainer.geometry import cut, join
from trainer.launch import Rank
from trainer.model import AlexNet
from trainer.recipe import Phase, Recipe
from trainer.update import PaperUpdate

Precision = Literal["fp32", "tf32", "bf16"]


class Learner:
    """Parameters, velocity and the step that changes them. Every rank of a run has one and takes the same steps."""

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
        """Take this rank's share of canonical float32 parameters, and of their velocity (None: zero).

        Raises TrainError for tf32 on a CPU, which would silently be fp32.
        """
        if precision == "tf32" and rank.device.type != "cuda":
            raise TrainError("--precision tf32: received on the CPU, expected on a GPU; give fp32 or bf16")
        _require_determinism(compiled)
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        self._rank = rank
        dtype = torch.bfloat16 if precision == "bf16" else None
        self.model = AlexNet(start, rank.columns, recipe, seed, dtype).to(rank.device)
        self._update = PaperUpdate(self.model.named(), recipe)
        self._update.restore(self._shares(start), self._shares(velocity) if velocity is not None else None)
        self._network = self._wrapped(compiled)

    def step(self, batch: Batch, number: int, phase: Phase) -> torch.Tensor:
        """Take step ``number``, which decides dropout. Loss and accuracy of all replicas' batch: float32 (2,)."""
        logits = self._network(batch.images_NCHW, number).float()
        loss = F.cross_entropy(logits, batch.labels_N)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update.step(phase)
        right = (logits.detach().argmax(1) == batch.labels_N).float().mean()
        return self._over_replicas(torch.stack((loss.detach(), right)))

    def state(self) -> tuple[Tensors, Tensors]:
        """Canonical parameters and velocity, on the main rank; empty on others. All ranks of a replica call this."""
        return self._joined(self._update.master), self._joined(self._update.velocity)

    def _wrapped(self, compiled: bool) -> torch.nn.Module:
        network = self.model.compiled() if compiled else self.model
        if self._rank.columns.replicas > 1:
            # Averages gradients over the replicas while the backward pass goes on.
            network = DistributedDataParallel(network, process_group=self._rank.columns.replica_group)
        return network

    def _over_replicas(self, measured: torch.Tensor) -> torch.Tensor:
        columns = self._rank.columns
        if columns.replicas > 1:
            dist.all_reduce(measured, group=columns.replica_group)
            measured /= columns.replicas
        return measured

    def _joined(self, shares: Tensors) -> Tensors:
        columns, whole = self._rank.columns, {}
        for name, share in shares.items():
            halves = [share]
            if columns.count > 1:
                halves = [torch.empty_like(share) for _ in range(columns.count)]
                dist.all_gather(halves, share.contiguous(), group=columns.group)
            if self._rank.is_main:
                whole[name] = join(name, halves).cpu()
        return whole

    def _shares(self, canonical: Tensors) -> Tensors:
        columns = self._rank.columns
        if columns.count == 1:
            return canonical
        return {name: cut(name, whole, columns.index) for name, whole in canonical.items()}


def _require_determinism(compiled: bool) -> None:
    """Operations of this process give the same bits each time, or raise.

    Torch's usual switch also tells the compiler, and loads it to do so, which takes longer than a rank's other modules.
    """
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_deterministic_debug_mode("error")
