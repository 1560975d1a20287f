"""Describe a finished data set from its manifest, catalog and quarantine, without reading a shard."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexstream.core.errors import DatasetError
from alexstream.core.program import program_name
from alexstream.core.schema import parse_json
from alexstream.core.storage import read_small
from alexstream.core.text import count_of, escape_unprintable, quote_value
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.overview import format_classes, summarize_class_sizes

MAX_QUARANTINE_BYTES = 1 << 30  # bytes: some million refused files
_MOST_LINE = 1 << 20  # bytes; a path has 32 KiB at most, which may be escaped
_MOST_REASONS = 10_000  # we have some dozens


def facts(folder: Path) -> dict[str, Any]:
    """Return the facts as JSON values. Raises DatasetError if ``folder`` holds no finished data set."""
    manifest = load_manifest(folder)
    written = {name: manifest.counts_by_class[name].written for name in manifest.classes}
    columns = load_catalog(folder, manifest, ("notes", "source_width", "source_height"))
    notes = Counter(note for text in columns["notes"] for note in text.split("; ") if note)
    left_out = by_reason(load_quarantine(folder, manifest))
    return {
        "folder": str(folder),
        "split": manifest.split,
        "source": manifest.source,
        "source_form": manifest.source_form,
        "notices": list(manifest.notices),
        "digest": manifest.digest,
        "samples": manifest.num_samples,
        "classes": len(manifest.classes),
        "class_list": written,
        "samples_per_class": summarize_class_sizes(written),
        "shards": len(manifest.shards),
        "bytes": sum(s.num_bytes for s in manifest.shards),
        "counts": asdict(manifest.counts),
        "encode": asdict(manifest.encode),
        "seed": manifest.seed,
        "source_pixels": {
            name: {"smallest": int(columns[name].min()), "largest": int(columns[name].max())}
            for name in ("source_width", "source_height")
        },
        "notes": dict(notes.most_common()),
        "left_out": {f"{outcome}: {reason}": n for (outcome, reason), n in left_out.most_common()},
        "tool": manifest.tool,
    }


def load_quarantine(folder: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the refused and excluded files one by one, with ``outcome``, ``path`` and ``reason``.

    There may be millions: count them, and keep few. Raises DatasetError if the list is missing, does not match the
    manifest, or is malformed.
    """
    path, remedy = folder / layout.QUARANTINE, f"find all damage with: {program_name()} verify"
    if not path.is_file():
        raise DatasetError(f"{path} is missing or no regular file; {remedy}")
    try:
        with _open_quarantine(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest.quarantine_sha256:
                raise DatasetError(f"{path}: sha256 differs from the manifest's; {remedy}")
            file.seek(0)
            while line := file.readline(_MOST_LINE):
                yield _parse_quarantine_row(line)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: malformed ({error}); {remedy}") from error


def _open_quarantine(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open the list, of at most ``MAX_QUARANTINE_BYTES`` bytes.

    Raises OSError for a larger one, perhaps a hole in the disk.
    """
    if not isinstance(path, Path):  # in an object store
        return io.BytesIO(read_small(path, MAX_QUARANTINE_BYTES))
    if (size := path.stat().st_size) > MAX_QUARANTINE_BYTES:
        raise OSError(f"{size:,} bytes, more than any has")
    return path.open("rb")


def by_reason(rows: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Count files by outcome and reason. Raises DatasetError for more reasons than any list of ours has."""
    counted: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counted[row["outcome"], row["reason"]] += 1
        if len(counted) > _MOST_REASONS:
            raise DatasetError(f"{layout.QUARANTINE} gives more than {_MOST_REASONS:,} reasons; shard the source again")
    return counted


def _parse_quarantine_row(line: bytes) -> dict[str, Any]:
    row = parse_json(line)
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("outcome", "path", "reason")):
        raise ValueError("a line without outcome, path and reason")
    return row


def describe_dataset(folder: Path, *, all_classes: bool = False) -> str:
    """Return the facts as text; ``all_classes`` names every class instead of the first and last."""
    f = facts(folder)
    counts, encode, pixels = f["counts"], f["encode"], f["source_pixels"]
    rows = {
        "split": f"{f['split']} of {quote_value(f['source'])} ({f['source_form']})",
        "remarkable": "; ".join(f["notices"]) or "nothing",
        "digest": f["digest"],
        "samples": f"{f['samples']:,} in {count_of(f['shards'], 'shard')}, {f['bytes'] / 2**20:,.1f} MiB",
        "classes": "; ".join(format_classes(f["class_list"])),
        "audit": "found {found:,} = written {written:,} + quarantined {quarantined:,} + excluded {excluded:,}".format(
            **counts
        ),
        "stored as": EncodeRecipe(**encode).describe() + (", fast DCT" if encode["dct"] == "fast" else ""),
        "sources were": "{} to {} pixels wide, {} to {} high".format(
            *(pixels[name][end] for name in pixels for end in ("smallest", "largest"))
        ),
        "turned": ", ".join(f"{note} ({n:,})" for note, n in f["notes"].items()) or "nothing",
        "left out": ", ".join(f"{reason} ({n:,})" for reason, n in f["left_out"].items()) or "nothing",
        "made with": ", ".join(f"{name} {version}" for name, version in f["tool"].items()) + f"; seed {f['seed']}",
    }
    lines = [str(f["folder"]), *(f"  {name:13} {escape_unprintable(value)}" for name, value in rows.items())]
    if all_classes:
        lines += [f"  {escape_unprintable(line)}" for line in format_classes(f["class_list"], all_classes=True)]
    return "\n".join(lines)
