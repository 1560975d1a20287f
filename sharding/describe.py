"""What a finished data set is, from its manifest, catalog and quarantine; no shard is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharding import layout
from sharding.errors import DatasetError
from sharding.fields import decoded, parsed
from sharding.text import plain


def facts(folder: Path) -> dict[str, Any]:
    """The facts as JSON values. Raises DatasetError if ``folder`` holds no finished data set."""
    manifest = layout.load_manifest(folder)
    written = [c.written for c in manifest.counts_by_class.values()]
    columns = layout.load_catalog(folder, manifest, ("notes", "source_width", "source_height"))
    notes = Counter(note for text in columns["notes"] for note in text.split("; ") if note)
    rows = quarantine(folder, manifest)
    return {
        "folder": str(folder),
        "split": manifest.split,
        "source": manifest.source,
        "source_form": manifest.source_form,
        "notices": list(manifest.notices),
        "digest": manifest.digest,
        "samples": manifest.num_samples,
        "classes": len(manifest.classes),
        "samples_per_class": {"smallest": min(written), "largest": max(written)},
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
        "left_out": dict(Counter(f"{row['outcome']}: {row['reason']}" for row in rows).most_common()),
        "tool": manifest.tool,
    }


def quarantine(folder: Path, manifest: layout.Manifest) -> list[dict[str, Any]]:
    """The refused and excluded files, with ``outcome``, ``path`` and ``reason``.

    Raises DatasetError if the list is missing, is not the manifest's, or is no such list.
    """
    path, remedy = folder / layout.QUARANTINE, "find all damage with: cli.py verify"
    if not path.is_file():
        raise DatasetError(f"{path} is missing or no regular file; {remedy}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.quarantine_sha256:
        raise DatasetError(f"{path}: sha256 differs from the manifest's; {remedy}")
    try:
        return [_left_out(line) for line in data.splitlines()]
    except ValueError as error:
        raise DatasetError(f"{path}: malformed ({error}); {remedy}") from error


def _left_out(line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = decoded(dict[str, Any], parsed(line))
    if not all(isinstance(row.get(name), str) for name in ("outcome", "path", "reason")):
        raise ValueError("a line without outcome, path and reason")
    return row


def describe(folder: Path) -> str:
    """The facts for a person."""
    f = facts(folder)
    counts, encode, pixels = f["counts"], f["encode"], f["source_pixels"]
    rows = {
        "split": f"{f['split']} of {f['source']!r} ({f['source_form']})",
        "remarkable": "; ".join(f["notices"]) or "nothing",
        "digest": f["digest"],
        "samples": f"{f['samples']:,} in {f['shards']} shards, {f['bytes'] / 2**20:,.1f} MiB",
        "classes": "{:,}, {smallest:,} to {largest:,} samples each".format(f["classes"], **f["samples_per_class"]),
        "audit": "found {found:,} = written {written:,} + quarantined {quarantined:,} + excluded {excluded:,}".format(
            **counts
        ),
        "stored as": layout.EncodeRecipe(**encode).describe(),
        "sources were": "{} to {} pixels wide, {} to {} high".format(
            *(pixels[name][end] for name in pixels for end in ("smallest", "largest"))
        ),
        "turned": ", ".join(f"{note} ({n:,})" for note, n in f["notes"].items()) or "nothing",
        "left out": ", ".join(f"{reason} ({n:,})" for reason, n in f["left_out"].items()) or "nothing",
        "made with": ", ".join(f"{name} {version}" for name, version in f["tool"].items()) + f"; seed {f['seed']}",
    }
    return "\n".join([str(f["folder"]), *(f"  {name:13} {plain(value)}" for name, value in rows.items())])
