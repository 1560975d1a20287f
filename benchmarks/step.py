"""One training step: ours on one device and on two ranks, beside a plain PyTorch AlexNet, eager and compiled.

Example::

    python benchmarks/step.py                        # batch 64, fp32 and bf16
    python benchmarks/step.py --batch 128 --rounds 7 --classes 1000

All have the same geometry, loss and batch, in memory; dropout is on. ``plain`` is what a textbook gives: grouped
``Conv2d``, ``LocalResponseNorm``, ``MaxPool2d``, ``torch.optim.SGD``; ``compiled`` is that under ``torch.compile``.
Every contender is a process (two for two ranks) that stays alive and is asked for a few steps in turn; ratios are those
within a round.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from machine import command_line, describe, result_path
from torch import nn

from alexstream.trainer.bench.step import StepOptions, make_random_batch
from alexstream.trainer.bench.step import make_stepper as ours
from alexstream.trainer.cpu.memory import keep_freed_memory
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.train_step import Precision

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Who takes steps, in which precision, with how many threads and ranks."""

    title: str
    precision: Precision = "fp32"
    kind: str = "ours"
    threads: int = 2
    ranks: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and gradients."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def options(self, args: argparse.Namespace) -> StepOptions:
        """The same for our own step."""
        compiled = "compile" in self.title
        return StepOptions(
            classes=args.classes, batch_size=args.batch, precision=self.precision, compile=compiled, quiet=True
        )


CONTENDERS = {
    f"{name}-{precision}": Contender(precision=precision, **fields)  # type: ignore[arg-type]
    for precision in ("fp32", "bf16")
    for name, fields in {
        "ours": {"title": "alexstream, one device"},
        "ours-compiled": {"title": "alexstream, --compile"},
        "plain": {"title": "plain PyTorch, eager", "kind": "plain"},
        "compiled": {"title": "plain PyTorch, torch.compile", "kind": "compiled"},
        "one": {"title": "alexstream, one rank, one thread", "threads": 1},
        "two": {"title": "alexstream, two ranks, one thread each", "threads": 1, "ranks": 2},
    }.items()
}
RATIOS = (
    ("plain eager ÷ ours", "plain-{}", "ours-{}"),
    ("plain compiled ÷ ours", "compiled-{}", "ours-{}"),
    ("ours ÷ ours with --compile", "ours-{}", "ours-compiled-{}"),
    ("one rank ÷ two ranks, one thread each", "one-{}", "two-{}"),
    ("ours in fp32 ÷ ours", "ours-fp32", "ours-{}"),
)


class Normalised(nn.Module):
    """``LocalResponseNorm`` of each column; in float32, since the library has no bfloat16 for it on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The paper's constants; torch divides alpha by the number of maps."""
        n, c, h, w = x.shape
        y = F.local_response_norm(x.view(2 * n, c // 2, h, w).float(), 5, 5e-4, 0.75, 2.0)
        return y.to(x.dtype).view(n, c, h, w)


def plain_alexnet(classes: int) -> nn.Module:
    """The same network from the library's modules."""
    net = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), Normalised(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), Normalised(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, classes),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, 0.01)
    return net


def stepper(contender: Contender, args: argparse.Namespace, columns: Columns) -> Callable[[], None]:
    """What takes one step."""
    if contender.kind == "ours":
        return ours(Rank(columns=columns, device=CPU), contender.options(args))
    images, labels = make_random_batch(args.batch, args.classes, CPU)
    plain = plain_alexnet(args.classes).to(contender.dtype)
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, 0.9, weight_decay=0.0005, fused=True)
    given, network = images.to(contender.dtype), torch.compile(plain) if contender.kind == "compiled" else plain

    def plain_step() -> None:
        F.cross_entropy(network(given).float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return plain_step


def work(args: argparse.Namespace) -> None:
    """A contender's process: one line in, so many steps, one line with milliseconds a step out."""
    contender, columns = CONTENDERS[args.work], Columns()
    torch.set_num_threads(contender.threads)
    if contender.ranks > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{args.meeting}", rank=args.rank, world_size=contender.ranks
        )
        columns = Columns(index=args.rank, count=2, group=dist.group.WORLD)
    with keep_freed_memory() if contender.kind == "ours" else nullcontext():  # as launch does for train
        step = stepper(contender, args, columns)
        for line in sys.stdin:
            start = time.perf_counter()
            for _ in range(int(line)):
                step()
            print(1e3 * (time.perf_counter() - start) / int(line), flush=True)


class Running:
    """A contender's processes, waiting for orders."""

    def __init__(self, name: str, args: argparse.Namespace, scratch: Path) -> None:
        """Start them and let them take their first steps."""
        self._processes = []
        for rank in range(CONTENDERS[name].ranks):
            command = [sys.executable, __file__, "--work", name, "--rank", str(rank)]
            command += ["--meeting", str(scratch / name), "--batch", str(args.batch), "--classes", str(args.classes)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            self._processes.append(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
        self.step_ms(3)

    def step_ms(self, steps: int) -> float:
        """Milliseconds a step, of the slower rank. Raises RuntimeError if the process has ended."""
        for process in self._processes:
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self._processes]
        if not all(answers):
            raise RuntimeError("the process has ended")
        return max(map(float, answers))

    def stop(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()


def spread(values: list[float], digits: int) -> str:
    """Median (smallest-largest)."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def measured(args: argparse.Namespace, scratch: Path) -> list[str]:
    """Interleaved rounds of each precision, as lines of a result."""
    lines = []
    for precision in args.precisions:
        names = [name for name in CONTENDERS if name.endswith(precision) or name == "ours-fp32"]
        running = {name: Running(name, args, scratch) for name in names}
        took: dict[str, list[float]] = {name: [] for name in names}
        for i in range(args.rounds):
            for name in random.Random(i).sample(names, len(names)):
                took[name].append(running[name].step_ms(args.steps))
                print(f"round {i + 1}/{args.rounds}: {name} {took[name][-1]:.0f} ms", file=sys.stderr)
        for process in running.values():
            process.stop()
        lines += [f"## {precision}", "", "| step | ms | images/s | n |", "|---|---|---|---|"]
        for name in names:
            rate = args.batch / np.median(took[name]) * 1e3
            title = CONTENDERS[name].title + ("" if name.endswith(precision) else ", fp32")
            lines.append(f"| {title} | {spread(took[name], 0)} | {rate:.0f} | {args.rounds} |")
        lines += [""]
        for title, above, below in RATIOS:
            pairs = zip(took[above.format(precision)], took[below.format(precision)], strict=True)
            lines.append(f"- {title}: {spread([a / b for a, b in pairs], 2)}")
        lines += [""]
    return lines


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="[%(default)s]")
    parser.add_argument("--classes", type=int, default=1000, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--steps", type=int, default=4, help="of a block [%(default)s]")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    for hidden, kind in (("--work", str), ("--meeting", str), ("--rank", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        lines = measured(args, Path(scratch))
    head = ["# A training step", "", f"`{command_line()}`", "", describe(), ""]
    head += [f"Batches of {args.batch}, {args.classes} classes; blocks of {args.steps} steps.", ""]
    path = args.out or result_path("step")
    path.write_text("\n".join([*head, *lines]).rstrip() + "\n")
    print("\n".join([*head, *lines]), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
