"""What must be equal between two runs: files, losses, batches."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch


def file_hashes(folder):
    """The sha256 of every file below a folder, by its path there."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def losses_of(run):
    """The loss of every step that a run has written, by its number; a line that is being written is left out."""
    path, rows = Path(run) / "metrics.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def are_equal(first, second):
    """Whether two lists of batches, each a tuple of tensors, have the same bits."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )
