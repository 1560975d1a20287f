"""What a finished data set is, from its manifest, catalog and quarantine; no shard is read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharding import layout
from sharding.errors import DatasetError


def facts(folder: Path) -> dict[str, Any]:
    """The facts as JSON values. Raises DatasetError if ``folder`` holds no finished data set."""
    manifest = layout.load_manifest(folder)
    written = [c.written for c in manifest.counts_by_class.values()]
    columns = layout.load_catalog(folder, manifest, ("notes", "source_width", "source_height"))
    notes = Counter(note for text in columns["notes"] for note in text.split("; ") if note)
    rows = quarantine(folder)
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


def quarantine(folder: Path) -> list[dict[str, Any]]:
    """The refused and excluded files, with ``outcome``, ``path`` and ``reason``. Raises DatasetError if unreadable."""
    path = folder / layout.QUARANTINE
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: missing or unreadable ({error}); find the damage with: cli.py verify") from error


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
    return "\n".join([str(f["folder"]), *(f"  {name:13} {value}" for name, value in rows.items())])
