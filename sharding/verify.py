"""Prove a finished data set again from its files: every hash, every member, every sample, every sidecar.

Gives findings instead of raising, so that one damaged shard does not hide another.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sharding import layout, sidecars
from sharding.errors import AlexstreamError, BadImageError, DatasetError
from sharding.image import decode_stored
from sharding.stats import PixelSums, summarise
from sharding.tar import Member, index_bytes
from sharding.workers import default_workers, run_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be: the file, and what was expected and found."""

    file: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What ``verify`` looked at and what it found."""

    folder: Path
    manifest: layout.Manifest | None
    fast: bool
    findings: tuple[Finding, ...]

    def lines(self) -> str:
        """The verdict for a person."""
        found = [f"{self.folder / f.file}: {f.problem}" for f in self.findings]
        if self.manifest is None or found:
            return "\n".join([*found, f"{self.folder}: NOT INTACT, {len(found)} findings"])
        depth = "sizes and hashes" if self.fast else "hashes, indexes, every sample, labels, statistics"
        return f"{self.folder}: intact ({self.manifest.num_samples:,} samples; {depth})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    folder: Path
    shard: layout.ShardRecord
    classes: tuple[str, ...]
    size_px: int
    fast: bool


@dataclass(slots=True, kw_only=True)
class _Proof:
    """What was found in one shard, or in all of them together."""

    sums: PixelSums
    findings: list[Finding] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)

    def merge(self, other: _Proof) -> None:
        self.sums.merge(other.sums)
        self.findings += other.findings
        self.keys.update(other.keys)
        self.labels.update(other.labels)


def verify(folder: Path, *, fast: bool = False, num_workers: int = 0, quiet: bool = False) -> Verdict:
    """Check everything that DATASET v1 promises of ``folder``; ``fast``: sizes and hashes only."""
    try:
        manifest = layout.load_manifest(folder)
    except AlexstreamError as error:
        finding = Finding(file=layout.MANIFEST, problem=str(error))
        return Verdict(folder=folder, manifest=None, fast=fast, findings=(finding,))
    proof = _prove_shards(folder, manifest, fast, num_workers, quiet)
    findings = [*proof.findings, *_sidecar_findings(folder, manifest), *_foreign_findings(folder, manifest)]
    findings += _findings_of(layout.STATS, lambda: _load_statistics(folder, manifest))
    if not fast and not proof.findings:
        findings += _whole_findings(folder, manifest, proof)
    return Verdict(folder=folder, manifest=manifest, fast=fast, findings=tuple(findings))


def _prove_shards(folder: Path, manifest: layout.Manifest, fast: bool, num_workers: int, quiet: bool) -> _Proof:
    jobs = [
        _Job(folder=folder, shard=shard, classes=manifest.classes, size_px=manifest.encode.size_px, fast=fast)
        for shard in manifest.shards
    ]
    workers = min(num_workers or default_workers(), len(jobs))
    whole = _Proof(sums=PixelSums(manifest.encode.size_px))
    with tqdm(total=manifest.num_samples, unit="images", desc="verify", disable=quiet) as bar:
        for proof in run_jobs(_prove_shard, jobs, workers, bar.update):
            whole.merge(proof)
    return whole


def _prove_shard(job: _Job, progress: Callable[[int], None]) -> _Proof:
    proof = _Proof(sums=PixelSums(job.size_px))
    contents: dict[str, bytes] = {}
    expected = {"tar": job.shard.sha256, "idx": job.shard.index_sha256, "parquet": job.shard.catalog_sha256}
    for extension, digest in expected.items():
        name = f"{job.shard.name}.{extension}"
        path = job.folder / name
        if not path.is_file():
            proof.findings.append(Finding(file=name, problem="is missing"))
            continue
        contents[extension] = path.read_bytes()
        if extension == "tar" and len(contents["tar"]) != job.shard.num_bytes:
            problem = f"has {len(contents['tar'])} bytes, the manifest says {job.shard.num_bytes}"
            proof.findings.append(Finding(file=name, problem=problem))
        elif hashlib.sha256(contents[extension]).hexdigest() != digest:
            proof.findings.append(Finding(file=name, problem="sha256 differs from the manifest's"))
    if proof.findings or job.fast:
        progress(job.shard.num_samples)
    else:
        try:
            _prove_samples(job, contents, proof, progress)
        except (tarfile.TarError, OSError, ValueError, KeyError) as error:
            problem = f"is not what DATASET v1 describes ({error})"
            proof.findings.append(Finding(file=f"{job.shard.name}.tar", problem=problem))
    return proof


def _prove_samples(job: _Job, contents: dict[str, bytes], proof: _Proof, progress: Callable[[int], None]) -> None:
    """Walk the tar and compare index, catalog, labels and pixels with what is there."""
    tar_name = f"{job.shard.name}.tar"
    members = _walk(contents["tar"])
    pairs = list(zip(members[::2], members[1::2], strict=False))
    if index_bytes(pairs) != contents["idx"]:
        proof.findings.append(Finding(file=f"{job.shard.name}.idx", problem="does not describe the tar's members"))
    rows = layout.load_catalog_shard(job.folder, job.shard, layout.CATALOG_COLUMNS)
    if len(rows["key"]) != len(pairs) or len(pairs) != job.shard.num_samples:
        found = f"{len(pairs)} samples, the catalog {len(rows['key'])}, the manifest {job.shard.num_samples}"
        proof.findings.append(Finding(file=tar_name, problem=f"holds {found}"))
        return
    for i, (image, label) in enumerate(pairs):
        row = {name: column[i] for name, column in rows.items()}
        wrong = _prove_sample(job, contents["tar"], image, label, row, proof.sums)
        if wrong:
            proof.findings.append(Finding(file=tar_name, problem=f"sample {row['key']}: {wrong}"))
        proof.keys[str(row["key"])] += 1
        proof.labels[int(row["label"])] += 1
        progress(1)


def _prove_sample(
    job: _Job, tar: bytes, image: Member, label: Member, row: dict[str, Any], sums: PixelSums
) -> str | None:
    """What is wrong with one sample, or None; its pixels are added to ``sums``."""
    jpeg, text = (tar[m.offset : m.offset + m.size] for m in (image, label))
    if (image.name, label.name) != (f"{row['key']}.jpg", f"{row['key']}.cls"):
        return f"members are called {image.name} and {label.name}"
    if (image.offset, image.size) != (row["offset"], row["size"]):
        return f"lies at {image.offset} ({image.size} bytes), the catalog says {row['offset']} ({row['size']} bytes)"
    if not text.isdigit() or int(text) != row["label"] or not 0 <= int(text) < len(job.classes):
        return f"label {text!r}, the catalog says {row['label']}"
    if job.classes[int(text)] != row["wnid"]:
        return f"label {int(text)} is class {job.classes[int(text)]}, the catalog says {row['wnid']}"
    if hashlib.sha256(jpeg).hexdigest() != row["stored_sha256"]:
        return "sha256 differs from the catalog's"
    try:
        sums.add(decode_stored(jpeg))
    except (BadImageError, ValueError) as error:
        return f"does not decode ({error})"
    return None


def _walk(tar: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [Member(name=m.name, offset=m.offset_data, size=m.size) for m in archive]


def _whole_findings(folder: Path, manifest: layout.Manifest, proof: _Proof) -> list[Finding]:
    """What no single shard shows: unique keys, counts by class, statistics of all pixels."""
    problems = [f"key {key} comes {count} times" for key, count in proof.keys.items() if count > 1]
    for index, wnid in enumerate(manifest.classes):
        counted = manifest.counts_by_class[wnid].written
        if proof.labels[index] != counted:
            problems.append(f"class {wnid} has {proof.labels[index]} samples, counts_by_class says {counted}")
    findings = [Finding(file=layout.MANIFEST, problem=problem) for problem in problems]
    try:
        if summarise(proof.sums, manifest.digest) != layout.load_stats(folder, manifest):
            findings.append(Finding(file=layout.STATS, problem="statistics are not those of the stored pixels"))
    except DatasetError:
        pass  # the statistics cannot be read: that is a finding already
    return findings


def _load_statistics(folder: Path, manifest: layout.Manifest) -> layout.DatasetStats:
    stats = layout.load_stats(folder, manifest)
    layout.load_mean_image(folder, stats)
    return stats


def _sidecar_findings(folder: Path, manifest: layout.Manifest) -> list[Finding]:
    findings = []
    for name, expected in sidecars.contents(manifest).items():
        path = folder / name
        if not path.is_file():
            findings.append(Finding(file=name, problem="is missing"))
        elif path.read_bytes() != expected:
            findings.append(Finding(file=name, problem="is not what the manifest gives"))
    return findings + _findings_of(layout.QUARANTINE, lambda: _check_quarantine(folder, manifest))


def _check_quarantine(folder: Path, manifest: layout.Manifest) -> None:
    path = folder / layout.QUARANTINE
    if not path.is_file():
        raise DatasetError("is missing")
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.quarantine_sha256:
        raise DatasetError("sha256 differs from the manifest's")


def _foreign_findings(folder: Path, manifest: layout.Manifest) -> list[Finding]:
    """Files that the manifest knows nothing of: left by a crash, or put there."""
    known = {layout.MANIFEST, layout.STATS, layout.MEAN, layout.QUARANTINE, *sidecars.contents(manifest)}
    known |= {f"{s.name}.{extension}" for s in manifest.shards for extension in ("tar", "idx", "parquet")}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in known)
    return [Finding(file=name, problem="is not part of the data set") for name in foreign]


def _findings_of(file: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except AlexstreamError as error:
        return [Finding(file=file, problem=str(error))]
    return []
