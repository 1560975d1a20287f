"""A data set of a few samples, written from docs/formats.md alone, so that every file can be made wrong on purpose.

Nothing here takes the writer under test but for the eigen-pairs, whose bits are those of one solver, and for the
files beside the shards, which follow from the manifest.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexstream.sharding.dataset_v1 import layout, sidecars
from alexstream.sharding.dataset_v1.manifest import Counts, Manifest, ShardRecord, save_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import save_stats
from alexstream.sharding.stats import PixelSums, summarize

SIZE = 224
INTEGERS = ("offset", "size", "label", "source_width", "source_height")
CLASSES = ("n01440764", "n03126707")


def sha(data):
    return hashlib.sha256(data).hexdigest()


def canonical(value):
    """JSON as docs/formats.md has it: keys sorted, two spaces, ASCII, a newline at the end."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def sign(path, **changes):
    """Change fields of a manifest or of statistics, and make digest and checksum right again."""
    value = {**json.loads(path.read_bytes()), **changes}
    value.pop("checksum", None)
    if "shards" in value:
        shards = [[one["name"], one["num_samples"], one["sha256"]] for one in value["shards"]]
        value["digest"] = sha(canonical([value["schema"], value["split"], value["classes"], shards]))
    path.write_bytes(canonical({**value, "checksum": sha(canonical(value))}))


def tar_of(members):
    """A USTAR archive of (name, content): no time, owner or name; mode 0644."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def run_here(work, jobs, num_workers, tick):
    """In place of ``run_jobs``: starting a worker takes a second, far more than these sets."""
    return (work(job, tick) for job in jobs)


class Small:
    """Shards of raw 224 × 224 samples: ``members`` (name, content), ``rows`` of the catalog and ``index`` of each.

    Change what shall be wrong and call ``write``: every hash that the format has is then right.
    """

    def __init__(self, folder, shards=2, samples=3):
        self.folder, self.members, self.rows, self.index = folder, [], [], []
        self.encode = EncodeRecipe(encoding="raw", size_px=SIZE)
        rng = np.random.default_rng(17)
        for shard in range(shards):
            members, rows = [], []
            for i in range(samples):
                label = (shard + i) % 2
                colour = rng.integers(0, 200, 3)
                image = (colour + rng.integers(0, 56, (SIZE, SIZE, 3))).astype(np.uint8).tobytes()
                members += [
                    (f"{CLASSES[label]}_{shard}{i}.rgb", image),
                    (f"{CLASSES[label]}_{shard}{i}.cls", b"%04d" % label),
                ]
                rows.append(self.row(f"{CLASSES[label]}_{shard}{i}", shard, image, label))
            self.members.append(members)
            self.rows.append(rows)
            self.index.append(None)
        for shard in range(shards):
            self.place(shard)
        self.counts = {name: sum(row["wnid"] == name for rows in self.rows for row in rows) for name in CLASSES}
        self.stats_of = self.pixels()
        self.write()

    def row(self, key, shard, image, label):
        return {
            "key": key, "extension": "rgb", "shard": f"train-{shard:06d}", "offset": 0, "size": len(image),
            "label": label, "wnid": CLASSES[label], "source": f"{CLASSES[label]}/{key}.png", "source_sha256": "0" * 64,
            "stored_sha256": sha(image), "source_width": SIZE, "source_height": SIZE, "source_format": "PNG",
            "notes": "",
        }  # fmt: skip

    def place(self, shard):
        """Offsets, in the catalog and the index, as they are in the tar."""
        with tarfile.open(fileobj=io.BytesIO(tar_of(self.members[shard]))) as tar:
            found = tar.getmembers()
        for row, image in zip(self.rows[shard], found[::2], strict=False):
            row["offset"] = image.offset_data
        pairs = zip(found[::2], found[1::2], strict=False)
        lines = [
            " ".join(f"{m.name.partition('.')[2]} {m.offset_data} {m.size} {m.name}" for m in pair) for pair in pairs
        ]
        self.index[shard] = "".join(f"{line}\n" for line in [f"v1.2 {len(lines)}", *lines]).encode()

    def pixels(self):
        sums = PixelSums(SIZE)
        for members in self.members:
            for _, content in members[::2]:
                sums.add(np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3))
        return sums

    def write(self):
        self.folder.mkdir(exist_ok=True)
        records = []
        for shard, (members, rows, index) in enumerate(zip(self.members, self.rows, self.index, strict=True)):
            name = f"train-{shard:06d}"
            columns = {
                c: pa.array([row[c] for row in rows], pa.int64() if c in INTEGERS else pa.string()) for c in rows[0]
            }
            pq.write_table(pa.table(columns), self.folder / f"{name}.parquet")
            (self.folder / f"{name}.tar").write_bytes(tar_of(members))
            (self.folder / f"{name}.idx").write_bytes(index)
            digests = {kind: sha((self.folder / f"{name}.{end}").read_bytes()) for kind, end in (
                ("sha256", "tar"), ("index_sha256", "idx"), ("catalog_sha256", "parquet"))}  # fmt: skip
            size = (self.folder / f"{name}.tar").stat().st_size
            records.append(ShardRecord(name=name, num_samples=len(rows), num_bytes=size, **digests))
        (self.folder / layout.QUARANTINE).write_bytes(b"")
        self.describe(tuple(records))

    def describe(self, records):
        """Manifest, statistics and what follows from the manifest."""
        total = sum(self.counts.values())
        manifest = Manifest(
            split="train", seed=1, encode=self.encode, plan_digest="p",
            source="source", source_form="one folder per class", classes=CLASSES, shards=records,
            quarantine_sha256=sha(b""), counts=Counts(found=total, written=total, quarantined=0, excluded=0),
            counts_by_class={
                name: Counts(found=count, written=count, quarantined=0, excluded=0)
                for name, count in self.counts.items()
            },
        )  # fmt: skip
        save_manifest(self.folder, manifest)
        stats = replace(summarize(self.stats_of, manifest.digest), num_images=manifest.num_samples)
        save_stats(self.folder, replace(stats, num_pixels=stats.num_images * SIZE**2), self.stats_of.mean_image())
        sidecars.write_sidecars(self.folder, manifest)
