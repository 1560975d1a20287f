"""Build the section on reproducing a data set, a run and the report: commands, options, versions, digests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
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
    parts = []
    if subject.run is not None:
        parts.append(Subsection(title="The training", blocks=_build_training(subject.run)))
    if subject.splits:
        manifests = [load_manifest(folder) for folder in subject.splits]
        parts.append(Subsection(title="The data set", blocks=_build_data(subject.splits, manifests)))
    machine = Machine.here()
    asked = subject.request
    words = ["cli.py", "report", str(asked.folder), *(["--data", str(asked.data)] if asked.data else [])]
    rows = [("made with", machine.to_text()), ("command", shlex.join(words))]
    parts.append(Subsection(title="This report", blocks=[Facts(rows=rows)]))
    return Section(
        name="again",
        title="How to do it again",
        intro="The same sources, options, seeds and versions give the same shards to the byte and, on the same kind of "
        "machine, the same numbers.",
        parts=parts,
    )


def _build_training(run: Run) -> list[Block]:
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
    again = ["cli.py", "train", "--config", str(run.folder / CONFIG_FILE), "--run", "runs/again"]
    blocks: list[Block] = [Facts(rows=[(name, str(value)) for name, value in rows.items() if value not in (None, "")])]
    if run.options:
        blocks += [Code(label="To train it again", lines=[shlex.join(again)]), *_quote_file(run.folder / CONFIG_FILE)]
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


def _build_data(folders: Sequence[Path], manifests: Sequence[Manifest]) -> list[Block]:
    commands = [
        shlex.join(
            ["cli.py", "shard", "--src", one.source, "--out", str(folder), "--split", one.split, *_list_options(one)]
        )
        for folder, one in zip(folders, manifests, strict=True)
    ]
    rows = [(f"digest of {one.split}", one.digest) for one in manifests]
    rows += [(f"{one.split} was made with", _format_versions(one.tool)) for one in manifests]
    label = "To shard it again, where SRC is the folder that holds the source (only its name is kept)"
    return [Code(label=label.replace("SRC", "--src"), lines=commands), Facts(rows=rows)]


def _list_options(manifest: Manifest) -> list[str]:
    """Return the seed and the options of ``shard`` that differ from its defaults, as words of a command."""
    plain, used = EncodeRecipe(), manifest.encode
    differing = {o: getattr(used, f) for o, f in _ENCODE_OPTIONS.items() if getattr(used, f) != getattr(plain, f)}
    return ["--seed", str(manifest.seed), *(str(word) for pair in differing.items() for word in pair)]


def _format_versions(tool: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tool.items())
