"""How to do it again: commands, options, versions, digests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.blocks import Block, Code, Facts, Part, Section
from report.subject import Run, Subject
from sharding.layout import EncodeRecipe, Manifest, load_manifest
from sharding.machine import Machine
from trainer.metrics import CONFIG, OPTIONS

# Option of ``shard`` → field of the recipe.
_ENCODING = {
    "--encode": "encoding",
    "--size": "size_px",
    "--resize-filter": "resize_filter",
    "--quality": "quality",
    "--chroma": "chroma",
}


def section(subject: Subject) -> Section:
    """The last section of every report."""
    parts = []
    if subject.run is not None:
        parts.append(Part(title="The training", blocks=_training(subject.run)))
    if subject.splits:
        manifests = [load_manifest(folder) for folder in subject.splits]
        parts.append(Part(title="The data set", blocks=_data(subject.splits, manifests)))
    machine = Machine.here()
    asked = subject.request
    words = ["cli.py", "report", str(asked.folder), *(["--data", str(asked.data)] if asked.data else [])]
    rows = [("made with", machine.line()), ("command", shlex.join(words))]
    parts.append(Part(title="This report", blocks=[Facts(rows=rows)]))
    return Section(
        name="again",
        title="How to do it again",
        intro="The same sources, options, seeds and versions give the same shards to the byte and, on the same kind of "
        "machine, the same numbers.",
        parts=parts,
    )


def _training(run: Run) -> list[Block]:
    data, network = run.data, run.network
    rows = {
        "digest of the training split": data.get("train_digest"),
        "digest of the validation split": data.get("val_digest"),
        "seed": data.get("seed"),
        "batch size": data.get("batch_size"),
        "order, augmentation": f"{data['order']}, {data['augmentation']}" if data.keys() >= _ORDERED else None,
        "epochs": run.facts.get("epochs"),
        "precision": run.facts.get("precision"),
        "processes": run.facts.get("processes"),
        "checkpoint": f"{network.paths[0].name}, step {network.states[0].step:,}" if network else None,
    }
    again = ["cli.py", "train", "--config", str(run.folder / OPTIONS), "--run", "runs/again"]
    blocks: list[Block] = [Facts(rows=[(name, str(value)) for name, value in rows.items() if value not in (None, "")])]
    if run.options:
        text = (run.folder / OPTIONS).read_text("utf-8", "replace")
        blocks += [Code(label="To train it again", lines=[shlex.join(again)]), _file(OPTIONS, text)]
    elif run.facts:
        blocks.append(_file(CONFIG, (run.folder / CONFIG).read_text("utf-8", "replace")))
    return blocks


_ORDERED = {"order", "augmentation"}


def _file(name: str, text: str) -> Code:
    return Code(label=name, lines=text.splitlines())


def _data(folders: Sequence[Path], manifests: Sequence[Manifest]) -> list[Block]:
    commands = [
        shlex.join(["cli.py", "shard", "--src", one.source, "--out", str(folder), "--split", one.split, *_options(one)])
        for folder, one in zip(folders, manifests, strict=True)
    ]
    rows = [(f"digest of {one.split}", one.digest) for one in manifests]
    rows += [(f"{one.split} was made with", _versions(one.tool)) for one in manifests]
    label = "To shard it again, where SRC is the folder that holds the source (only its name is kept)"
    return [Code(label=label.replace("SRC", "--src"), lines=commands), Facts(rows=rows)]


def _options(manifest: Manifest) -> list[str]:
    """The options that differ from the defaults, and the seed."""
    plain, used = EncodeRecipe(), manifest.encode
    differing = {o: getattr(used, f) for o, f in _ENCODING.items() if getattr(used, f) != getattr(plain, f)}
    return ["--seed", str(manifest.seed), *(str(word) for pair in differing.items() for word in pair)]


def _versions(tool: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tool.items())
