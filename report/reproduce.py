"""Build the section on reproducing a data set, a run and the report: commands, options, versions, digests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from alexstream.core.machine import Machine
from alexstream.report.blocks import Block, Code, Facts, Section, Subsection
from alexstream.report.subject import Run, Subject
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.trainer.metrics import CONFIG_FILE, RUN_FILE, read_run_file

# Option of ``shard`` → field of the recipe.
_ENCODE_OPTIONS = {
    "--encode": "encoding",
    "--size": "size_px",
    "--resize-filter": "resize_filter",
    "--quality": "quality",
    "--chroma": "chroma",
}


def build_section(subject: Subject) -> Section:
    """Build the last section of every report, on how to reproduce it."""
    parts, asked = [], subject.request
    if subject.run is not None:
        parts.append(Subsection(title="The training", blocks=_build_training(subject.run, asked.program)))
    if subject.splits:
        manifests = [load_manifest(folder) for folder in subject.splits]
        parts.append(Subsection(title="The data set", blocks=_build_data(subject.splits, manifests, asked.program)))
    machine = Machine.here()
    words = ["report", str(asked.folder), *(["--data", str(asked.data)] if asked.data else [])]
    rows = [("made with", machine.to_text()), ("command", f"{asked.program} {shlex.join(words)}")]
    parts.append(Subsection(title="This report", blocks=[Facts(rows=rows)]))
    return Section(
        name="again",
        title="How to do it again",
        intro="The same sources, options, seeds and versions give the same shards to the byte and, on the same kind of "
        "machine, the same numbers.",
        parts=parts,
    )


def _build_training(run: Run, program: str) -> list[Block]:
    data, network = run.data, run.network
    rows = {
        "digest of the training split": data.get("train_digest"),
        "digest of the validation split": data.get("val_digest"),
        "seed": data.get("seed"),
        "batch size": data.get("batch_size"),
        "order, augmentation": f"{data['order']}, {data['augmentation']}" if data.keys() >= _STREAM_FIELDS else None,
        "epochs": run.facts.get("epochs"),
        "precision": run.facts.get("precision"),
        "processes": run.facts.get("processes"),
        "checkpoint": f"{network.paths[0].name}, step {network.states[0].step:,}" if network else None,
    }
    again = ["train", "--config", str(run.folder / CONFIG_FILE), "--run", "runs/again"]
    blocks: list[Block] = [Facts(rows=[(name, str(value)) for name, value in rows.items() if value not in (None, "")])]
    if run.options:
        blocks += [
            Code(label="To train it again", lines=[f"{program} {shlex.join(again)}"]),
            *_quote_file(run.folder / CONFIG_FILE),
        ]
    elif run.facts:
        blocks += _quote_file(run.folder / RUN_FILE)
    return blocks


_STREAM_FIELDS = {"order", "augmentation"}


def _quote_file(path: Path) -> list[Block]:
    """Show a file of the run folder; nothing if it is no regular file (any more): a page is made for others to read."""
    try:
        text = read_run_file(path).decode("utf-8", "replace")
    except OSError:
        return []
    return [Code(label=path.name, lines=text.splitlines())]


def _build_data(folders: Sequence[Path], manifests: Sequence[Manifest], program: str) -> list[Block]:
    rows = [(f"digest of {one.split}", one.digest) for one in manifests]
    rows += [(f"{one.split} was made with", _format_versions(one.tool)) for one in manifests]
    label = (
        "To shard it again. Of --src only the name is kept; --labels, --classes, --classes-at and --max-bad, if they "
        "were given, are to be added"
    )
    return [
        Code(label=label, lines=[f"{program} {line}" for line in _list_commands(folders, manifests)]),
        Facts(rows=rows),
    ]


def _list_commands(folders: Sequence[Path], manifests: Sequence[Manifest]) -> list[str]:
    """Return the command that made all splits, or one for each if they were made apart."""
    first, parent = manifests[0], folders[0].parent
    are_together = all(folder == parent / one.split for folder, one in zip(folders, manifests, strict=True))
    are_alike = len({(one.source, one.source_form, one.seed, one.encode) for one in manifests}) == 1
    if len(folders) > 1 and are_together and are_alike:
        share = next(filter(None, map(_read_held_out_share, manifests)), "")
        return [_join_command(first, parent, ["--val-share", share] if share else [])]
    return [_join_command(one, *_find_out(folder, one)) for folder, one in zip(folders, manifests, strict=True)]


def _find_out(folder: Path, manifest: Manifest) -> tuple[Path, list[str]]:
    """Return the folder and the options with which ``shard`` makes one split there.

    A source of several splits, which its form names, goes to a folder of the split's name within ``--out``.
    """
    others = set(re.findall(r"\b(?:train|val|test)\b", manifest.source_form)) - {manifest.split}
    is_within = bool(others) and folder.name == manifest.split
    return folder.parent if is_within else folder, ["--split", manifest.split]


def _read_held_out_share(manifest: Manifest) -> str:
    """Return the share that was held out for a validation split, as ``--val-share`` takes it, or ""."""
    for notice in manifest.notices:
        if found := re.match(r"held out of train: (\d{1,3}(?:\.\d{1,9})?(?:e-\d{1,2})?) % of", notice):
            return f"{Decimal(found[1]) / 100:g}"
    return ""


def _join_command(manifest: Manifest, out: Path, options: Sequence[str]) -> str:
    """Return the command line, with the seed and what of the encoding is not the default of ``shard``."""
    plain, used = EncodeRecipe(), manifest.encode
    differing = {o: getattr(used, f) for o, f in _ENCODE_OPTIONS.items() if getattr(used, f) != getattr(plain, f)}
    encoding = (str(word) for pair in differing.items() for word in pair)
    return shlex.join(
        ["shard", "--src", manifest.source, "--out", str(out), *options, "--seed", str(manifest.seed), *encoding]
    )


def _format_versions(tool: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tool.items())
