"""Compare what two versions of this program make: data sets, batches, losses and checkpoints.

Example::

    git worktree add ../before c389679
    python benchmarks/same.py --before ../before
    python benchmarks/same.py --before ../before --sources photos/ layouts/* --batches 100

Each version runs in processes of its own, with its own code. Compared are the sha256 of every file of the data sets (of
manifests: all fields but the versions of programs), of the ids and pixels of batches in every recipe and order, and of
every loss and every tensor of the checkpoint after an epoch of both recipes of training, on one device and on two
ranks. A source that is refused must be refused by both. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import command_line, describe, result_path
from photographs import ROOT, default_images

ENCODINGS, AUGMENTATIONS = ("jpeg", "raw", "keep"), ("paper", "original", "inception", "none")
BATCHES = """
import hashlib, itertools, json, sys
try:
    from alexstream.pipeline.stream import ShardedData
except ImportError:  # versions before the front door
    from pipeline.loader import ShardedData
folder, augmentation, order, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
data = ShardedData(train=folder + "/train", val=folder + "/val", batch_size=32, augmentation=augmentation, order=order)
digest = hashlib.sha256()
for batch in itertools.chain(itertools.islice(data.training(), count), data.validation()):
    for tensor in (batch.ids_N, batch.labels_N, batch.images_NCHW):
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""
TENSORS = """
import hashlib, sys, torch
state = torch.load(sys.argv[1], weights_only=True)
digest = hashlib.sha256()
for group in ("parameters", "velocity"):
    for name in sorted(state[group]):
        digest.update(name.encode() + state[group][name].numpy().tobytes())
print(digest.hexdigest())
"""


class Version:
    """A checkout, and a folder for what it makes."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root.resolve(), scratch
        self.environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run Python with ``words`` in the checkout."""
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)

    def make_data_set(self, source: Path, encoding: str, number: int) -> dict[str, str]:
        """Convert a source; return the sha256 of each file, or that it was refused."""
        out = self.scratch / f"{number}-{encoding}"
        done = self.run(
            "cli.py", "shard", "--src", source, "--out", out, "--encode", encoding, "--workers", 2, "--quiet"
        )
        if done.returncode:
            return {"exit code": str(done.returncode)}
        files = sorted(path for path in out.rglob("*") if path.is_file())
        return {str(path.relative_to(out)): hashlib.sha256(_read_comparable(path)).hexdigest() for path in files}

    def digest_batches(self, folder: Path, augmentation: str, order: str, count: int) -> str:
        """Return the digest of the first batches of training and of all of validation."""
        done = self.run("-c", BATCHES, folder, augmentation, order, count)
        if done.returncode:
            raise SystemExit(done.stderr[-1000:])
        return done.stdout.strip()

    def train_epoch(self, folder: Path, recipe: str, devices: int) -> tuple[list[float], str]:
        """Train an epoch; return its losses and the digest of the checkpoint's tensors."""
        run = self.scratch / f"run-{recipe}-{devices}"
        words = ["--data", folder, "--run", run, "--recipe", recipe, "--devices", devices, "--device", "cpu", "--quiet"]
        done = self.run("cli.py", "train", *words, "--epochs", 1, "--width", 0.125, "--batch-size", 32)
        if done.returncode:
            raise SystemExit(done.stderr[-1000:])
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses = [row["loss"] for row in rows if "loss" in row]
        (newest,) = run.glob("*.pt")
        return losses, self.run("-c", TENSORS, newest).stdout.strip()


def _read_comparable(path: Path) -> bytes:
    """Return the bytes of a file.

    Of a manifest without the programs' versions and the checksum that follows from them.
    """
    content = path.read_bytes()
    if path.name != "manifest.json":
        return content
    fields = {name: value for name, value in json.loads(content).items() if name not in ("tool", "checksum", "sha256")}
    return json.dumps(fields, sort_keys=True).encode()


def compare_versions(before: Version, after: Version, sources: list[Path], count: int) -> list[tuple[str, int, int]]:
    """Compare everything; return (what, number compared, number that differs)."""
    rows = []
    for encoding in ENCODINGS:
        different = files = 0
        for i, source in enumerate(sources):
            old, new = (one.make_data_set(source, encoding, i) for one in (before, after))
            files += len(old.keys() | new.keys())
            names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
            different += len(names)
            print(f"{encoding} {source.name}: {len(new)} files, {names[:5] or 'the same'}", file=sys.stderr)
        rows.append((f"files of {len(sources)} sources as {encoding}", files, different))
    folder = before.scratch / "0-jpeg"
    choices = list(itertools.product(AUGMENTATIONS, ("global", "grouped")))
    found = [tuple(one.digest_batches(folder, *choice, count) for one in (before, after)) for choice in choices]
    rows.append((f"streams of {count} batches of 32 and a validation", len(found), sum(a != b for a, b in found)))
    trainings = list(itertools.product(("paper", "original"), (1, 2)))
    results = [tuple(one.train_epoch(folder, *choice) for one in (before, after)) for choice in trainings]
    for choice, (old, new) in zip(trainings, results, strict=True):
        print(f"{choice}: {len(old[0])} losses, {old[1][:80]}, {new[1][:80]}", file=sys.stderr)
    num_losses = sum(len(old[0]) for old, _ in results)
    wrong = sum(a != b for old, new in results for a, b in itertools.zip_longest(old[0], new[0]))
    rows.append(("losses of 4 trainings (2 recipes, 1 and 2 devices)", num_losses, wrong))
    rows.append(("checkpoints of these", len(results), sum(old[1] != new[1] for old, new in results)))
    return rows


def main() -> int:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version")
    parser.add_argument("--sources", type=Path, nargs="+", help="what is converted [default: a drawn set and images]")
    parser.add_argument("--batches", type=int, default=250, help="of each stream [%(default)s]")
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        before, after = Version(args.before, scratch / "before"), Version(ROOT, scratch / "after")
        drawn = scratch / "drawn"
        before.run("cli.py", "sample", "--out", drawn, "--train-per-class", 20, "--val-per-class", 4, "--quiet")
        given = args.sources or [path for path in [default_images()] if path]
        rows = compare_versions(before, after, [drawn, *(path.resolve() for path in given)], args.batches)
    commit = subprocess.run(
        ["git", "-C", args.before, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True
    )
    lines = [
        "# The same as before",
        "",
        f"`{command_line()}`",
        "",
        describe(),
        "",
        f"Before: {commit.stdout.strip()}.",
        "",
    ]
    lines += ["| compared | number | different |", "|---|---|---|", *(f"| {a} | {b:,} | {c} |" for a, b, c in rows)]
    path = args.out or result_path("same")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")
    return int(any(different for _, _, different in rows))


if __name__ == "__main__":
    sys.exit(main())
