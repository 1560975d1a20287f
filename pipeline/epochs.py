"""The stream in epochs, for training loops that count in them: a loader with a length and a state.

::

    loader = data.loader()                        # or loader(Part(index=rank, count=world_size), device=device)
    for epoch in range(90):
        for images, labels in loader:
            ...
        torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, "checkpoint.pt")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipeline.batch import Batch
from pipeline.errors import StreamError


class EpochLoader:
    """Pairs of images (N, C, H, W) float32 and labels (N,) int64, an epoch at a time.

    An epoch is ``len(loader)`` whole batches; what it leaves over opens the next, so no sample is lost. A loop that
    stops in the middle of an epoch goes on there when it iterates again, as one that was resumed does.
    """

    def __init__(
        self, stream: Callable[[int], Iterator[Batch]], steps_per_epoch: int, identity: dict[str, Any]
    ) -> None:
        """``stream(step)``: batches from there on. ``identity``: what a state must agree with."""
        self._stream, self._steps, self._identity = stream, steps_per_epoch, identity
        self._step = 0
        self._running: Iterator[Batch] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rest of the current epoch: all of it, unless a loop stopped or a state was loaded in the middle."""
        for _ in range(self._steps - self._step % self._steps):
            if self._running is None:
                self._running = self._stream(self._step)
            batch = next(self._running)
            self._step += 1
            yield batch.images_NCHW, batch.labels_N

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return self._step // self._steps

    def state_dict(self) -> dict[str, Any]:
        """The whole state: the number of batches taken, and what they were taken from."""
        return {"step": self._step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, on any number of replicas. Raises StreamError if it is of another stream."""
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise StreamError(
                    f"the loader's state was taken with {name} = {state.get(name)!r}, but this loader has {mine!r}; "
                    "use the same data and options, or start anew"
                )
        self._step, self._running = int(state["step"]), None
