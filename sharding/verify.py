"""Verify a finished data set from its files alone: every hash, member, sample and sidecar.

Problems are returned as findings instead of raised, so that one damaged shard does not hide another.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from alexstream.core.errors import AlexstreamError, BadImageError, DatasetError, DatasetVersionError
from alexstream.core.limits import count_cores
from alexstream.core.progress import progress_bar
from alexstream.core.storage import list_folder, read_small
from alexstream.core.text import count_of, escape_unprintable, quote_value
from alexstream.sharding.dataset_v1 import layout, sidecars
from alexstream.sharding.dataset_v1.catalog import (
    BYTES_PER_ROW,
    CATALOG_COLUMNS,
    escape_invalid_utf8,
    load_catalog_shard,
    most_catalog,
)
from alexstream.sharding.dataset_v1.manifest import Manifest, ShardRecord, load_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.dataset_v1.tar import Member, encode_index
from alexstream.sharding.describe import MAX_QUARANTINE_BYTES
from alexstream.sharding.executors.local import run_jobs
from alexstream.sharding.images.decode import decode_sample
from alexstream.sharding.images.stored_sample import SampleChecker
from alexstream.sharding.sources.files import open_range_file
from alexstream.sharding.sources.tars.walk import walk_tar
from alexstream.sharding.stats import PixelSums, summarize

MAX_LABEL_BYTES = 64
_MANY = 1 << 16  # samples of a shard
_KEY, _EXTENSIONS = re.compile(r"[A-Za-z0-9_-]+"), ("jpg", "rgb", "png", "webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem: the file, and what was expected and found."""

    file: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of ``verify``: the scope of the check and its findings."""

    folder: Path
    manifest: Manifest | None
    fast: bool
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "folder": str(self.folder),
            "digest": self.manifest.digest if self.manifest else None,
            "samples": self.manifest.num_samples if self.manifest else None,
            "fast": self.fast,
            "intact": not self.findings,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_text(self) -> str:
        """Return the verdict as text for a person."""
        found = [escape_unprintable(f"{self.folder / f.file}: {f.problem}") for f in self.findings]
        if self.manifest is None or found:
            return "\n".join([*found, f"{self.folder}: NOT INTACT, {count_of(len(found), 'finding')}"])
        depth = "sizes and hashes" if self.fast else "hashes, indexes, every sample, labels, statistics"
        return f"{self.folder}: intact ({count_of(self.manifest.num_samples, 'sample')}; {depth})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerifyJob:
    folder: Path
    shard: ShardRecord
    manifest: Manifest
    fast: bool

    @property
    def paths(self) -> layout.ShardPaths:
        return layout.shard_paths(self.folder, self.shard.name)


@dataclass(slots=True, kw_only=True)
class _ShardReport:
    """Findings and sums of one shard, or of all shards together."""

    sums: PixelSums
    findings: list[Finding] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)

    def merge(self, other: _ShardReport) -> None:
        self.sums.merge(other.sums)
        self.findings += other.findings
        self.keys.update(other.keys)
        self.labels.update(other.labels)


def verify(folder: Path, *, fast: bool = False, num_workers: int = 0, quiet: bool = False) -> VerifyReport:
    """Check everything that DATASET v1 promises of a folder.

    Raises DatasetVersionError if another version of alexstream made it, of which nothing can be proved.

    Args:
        folder: One split.
        fast: Only sizes and hashes.
        num_workers: Processes that check; 0: one for each core.
        quiet: Show no progress.
    """
    try:
        manifest = load_manifest(folder)
    except DatasetVersionError:
        raise
    except AlexstreamError as error:
        finding = Finding(file=layout.MANIFEST, problem=str(error))
        return VerifyReport(folder=folder, manifest=None, fast=fast, findings=(finding,))
    proof = _verify_shards(folder, manifest, fast, num_workers, quiet)
    findings = [*proof.findings, *_check_sidecars(folder, manifest), *_find_foreign_files(folder, manifest)]
    findings += _check_statistics(folder, manifest)
    if _matches_no_file(manifest, findings):
        problem = "fits none of the files beside it; it is another data set's, or they are"
        findings.insert(0, Finding(file=layout.MANIFEST, problem=problem))
    if not fast and not proof.findings:
        findings += _check_whole(folder, manifest, proof)
    return VerifyReport(folder=folder, manifest=manifest, fast=fast, findings=tuple(findings))


def _matches_no_file(manifest: Manifest, findings: list[Finding]) -> bool:
    """Return whether every file bound to the manifest is wrong: then the manifest is the likelier culprit."""
    wrong = {finding.file for finding in findings}
    return wrong >= {layout.STATS, *_list_shard_files(manifest)}


def _list_shard_files(manifest: Manifest) -> set[str]:
    return {f"{s.name}.{extension}" for s in manifest.shards for extension in ("tar", "idx", "parquet")}


def _verify_shards(folder: Path, manifest: Manifest, fast: bool, num_workers: int, quiet: bool) -> _ShardReport:
    jobs = [
        _VerifyJob(folder=folder, shard=shard, manifest=replace(manifest, shards=(), counts_by_class={}), fast=fast)
        for shard in manifest.shards
    ]
    workers = min(num_workers or count_cores(), len(jobs))
    whole = _ShardReport(sums=PixelSums(manifest.encode.size_px))
    with progress_bar(manifest.num_samples, "images", "verify", quiet=quiet) as bar:
        for proof in run_jobs(_verify_shard, jobs, workers, bar.update):
            whole.merge(proof)
    return whole


def _verify_shard(job: _VerifyJob, progress: Callable[[int], None]) -> _ShardReport:
    proof = _ShardReport(sums=PixelSums(job.manifest.encode.size_px))
    shard, paths = job.shard, job.paths
    catalog_bytes = paths.catalog.stat().st_size if paths.catalog.is_file() else None
    if shard.num_samples > _MANY and catalog_bytes is not None and catalog_bytes < BYTES_PER_ROW * shard.num_samples:
        lacks = f"{catalog_bytes:,} bytes cannot hold {shard.num_samples:,} rows that differ"
        proof.findings.append(Finding(file=paths.catalog.name, problem=lacks))
        progress(shard.num_samples)
        return proof  # its tar may be a hole of terabytes
    expected = {
        paths.tar: (shard.sha256, shard.num_bytes),
        paths.index: (shard.index_sha256, layout.MAX_INDEX_BYTES * (1 + shard.num_samples)),
        paths.catalog: (shard.catalog_sha256, most_catalog(shard)),
    }
    for path, (digest, most) in expected.items():
        problem = _check_hash(path, digest, most)
        if path == paths.tar and problem and (size := _tar_bytes(job)) not in (-1, job.shard.num_bytes):
            problem = f"has {size} bytes, the manifest says {job.shard.num_bytes}"
        if problem:
            proof.findings.append(Finding(file=path.name, problem=problem))
    if proof.findings or job.fast:
        progress(job.shard.num_samples)
        return proof
    try:
        with paths.tar.open("rb") as file:
            _verify_samples(job, file, proof, progress)
    except (AlexstreamError, OSError, ValueError) as error:
        problem = f"is not what DATASET v1 describes ({error})"
        proof.findings.append(Finding(file=paths.tar.name, problem=problem))
    return proof


def _check_hash(path: Path, sha256: str, most: int) -> str | None:
    """Return what is wrong with a file of at most ``most`` bytes, or None.

    A larger one, perhaps a hole, is not read.
    """
    if not path.is_file():
        return _missing_reason(path)
    if (size := path.stat().st_size) > most:
        return f"has {size:,} bytes, {most:,} is the most"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return None if same else "sha256 differs from the manifest's"


def _missing_reason(path: Path) -> str:
    """Return why a path is not a regular file; a broken link counts as missing."""
    return "is no regular file" if path.exists() else "is missing"


def _tar_bytes(job: _VerifyJob) -> int:
    path = job.paths.tar
    return path.stat().st_size if path.is_file() else -1


def _verify_samples(job: _VerifyJob, tar: BinaryIO, proof: _ShardReport, progress: Callable[[int], None]) -> None:
    """Walk the tar and compare index, catalog, labels and pixels with its members."""
    tar_name = job.paths.tar.name
    members = _list_members(job.paths.tar)
    pairs = list(zip(members[::2], members[1::2], strict=False))
    if encode_index(pairs) != read_small(job.paths.index, layout.MAX_INDEX_BYTES * (1 + job.shard.num_samples)):
        proof.findings.append(Finding(file=job.paths.index.name, problem="does not describe the tar's members"))
    rows = load_catalog_shard(job.folder, job.shard, CATALOG_COLUMNS)
    if len(rows["key"]) != len(pairs) or len(pairs) != job.shard.num_samples:
        found = f"{len(pairs)} samples, the catalog {len(rows['key'])}, the manifest {job.shard.num_samples}"
        proof.findings.append(Finding(file=tar_name, problem=f"holds {found}"))
        return
    for i, (image, label) in enumerate(pairs):
        row = {name: column[i] for name, column in rows.items()}
        wrong = _find_place_problem(image, label, row) or _find_sample_problem(
            job.manifest, tar, (image, label), row, proof.sums
        )
        if wrong:
            proof.findings.append(Finding(file=tar_name, problem=f"sample {row['key']}: {wrong}"))
        proof.keys[str(row["key"])] += 1
        proof.labels[int(row["label"])] += 1
        progress(1)


def _read_member(tar: BinaryIO, member: Member) -> bytes:
    tar.seek(member.offset)
    return tar.read(member.size)


def _find_place_problem(image: Member, label: Member, row: dict[str, Any]) -> str | None:
    if not _KEY.fullmatch(row["key"]) or row["extension"] not in _EXTENSIONS:
        return f"is called {row['key']}.{row['extension']}"
    if (image.name, label.name) != (f"{row['key']}.{row['extension']}", f"{row['key']}.cls"):
        return f"members are called {image.name} and {label.name}"
    if (image.offset, image.size) != (row["offset"], row["size"]):
        return f"lies at {image.offset} ({image.size} bytes), the catalog says {row['offset']} ({row['size']} bytes)"
    return None


def _find_sample_problem(
    manifest: Manifest, tar: BinaryIO, pair: tuple[Member, Member], row: dict[str, Any], sums: PixelSums
) -> str | None:
    """Return what is wrong with a sample, or None, reading its members only if their sizes are plausible."""
    image, label = pair
    try:
        SampleChecker(manifest.encode).check_length(image.size, row["extension"])
    except BadImageError as error:
        return f"does not decode ({error})"
    if label.size > MAX_LABEL_BYTES:
        return f"label of {label.size} bytes"
    return _find_content_problem(manifest, _read_member(tar, image), _read_member(tar, label), row, sums)


def _find_content_problem(
    manifest: Manifest, image: bytes, label: bytes, row: dict[str, Any], sums: PixelSums
) -> str | None:
    """Return what is wrong with the contents of a sample, or None; add its pixels to ``sums``."""
    if not re.fullmatch(rb"[0-9]{4,9}", label) or int(label) != row["label"] or int(label) >= len(manifest.classes):
        return f"label {quote_value(label)}, the catalog says {row['label']}"
    if escape_invalid_utf8(manifest.classes[int(label)]) != row["wnid"]:
        return f"label {int(label)} is class {manifest.classes[int(label)]}, the catalog says {row['wnid']}"
    if hashlib.sha256(image).hexdigest() != row["stored_sha256"]:
        return "sha256 differs from the catalog's"
    try:
        sums.add(decode_sample(image, row["extension"], manifest.encode))
    except (BadImageError, ValueError) as error:
        return f"does not decode ({error})"
    return None


def _list_members(path: Path) -> list[Member]:
    with open_range_file(path) as file:
        found = list(walk_tar(file, path.name))
    odd = next((m for m in found if m.reason), None)
    if odd is not None:
        raise ValueError(f"member {quote_value(odd.name)}: {odd.reason}")
    return [Member(name=m.name, offset=m.offset, size=m.size) for m in found]


def _check_whole(folder: Path, manifest: Manifest, proof: _ShardReport) -> list[Finding]:
    """Check what spans shards: unique keys, counts by class, statistics of all pixels."""
    problems = [f"key {key} comes {count} times" for key, count in proof.keys.items() if count > 1]
    for index, wnid in enumerate(manifest.classes):
        counted = manifest.counts_by_class[wnid].written
        if proof.labels[index] != counted:
            problems.append(
                f"class {wnid} has {count_of(proof.labels[index], 'sample')}, counts_by_class says {counted}"
            )
    findings = [Finding(file=layout.MANIFEST, problem=problem) for problem in problems]
    try:
        if summarize(proof.sums, manifest.digest) != load_stats(folder, manifest):
            findings.append(Finding(file=layout.STATS, problem="statistics are not those of the stored pixels"))
    except DatasetError:
        pass  # unreadable statistics are a finding already
    return findings


def _check_statistics(folder: Path, manifest: Manifest) -> list[Finding]:
    try:
        stats = load_stats(folder, manifest)
    except AlexstreamError as error:
        return [Finding(file=layout.STATS, problem=str(error))]
    return _collect_findings(layout.MEAN, lambda: load_mean_image(folder, stats))


def _check_sidecars(folder: Path, manifest: Manifest) -> list[Finding]:
    findings = []
    for name, expected in sidecars.make_sidecars(manifest).items():
        path = folder / name
        if not path.is_file():
            findings.append(Finding(file=name, problem=_missing_reason(path)))
        elif path.stat().st_size != len(expected) or path.read_bytes() != expected:
            findings.append(Finding(file=name, problem="is not what the manifest gives"))
    return findings + _collect_findings(layout.QUARANTINE, lambda: _check_quarantine(folder, manifest))


def _check_quarantine(folder: Path, manifest: Manifest) -> None:
    path = folder / layout.QUARANTINE
    if not path.is_file():
        raise DatasetError(_missing_reason(path))
    if problem := _check_hash(path, manifest.quarantine_sha256, MAX_QUARANTINE_BYTES):
        raise DatasetError(problem)


def _find_foreign_files(folder: Path, manifest: Manifest) -> list[Finding]:
    """List files that the manifest does not account for, left by a crash or put there."""
    known = {layout.MANIFEST, layout.STATS, layout.MEAN, layout.QUARANTINE, *sidecars.make_sidecars(manifest)}
    known |= _list_shard_files(manifest)
    foreign = sorted(path.name for path in list_folder(folder) if path.name not in known)
    return [Finding(file=name, problem="is not part of the data set") for name in foreign]


def _collect_findings(file: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except AlexstreamError as error:
        return [Finding(file=file, problem=str(error))]
    return []
