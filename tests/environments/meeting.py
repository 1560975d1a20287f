"""Two ranks that meet and wait for each other once, as a command: ``python -m tests.environments.meeting meet FOLDER``.

With the variables of torchrun it is one of the two.
"""

import time
from pathlib import Path

import click
import torch
import torch.distributed as dist

from alexstream.commands.group import Group
from alexstream.trainer.distributed import launch


def leave_files(rank, folder, late_s):
    """Say by a file that the ranks have met, and by another that they have heard from each other.

    Rank 0 comes to that so many seconds late, in which it is awake: a pause takes one of its naps at most.
    """
    index = rank.columns.batch_slice.index
    (folder / f"met-{index}").touch()
    for _ in range(round(10 * late_s) if index == 0 else 0):
        time.sleep(0.1)
    with rank.columns.wait_for("another rank"):
        dist.all_reduce(torch.zeros(1))
    (folder / f"heard-{index}").touch()


@click.group(cls=Group)
def main():
    """Errors, signals and exit codes are those of the command line."""


@main.command()
@click.argument("folder", type=Path)
@click.option("--late", default=0.0)
@click.option("--timeout", default=600.0)
def meet(folder, late, timeout):
    launch.run_on_ranks(leave_files, (folder, late), 2, "cpu", launch.RunContext(timeout_s=timeout))


if __name__ == "__main__":
    main()
