"""Files beside the shards so that other tools read the set as it stands: wids, timm, Hugging Face `datasets`."""

from __future__ import annotations

from pathlib import Path

from sharding import layout
from sharding.storage import publish
from sharding.text import plain

# The lines between --- are for Hugging Face `datasets`: without them it takes the JSON files for the data.
_CARD = """\
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


def write(folder: Path, manifest: layout.Manifest) -> None:
    """Write ``classes.json``, the wids index, timm's ``_info.json`` and the card."""
    for name, data in contents(manifest).items():
        publish(folder / name, data)


def contents(manifest: layout.Manifest) -> dict[str, bytes]:
    """File name → content: all of it follows from the manifest, so that it can be checked against it."""
    ids, names = manifest.ilsvrc2012_ids, manifest.class_names
    classes = [
        {"index": i, "wnid": wnid, "ilsvrc2012_id": ids.get(wnid), "name": names.get(wnid)}
        for i, wnid in enumerate(manifest.classes)
    ]
    shards = [{"url": f"{s.name}.tar", "nsamples": s.num_samples, "filesize": s.num_bytes} for s in manifest.shards]
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": manifest.split, "shardlist": shards}
    return {
        layout.CLASSES: layout.json_bytes(classes),
        f"{manifest.split}.json": layout.json_bytes(wids),
        layout.TIMM_INFO: layout.json_bytes(_timm_info(manifest)),
        layout.CARD: _card(manifest).encode(),
    }


def _timm_info(manifest: layout.Manifest) -> dict[str, object]:
    """The split under our name and under timm's: timm looks for the one that its user types."""
    info = {
        "name": manifest.split,
        "num_samples": manifest.num_samples,
        "filenames": [f"{s.name}.tar" for s in manifest.shards],
        "shard_lengths": [s.num_samples for s in manifest.shards],
    }
    return {"splits": dict.fromkeys((manifest.split, _hub_name(manifest.split)), info)}


def _hub_name(split: str) -> str:
    """What timm and Hugging Face call a split."""
    return {"val": "validation"}.get(split, split)


def _card(manifest: layout.Manifest) -> str:
    counts = manifest.counts
    return _CARD.format(
        source=plain(manifest.source), split=manifest.split, hub_split=_hub_name(manifest.split),
        samples=manifest.num_samples,
        shards=len(manifest.shards), last=manifest.shards[-1].name[-6:], classes=len(manifest.classes),
        stored=manifest.encode.describe(), form=plain(manifest.source_form),
        schema=layout.SCHEMA, digest=manifest.digest, seed=manifest.seed, found=counts.found,
        written=counts.written, quarantined=counts.quarantined, excluded=counts.excluded,
        quarantine=layout.QUARANTINE, stats=layout.STATS, mean=layout.MEAN, timm=layout.TIMM_INFO,
    )  # fmt: skip
