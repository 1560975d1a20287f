"""Has anything become slower? Measures a handful of ratios side by side and compares them with the committed ones.

Example::

    make bench-check                       # three minutes on two quiet cores
    python benchmarks/check.py --write     # after a change that is meant to move them: make results/ratios.json anew

Ratios alone, since images/s of different machines or minutes cannot be compared. All are speeds: larger is better. One
that has lost more than 15 % is a regression: exit code 1. Images are drawn; the stream runs on the CPU in one thread a
core, conversions in two processes, steps on small batches in two threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import conversion
import numpy as np
import step
from machine import RESULTS
from PIL import Image
from tqdm import tqdm

from alexstream.core.limits import count_cores
from alexstream.core.machine import Machine
from alexstream.core.measure import Ratio, measure_in_turn
from alexstream.pipeline.batch import CROP_PX
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_split
from alexstream.sharding.sample_set import write_sample_set
from alexstream.sharding.split_plans import ShardRequest

COMMITTED = RESULTS / "ratios.json"
MOST_LOST = 0.15
BATCH, UNTIMED = 128, 8
# Name → what is divided by what, and that in words.
RATIOS = {
    "stream, augmentation on ÷ off": ("paper", "none", "images/s of the JPEG stream, the paper's augmentation ÷ none"),
    "stream ÷ Pillow": (
        "paper",
        "pillow",
        "the same ÷ Pillow's decode of the same samples and NumPy's crop, in threads",
    ),
    "stream, raw ÷ JPEG": ("raw", "paper", "images/s of the stream from raw shards ÷ from JPEG shards"),
    "conversion ÷ Pillow": ("alexstream-lanczos", "pillow-bicubic", "images/s of our workers ÷ Pillow's usual way"),
    "step ÷ plain PyTorch": ("ours-fp32", "plain-fp32", "steps/s of ours ÷ of a textbook's AlexNet, both eager, fp32"),
    "step, bf16 ÷ fp32": ("ours-bf16", "ours-fp32", "steps/s of ours in bf16 ÷ in fp32"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A ratio now and as committed; None where it was not measured or not committed."""

    name: str
    now: float | None
    before: float | None

    @property
    def kept(self) -> bool:
        """False for a ratio that has lost more than is allowed, and for one that is no longer measured."""
        if self.before is None:
            return True
        return self.now is not None and self.now >= (1 - MOST_LOST) * self.before

    def row(self) -> str:
        """A line of the table."""
        word = "" if self.kept else "SLOWER"
        change = ""
        if self.before is None:
            word = "new: commit it with --write"
        elif self.now is None:
            word = "NOT MEASURED"
        else:
            change = f"{100 * (self.now / self.before - 1):+.0f} %"
        return f"{self.name:32} {_number(self.before)} {_number(self.now)} {change:>7}  {word}".rstrip()


def compare(now: Mapping[str, float], before: Mapping[str, float]) -> list[Verdict]:
    """A verdict on every ratio that was measured or committed."""
    return [Verdict(name=name, now=now.get(name), before=before.get(name)) for name in {**before, **now}]


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>9}"


def measured(scratch: Path, rounds: int, seconds: float) -> dict[str, Ratio]:
    """All ratios, from blocks of about ``seconds`` that alternate with those they are compared with."""
    write_sample_set(scratch / "images", quiet=True)
    with ExitStack() as stack:
        groups = [
            lambda: streams(scratch, seconds),
            lambda: conversions(scratch, seconds, stack),
            lambda: steps(scratch, seconds, stack),
        ]
        rates: dict[str, list[float]] = {}
        for group in tqdm(groups, desc="bench-check", unit="groups"):
            rates |= measure_in_turn(group(), rounds)
    return {name: Ratio.from_rounds(rates[above], rates[below]) for name, (above, below, _) in RATIOS.items()}


def streams(scratch: Path, seconds: float) -> dict[str, Callable[[], float]]:
    """Images/s of the streams, and of Pillow on the samples of the JPEG one."""
    for encoding in ("jpeg", "raw"):
        request = ShardRequest(
            source=scratch / "images" / "train", folder=scratch / encoding, encode=EncodeRecipe(encoding=encoding)
        )
        shard_split(request, quiet=True)
    common = {"batch_size": BATCH, "num_threads": count_cores()}
    running = {
        "paper": ShardedData(train=scratch / "jpeg", **common).training(),
        "none": ShardedData(train=scratch / "jpeg", augmentation="none", **common).training(),
        "raw": ShardedData(train=scratch / "raw", **common).training(),
        "pillow": pillow_batches(stored(scratch / "jpeg"), count_cores()),
    }
    for stream in running.values():
        next(stream)
    return {name: lambda stream=stream: rate(stream, seconds) for name, stream in running.items()}


def rate(stream: Iterator[object], seconds: float) -> float:
    """Images per second over whole batches, after those that were decoded ahead while others had their turn."""
    for _ in islice(stream, UNTIMED):
        pass
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        batches += 1
    return batches * BATCH / (time.perf_counter() - start)


def stored(shards: Path) -> list[bytes]:
    """The samples as they are stored."""
    data = open_dataset(shards)
    tars = [(shards / f"{record.name}.tar").read_bytes() for record in data.manifest.shards]
    places = zip(data.shard_N, data.offset_N, data.size_N, strict=True)
    return [tars[number][offset : offset + size] for number, offset, size in places]


def pillow_batches(samples: Sequence[bytes], threads: int) -> Iterator[np.ndarray]:
    """Endless uint8 batches (N, 224, 224, 3), the least that a loader of one's own does: decode, crop, stack."""
    rng = np.random.default_rng(0)

    def crop(sample: bytes, y: int, x: int) -> np.ndarray:
        return np.asarray(Image.open(BytesIO(sample), formats=("JPEG",)).convert("RGB"))[
            y : y + CROP_PX, x : x + CROP_PX
        ]

    endless = cycle(samples)
    with ThreadPoolExecutor(threads) as pool:
        while True:
            corners = rng.integers(0, 256 - CROP_PX + 1, (BATCH, 2)).T.tolist()
            yield np.stack(list(pool.map(crop, islice(endless, BATCH), *corners)))


def conversions(scratch: Path, seconds: float, stack: ExitStack) -> dict[str, Callable[[], float]]:
    """Images/s of our worker and of Pillow, both in processes that stay alive."""
    copies, _ = conversion.gather(scratch / "images" / "val", scratch / "plain", most=0)  # no odd files among them
    names = ("alexstream-lanczos", "pillow-bicubic")
    running, missing = conversion.start(names, copies[0].parent.parent, scratch, stack)
    if missing:
        raise SystemExit("; ".join(missing))
    for tool in running.values():
        tool.warm_up(seconds)
    return {name: lambda tool=tool: tool.block()["rate"] for name, tool in running.items()}


def steps(scratch: Path, seconds: float, stack: ExitStack) -> dict[str, Callable[[], float]]:
    """Steps/s on small batches, each network in a process of its own."""
    options = argparse.Namespace(batch=16, classes=1000)

    def measure(name: str) -> Callable[[], float]:
        running = step.Running(name, options, scratch)
        stack.callback(running.stop)
        count = max(1, round(1e3 * seconds / running.step_ms(1)))
        return lambda: 1e3 / running.step_ms(count)

    return {name: measure(name) for name in ("ours-fp32", "plain-fp32", "ours-bf16")}


def text_of(ratios: Mapping[str, Ratio], machine: Machine) -> str:
    """The committed file: every ratio with what it is, and where they were measured."""
    rows = {name: {"is": RATIOS[name][2], **asdict(ratio)} for name, ratio in ratios.items()}
    told = {"code": machine.code, "machine": machine.to_text(), "ratios": rows}
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def verdict_of(ratios: Mapping[str, Ratio], machine: Machine, committed: Mapping[str, Any]) -> bool:
    """Print the table; whether nothing was lost."""
    before = {name: row["median"] for name, row in committed["ratios"].items()}
    verdicts = compare({name: ratio.median for name, ratio in ratios.items()}, before)
    print(f"{'ratio':32} committed       now  change", *(verdict.row() for verdict in verdicts), sep="\n")
    print(f"committed: {committed['machine']}\nnow:       {machine.to_text()}")
    return all(verdict.kept for verdict in verdicts)


def main() -> None:
    """Measure, then compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make the committed file anew instead of comparing")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=2.0, help="about, of a block [%(default)s]")
    parser.add_argument("--ratios", type=Path, default=COMMITTED, help="the file [%(default)s]")
    args = parser.parse_args()
    if not args.write and not args.ratios.is_file():
        raise SystemExit(f"{args.ratios}: nothing to compare with; make it with: python benchmarks/check.py --write")
    with tempfile.TemporaryDirectory() as scratch:
        ratios, machine = measured(Path(scratch), args.rounds, args.seconds), Machine.here()
    for name, ratio in ratios.items():
        print(f"{name:32} {ratio.to_text()}", file=sys.stderr)
    if args.write:
        args.ratios.write_text(text_of(ratios, machine))
        print(f"written to {args.ratios}")
    elif not verdict_of(ratios, machine, json.loads(args.ratios.read_text())):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
