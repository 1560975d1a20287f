"""Saves checkpoints on demand, in forks of one process that has loaded everything.

Reads a line of JSON for each (``folder``, ``step``, ``environment``), answers with the exit code: 0, 1 for an expected
error (its text is in ``folder``/../error), a negative signal, 70 for anything else.
"""

import json
import os
import sys
from pathlib import Path

import torch

from alexstream.core.errors import AlexstreamError
from alexstream.pipeline.batch import DataFacts
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.recipe import Recipe


def facts():
    """The data that it is of."""
    return DataFacts(
        num_train=10, num_val=2, classes=("a", "b"), train_digest="d", val_digest="v", augmentation="paper",
        seed=0, batch_size=4,
    )  # fmt: skip


def state(step):
    """A small checkpoint; each step has values of its own."""
    draw = torch.Generator().manual_seed(step)
    tensors = [{"w": torch.randn(64, generator=draw), "b": torch.randn(3, generator=draw)} for _ in range(2)]
    return checkpoints.Checkpoint(
        step=step,
        errors=(0.5,) * step,
        recipe=Recipe(),
        data=checkpoints.make_checkpoint_data(facts()),
        parameters=tensors[0],
        velocity=tensors[1],
    )


def same(one, other):
    """Whether two checkpoints are equal to the bit."""
    plain = (one.step, one.errors, one.recipe, one.data) == (other.step, other.errors, other.recipe, other.data)
    return plain and all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in ((one.parameters, other.parameters), (one.velocity, other.velocity))
    )


def save(told):
    """In a fork: never returns."""
    os.environ.update(told["environment"])
    folder = Path(told["folder"])
    try:
        checkpoints.save_checkpoint(folder, state(told["step"]))
    except AlexstreamError as error:
        (folder.parent / "error").write_text(str(error))
        os._exit(1)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(70)
    os._exit(0)


def main():
    """Do as told until there is no more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            save(json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
