"""Prove a finished data set again from its files: every hash, every member, every sample, every sidecar.

Gives findings instead of raising, so that one damaged shard does not hide another.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from sharding import layout, sidecars
from sharding.convert import readable
from sharding.errors import AlexstreamError, BadImageError, DatasetError
from sharding.image import stored_pixels
from sharding.progress import progress
from sharding.sources.place import open_ranges
from sharding.sources.tar_walk import walk_tar
from sharding.stats import PixelSums, summarise
from sharding.tar import Member, index_bytes
from sharding.text import plain
from sharding.workers import default_workers, run_jobs

_KEY, _EXTENSIONS = re.compile(r"[A-Za-z0-9_-]+"), ("jpg", "rgb", "png", "webp")


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

    def json(self) -> dict[str, Any]:
        """The verdict for a machine."""
        return {
            "folder": str(self.folder),
            "digest": self.manifest.digest if self.manifest else None,
            "samples": self.manifest.num_samples if self.manifest else None,
            "fast": self.fast,
            "intact": not self.findings,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def lines(self) -> str:
        """The verdict for a person."""
        found = [plain(f"{self.folder / f.file}: {f.problem}") for f in self.findings]
        if self.manifest is None or found:
            return "\n".join([*found, f"{self.folder}: NOT INTACT, {len(found)} findings"])
        depth = "sizes and hashes" if self.fast else "hashes, indexes, every sample, labels, statistics"
        return f"{self.folder}: intact ({self.manifest.num_samples:,} samples; {depth})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    folder: Path
    shard: layout.ShardRecord
    manifest: layout.Manifest
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
    findings += _statistics_findings(folder, manifest)
    if _fits_nothing(manifest, findings):
        problem = "fits none of the files beside it; it is another data set's, or they are"
        findings.insert(0, Finding(file=layout.MANIFEST, problem=problem))
    if not fast and not proof.findings:
        findings += _whole_findings(folder, manifest, proof)
    return Verdict(folder=folder, manifest=manifest, fast=fast, findings=tuple(findings))


def _fits_nothing(manifest: layout.Manifest, findings: list[Finding]) -> bool:
    """Whether all that is bound to a manifest is wrong: then it is more likely the manifest."""
    wrong = {finding.file for finding in findings}
    return wrong >= {layout.STATS, *_shard_files(manifest)}


def _shard_files(manifest: layout.Manifest) -> set[str]:
    return {f"{s.name}.{extension}" for s in manifest.shards for extension in ("tar", "idx", "parquet")}


def _prove_shards(folder: Path, manifest: layout.Manifest, fast: bool, num_workers: int, quiet: bool) -> _Proof:
    jobs = [
        _Job(folder=folder, shard=shard, manifest=replace(manifest, shards=(), counts_by_class={}), fast=fast)
        for shard in manifest.shards
    ]
    workers = min(num_workers or default_workers(), len(jobs))
    whole = _Proof(sums=PixelSums(manifest.encode.size_px))
    with progress(manifest.num_samples, "images", "verify", quiet=quiet) as bar:
        for proof in run_jobs(_prove_shard, jobs, workers, bar.update):
            whole.merge(proof)
    return whole


def _prove_shard(job: _Job, progress: Callable[[int], None]) -> _Proof:
    proof = _Proof(sums=PixelSums(job.manifest.encode.size_px))
    expected = {"tar": job.shard.sha256, "idx": job.shard.index_sha256, "parquet": job.shard.catalog_sha256}
    for extension, digest in expected.items():
        problem = _prove_file(job.folder / f"{job.shard.name}.{extension}", digest)
        if extension == "tar" and problem and (size := _size(job)) not in (-1, job.shard.num_bytes):
            problem = f"has {size} bytes, the manifest says {job.shard.num_bytes}"
        if problem:
            proof.findings.append(Finding(file=f"{job.shard.name}.{extension}", problem=problem))
    if proof.findings or job.fast:
        progress(job.shard.num_samples)
        return proof
    try:
        with (job.folder / f"{job.shard.name}.tar").open("rb") as tar:
            _prove_samples(job, tar, proof, progress)
    except (AlexstreamError, OSError, ValueError) as error:
        problem = f"is not what DATASET v1 describes ({error})"
        proof.findings.append(Finding(file=f"{job.shard.name}.tar", problem=problem))
    return proof


def _prove_file(path: Path, sha256: str) -> str | None:
    if not path.is_file():
        return _absence(path)
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return None if same else "sha256 differs from the manifest's"


def _absence(path: Path) -> str:
    """What there is where a file should be; a link that leads nowhere is nothing."""
    return "is no regular file" if path.exists() else "is missing"


def _size(job: _Job) -> int:
    path = job.folder / f"{job.shard.name}.tar"
    return path.stat().st_size if path.is_file() else -1


def _prove_samples(job: _Job, tar: BinaryIO, proof: _Proof, progress: Callable[[int], None]) -> None:
    """Walk the tar and compare index, catalog, labels and pixels with what is there."""
    tar_name = f"{job.shard.name}.tar"
    members = _walk(job.folder / tar_name)
    pairs = list(zip(members[::2], members[1::2], strict=False))
    if index_bytes(pairs) != (job.folder / f"{job.shard.name}.idx").read_bytes():
        proof.findings.append(Finding(file=f"{job.shard.name}.idx", problem="does not describe the tar's members"))
    rows = layout.load_catalog_shard(job.folder, job.shard, layout.CATALOG_COLUMNS)
    if len(rows["key"]) != len(pairs) or len(pairs) != job.shard.num_samples:
        found = f"{len(pairs)} samples, the catalog {len(rows['key'])}, the manifest {job.shard.num_samples}"
        proof.findings.append(Finding(file=tar_name, problem=f"holds {found}"))
        return
    for i, (image, label) in enumerate(pairs):
        row = {name: column[i] for name, column in rows.items()}
        wrong = _wrong_place(image, label, row) or _wrong_content(
            job.manifest, _read(tar, image), _read(tar, label), row, proof.sums
        )
        if wrong:
            proof.findings.append(Finding(file=tar_name, problem=f"sample {row['key']}: {wrong}"))
        proof.keys[str(row["key"])] += 1
        proof.labels[int(row["label"])] += 1
        progress(1)


def _read(tar: BinaryIO, member: Member) -> bytes:
    tar.seek(member.offset)
    return tar.read(member.size)


def _wrong_place(image: Member, label: Member, row: dict[str, Any]) -> str | None:
    if not _KEY.fullmatch(row["key"]) or row["extension"] not in _EXTENSIONS:
        return f"is called {row['key']}.{row['extension']}"
    if (image.name, label.name) != (f"{row['key']}.{row['extension']}", f"{row['key']}.cls"):
        return f"members are called {image.name} and {label.name}"
    if (image.offset, image.size) != (row["offset"], row["size"]):
        return f"lies at {image.offset} ({image.size} bytes), the catalog says {row['offset']} ({row['size']} bytes)"
    return None


def _wrong_content(
    manifest: layout.Manifest, image: bytes, label: bytes, row: dict[str, Any], sums: PixelSums
) -> str | None:
    """What is wrong with the contents of one sample, or None; its pixels are added to ``sums``."""
    if not re.fullmatch(rb"[0-9]{4,9}", label) or int(label) != row["label"] or int(label) >= len(manifest.classes):
        return f"label {label!r}, the catalog says {row['label']}"
    if readable(manifest.classes[int(label)]) != row["wnid"]:
        return f"label {int(label)} is class {manifest.classes[int(label)]}, the catalog says {row['wnid']}"
    if hashlib.sha256(image).hexdigest() != row["stored_sha256"]:
        return "sha256 differs from the catalog's"
    try:
        sums.add(stored_pixels(image, row["extension"], manifest.encode))
    except (BadImageError, ValueError) as error:
        return f"does not decode ({error})"
    return None


def _walk(path: Path) -> list[Member]:
    with open_ranges(path) as file:
        found = list(walk_tar(file, path.name))
    odd = next((m for m in found if m.reason), None)
    if odd is not None:
        raise ValueError(f"member {odd.name!r}: {odd.reason}")
    return [Member(name=m.name, offset=m.offset, size=m.size) for m in found]


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


def _statistics_findings(folder: Path, manifest: layout.Manifest) -> list[Finding]:
    try:
        stats = layout.load_stats(folder, manifest)
    except AlexstreamError as error:
        return [Finding(file=layout.STATS, problem=str(error))]
    return _findings_of(layout.MEAN, lambda: layout.load_mean_image(folder, stats))


def _sidecar_findings(folder: Path, manifest: layout.Manifest) -> list[Finding]:
    findings = []
    for name, expected in sidecars.contents(manifest).items():
        path = folder / name
        if not path.is_file():
            findings.append(Finding(file=name, problem=_absence(path)))
        elif path.read_bytes() != expected:
            findings.append(Finding(file=name, problem="is not what the manifest gives"))
    return findings + _findings_of(layout.QUARANTINE, lambda: _check_quarantine(folder, manifest))


def _check_quarantine(folder: Path, manifest: layout.Manifest) -> None:
    path = folder / layout.QUARANTINE
    if not path.is_file():
        raise DatasetError(_absence(path))
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.quarantine_sha256:
        raise DatasetError("sha256 differs from the manifest's")


def _foreign_findings(folder: Path, manifest: layout.Manifest) -> list[Finding]:
    """Files that the manifest knows nothing of: left by a crash, or put there."""
    known = {layout.MANIFEST, layout.STATS, layout.MEAN, layout.QUARANTINE, *sidecars.contents(manifest)}
    known |= _shard_files(manifest)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in known)
    return [Finding(file=name, problem="is not part of the data set") for name in foreign]


def _findings_of(file: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except AlexstreamError as error:
        return [Finding(file=file, problem=str(error))]
    return []
