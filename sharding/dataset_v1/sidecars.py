"""Write files beside the shards for other tools: wids, timm, Hugging Face ``datasets``."""

from __future__ import annotations

from pathlib import Path

from alexstream.core.storage import publish_file
from alexstream.core.text import escape_unprintable
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes
from alexstream.sharding.dataset_v1.manifest import Manifest

# The YAML header is for Hugging Face `datasets`: without it, it would load the JSON files as the data.
_CARD_TEMPLATE = """\
---
configs:
- config_name: default
  data_files:
  - split: {hub_split}
    path: "{split}-*.tar"
---
# {source} ({split})

{samples:,} samples in {shards} WebDataset shards, {classes} classes; {stored}.

| | |
|---|---|
| schema | `{schema}` |
| digest | `{digest}` |
| from | {form} |
| found = written + quarantined + excluded | {found} = {written} + {quarantined} + {excluded} |
| order | global shuffle, seed {seed} |

The images keep the licence of their source; this conversion grants no rights. Refused files and the reasons
are in `{quarantine}`, exact statistics in `{stats}` and `{mean}`.

Read it with webdataset (`{split}-{{000000..{last}}}.tar`), with DALI (`fn.readers.webdataset`, the
`.idx` files beside the tars), with timm and wids through `{timm}` and `{split}.json`, or with Hugging Face
`datasets` (`load_dataset` of this folder).
"""


def write_sidecars(folder: Path, manifest: Manifest) -> None:
    """Write ``classes.json``, the wids index, timm's ``_info.json`` and the dataset card."""
    for name, data in make_sidecars(manifest).items():
        publish_file(folder / name, data)


def make_sidecars(manifest: Manifest) -> dict[str, bytes]:
    """Return file name → content; all of it is derived from the manifest, so that it can be verified against it."""
    ids, names = manifest.ilsvrc2012_ids, manifest.class_names
    classes = [
        {"index": i, "wnid": wnid, "ilsvrc2012_id": ids.get(wnid), "name": names.get(wnid)}
        for i, wnid in enumerate(manifest.classes)
    ]
    shards = [{"url": f"{s.name}.tar", "nsamples": s.num_samples, "filesize": s.num_bytes} for s in manifest.shards]
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": manifest.split, "shardlist": shards}
    return {
        layout.CLASSES: json_bytes(classes),
        f"{manifest.split}.json": json_bytes(wids),
        layout.TIMM_INFO: json_bytes(_make_timm_info(manifest)),
        layout.CARD: _make_card(manifest).encode(),
    }


def _make_timm_info(manifest: Manifest) -> dict[str, object]:
    """Return timm's ``_info.json``, with the split under our name and the hub's, so that users may type either."""
    info = {
        "name": manifest.split,
        "num_samples": manifest.num_samples,
        "filenames": [f"{s.name}.tar" for s in manifest.shards],
        "shard_lengths": [s.num_samples for s in manifest.shards],
    }
    return {"splits": dict.fromkeys((manifest.split, _hub_name(manifest.split)), info)}


def _hub_name(split: str) -> str:
    """Return timm's and Hugging Face's name of a split."""
    return {"val": "validation"}.get(split, split)


def _make_card(manifest: Manifest) -> str:
    counts = manifest.counts
    return _CARD_TEMPLATE.format(
        source=escape_unprintable(manifest.source), split=manifest.split, hub_split=_hub_name(manifest.split),
        samples=manifest.num_samples,
        shards=len(manifest.shards), last=manifest.shards[-1].name[-6:], classes=len(manifest.classes),
        stored=manifest.encode.describe(), form=escape_unprintable(manifest.source_form),
        schema=SCHEMA, digest=manifest.digest, seed=manifest.seed, found=counts.found,
        written=counts.written, quarantined=counts.quarantined, excluded=counts.excluded,
        quarantine=layout.QUARANTINE, stats=layout.STATS, mean=layout.MEAN, timm=layout.TIMM_INFO,
    )  # fmt: skip
