"""docs/formats.md is enough: data sets' identities, keys, plans, tars and statistics rebuilt from its words alone.

The program is imported only for what is compared: files that it wrote, and its verdict on files that were written here.
"""

import ast
import hashlib
import io
import json
import math
import re
import struct
import tarfile
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexstream.core.errors import DatasetError
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.listing import build_listing
from alexstream.sharding.pack import shard_split
from alexstream.sharding.plan import choose_num_shards
from alexstream.sharding.sources.types import Entry
from alexstream.sharding.split_plans import ShardRequest
from alexstream.sharding.stats import rgb_pca
from tests.support.doc_pages import block, quoted, tables
from tests.support.source_splits import lister_of

PAGE = "formats.md"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# --- Canonical JSON


def canonical(value):
    """Canonical JSON as bytes, its line feed at the end included."""
    return (written(value, "\n") + "\n").encode("ascii")


def written(value, line):
    """`line` is a line feed and the indentation of the line that the value begins on."""
    if isinstance(value, dict):
        entries = [f"{text(key)}: {written(value[key], line + '  ')}" for key in sorted(value)]
        return enclosed("{", entries, "}", line)
    if isinstance(value, list | tuple):
        return enclosed("[", [written(one, line + "  ") for one in value], "]", line)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)  # Python writes a double with the fewest digits that give it back, in the page's form


def enclosed(opening, entries, closing, line):
    return opening + (line + "  ") + f",{line}  ".join(entries) + line + closing if entries else opening + closing


def text(value):
    return '"' + "".join(map(character, value)) + '"'


def character(one):
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(one)
    if one in short:
        return short[one]
    if 0x20 <= code < 0x7F:
        return one
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def test_canonical_json_of_odd_values_is_the_pages():
    shown = block(PAGE, "Canonical JSON")
    assert canonical(json.loads(shown)) == shown.encode()
    assert quoted(PAGE, "Canonical JSON", r"`([0-9a-f]{64})`") == [sha256(shown.encode())]


def digest_of(manifest):
    shards = [[one["name"], one["num_samples"], one["sha256"]] for one in manifest["shards"]]
    return sha256(canonical(["alexstream-dataset/1", manifest["split"], manifest["classes"], shards]))


def checksum_of(document):
    return sha256(canonical({name: value for name, value in document.items() if name != "checksum"}))


def test_the_pages_manifest_has_the_pages_digest_and_checksum():
    shown, hashed = block(PAGE, "Digest and checksum", 1), block(PAGE, "Digest and checksum", 0)
    manifest = json.loads(shown)
    assert sha256(hashed.encode()) == digest_of(manifest) == manifest["digest"]
    assert checksum_of(manifest) == manifest["checksum"]
    assert canonical(manifest) == shown.encode()


def test_the_program_reads_the_pages_manifest_and_no_other(tmp_path):
    shown = block(PAGE, "Digest and checksum", 1)
    (tmp_path / "manifest.json").write_text(shown)
    assert load_manifest(tmp_path).digest == json.loads(shown)["digest"]
    for changed in (shown[:-1], shown.replace("2012", "2013"), shown.replace("  ", "\t")):
        (tmp_path / "manifest.json").write_text(changed)
        with pytest.raises(DatasetError):
            load_manifest(tmp_path)


# --- A data set of odd names, converted by the program


def names_of_the_page():
    """Names as bytes and their keys, as the page's table of one split has them."""
    rows = tables(PAGE, "Keys")[1]
    return [(ast.literal_eval(f"b'{name}'"), key) for name, key in rows]


@pytest.fixture(scope="module")
def odd_set(tmp_path_factory):
    """The page's odd names, each a small drawing of its own, as raw shards; one file is no image."""
    source, folder = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("odd-shards") / "train"
    rng = np.random.default_rng(17)
    for name, _ in names_of_the_page():
        place = bytes(source) + b"/" + name
        path = type(source)(place.decode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((256, 256)).save(file, "PNG")
        path.write_bytes(file.getvalue())
    (source / "dog" / "no-image.jpg").write_bytes(b"no image")
    shard_split(ShardRequest(source=source, folder=folder, encode=EncodeRecipe(encoding="raw")), quiet=True)
    return folder


@pytest.fixture(scope="module")
def odd_manifest(odd_set):
    return json.loads((odd_set / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def odd_rows(odd_set):
    """The catalog of the set's only shard."""
    return pq.read_table(odd_set / "train-000000.parquet").to_pylist()


def test_files_that_the_program_writes_are_canonical_json(odd_set, odd_manifest):
    for name in ("manifest.json", "stats.json", "classes.json", "train.json", "_info.json"):
        content = (odd_set / name).read_bytes()
        assert canonical(json.loads(content)) == content, name
    stats = json.loads((odd_set / "stats.json").read_bytes())
    assert odd_manifest["digest"] == stats["dataset_digest"] == digest_of(odd_manifest)
    assert [checksum_of(one) for one in (odd_manifest, stats)] == [odd_manifest["checksum"], stats["checksum"]]


# --- Keys


def wanted_key(name):
    """Key and whether it is not what was wanted, before names that fall together."""
    stem = re.sub(r"\.[^./]*\Z", "", name.decode("utf-8", "replace"))
    file = stem.rpartition("/")[2]
    canonical_name = re.fullmatch(r"n[0-9]{8}_[0-9]+|ILSVRC20[0-9]{2}_(val|test)_[0-9]{8}", file)
    wanted = file if canonical_name else stem.replace("/", "_")
    key = re.sub(r"[^A-Za-z0-9_-]", "-", wanted)[:80]
    return key, key != wanted


def keys_of(names):
    made = [wanted_key(name) for name in names]
    lower = [key.lower() for key, _ in made]
    hashed = [odd or lower.count(key.lower()) > 1 for key, odd in made]
    return [f"{key}-{sha256(n)[:8]}" if h else key for (key, _), h, n in zip(made, hashed, names, strict=True)]


def test_keys_of_the_pages_names_are_those_of_the_rule():
    names, keys = zip(*names_of_the_page(), strict=True)
    assert keys_of(names) == list(keys)


def test_keys_of_the_pages_names_are_the_programs(odd_rows):
    keys = [key for _, key in names_of_the_page()]
    assert sorted(row["key"] for row in odd_rows) == sorted(keys)


def test_samples_of_equal_names_get_the_keys_of_the_page():
    rows = tables(PAGE, "Keys")[2]
    names = [name.encode() for name, *_ in rows]
    places = [sha256(":".join(place).encode())[:8] for _, *place, _ in rows]
    keys = [key for *_, key in rows]
    assert [f"{key}-{place}" for key, place in zip(keys_of(names), places, strict=True)] == keys
    entries = [Entry("dog", name, path, path.split("/")[0], int(at), int(size)) for name, path, at, size, _ in rows]
    assert build_listing(lister_of(entries), None, where="here").table.column("key").to_pylist() == keys


# --- The plan


def planned(keys, seed):
    return sorted(keys, key=lambda key: hashlib.sha256(f"alexstream-plan/1:{seed}:{key}".encode()).digest())


def sizes_of_shards(num_samples, image_bytes):
    most = max(1, 301_989_888 // image_bytes)
    count = max(1, -(-num_samples // most), min(16, num_samples // 64))
    return [num_samples // count + (i < num_samples % count) for i in range(count)]


def test_the_order_of_the_pages_keys():
    ((keys, seed, order),) = tables(PAGE, "Order and shards")[0]
    assert planned(keys.split(), int(seed)) == order.split()


def test_the_pages_numbers_of_samples_a_shard():
    for num_samples, image_bytes, sizes in tables(PAGE, "Order and shards")[1]:
        runs = [(int(count), int(size)) for count, size in re.findall(r"(\d+) × (\d+)", sizes.replace(",", ""))]
        expected = [size for count, size in runs for _ in range(count)]
        assert sizes_of_shards(*(int(n.replace(",", "")) for n in (num_samples, image_bytes))) == expected


def test_the_program_puts_samples_in_the_order_of_the_page(odd_rows, odd_manifest):
    keys = [key for _, key in names_of_the_page()]
    assert [row["key"] for row in odd_rows] == planned(keys, odd_manifest["seed"])
    assert [one["num_samples"] for one in odd_manifest["shards"]] == sizes_of_shards(len(keys), 196_608)


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
def test_the_program_makes_as_many_shards_as_the_page_says(encoding):
    size_px = 299
    image_bytes = {"jpeg": 9 * size_px**2 // 16, "raw": 3 * size_px**2, "keep": 115_000}[encoding]
    for num_samples in (1, 63, 127, 128, 1_000, 1_024, 50_000, 14_197_122):
        encode = EncodeRecipe(encoding=encoding, size_px=size_px)
        assert choose_num_shards(num_samples, encode) == len(sizes_of_shards(num_samples, image_bytes))


def listing_sha256(classes, rows):
    """`rows`: path, key, label, offset, size; paths as bytes."""
    quotes = [repr(name) for name in classes]
    content = f"({', '.join(quotes)}{',' if len(quotes) == 1 else ''})".encode("utf-8", "surrogateescape")
    for begin in range(0, len(rows), 32_768):
        columns = list(zip(*rows[begin : begin + 32_768], strict=True))
        for texts in (columns[0], [key.encode() for key in columns[1]]):
            content += struct.pack(f"<{len(texts)}i", *map(len, texts)) + b"".join(texts)
        for numbers, form in zip(columns[2:], "iqq", strict=True):
            content += struct.pack(f"<{len(numbers)}{form}", *numbers)
    return sha256(content)


def test_the_pages_plan_digest():
    rows = [(path.encode(), key, *map(int, numbers)) for path, key, *numbers in tables(PAGE, "`plan_digest`")[0]]
    plan = json.loads(block(PAGE, "`plan_digest`"))
    assert listing_sha256(["cat", "dog"], rows) == plan[-1]
    assert quoted(PAGE, "`plan_digest`", r"sha256 of that is `([0-9a-f]{64})`") == [sha256(canonical(plan))]


def test_the_programs_plan_digest_is_that_of_the_page(odd_manifest):
    names = [*(name for name, _ in names_of_the_page()), b"dog/no-image.jpg"]
    in_order = sorted(names, key=lambda name: name.decode("utf-8", "surrogateescape").split("/"))
    classes = odd_manifest["classes"]
    raw_classes = [name.encode("utf-8", "surrogateescape") for name in classes]
    rows = [
        (name, key, raw_classes.index(name.split(b"/")[0]), -1, 0)
        for name, key in zip(in_order, keys_of(in_order), strict=True)
    ]
    encode = {name: value for name, value in odd_manifest["encode"].items() if name != "dct"}  # the set is raw
    facts = [odd_manifest[name] for name in ("schema", "split", "seed")]
    assert odd_manifest["plan_digest"] == sha256(canonical([*facts, encode, listing_sha256(classes, rows)]))


# --- Tar and index


def member(name, content):
    """Header, content and padding of a member of a tar."""
    fields = [(name, 100), ("0000644\0", 8), ("0000000\0", 8), ("0000000\0", 8), (f"{len(content):011o}\0", 12)]
    fields += [("00000000000\0", 12), (" " * 8, 8), ("0", 1), ("", 100), ("ustar\00000", 8), ("", 247)]
    header = b"".join(value.encode("ascii").ljust(size, b"\0") for value, size in fields)
    header = header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]
    assert len(header) == 512
    return header + content + bytes(-len(content) % 512)


def tar_and_index(samples, digits):
    """`samples`: key, extension, image as bytes, label."""
    tar, lines = b"", [f"v1.2 {len(samples)}"]
    for key, extension, image, label in samples:
        line = []
        for ending, content in ((extension, image), ("cls", f"{label:0{digits}d}".encode())):
            line.append(f"{ending} {len(tar) + 512} {len(content)} {key}.{ending}")
            tar += member(f"{key}.{ending}", content)
        lines.append(" ".join(line))
    tar += bytes(1024)
    return tar + bytes(-len(tar) % 10_240), "".join(f"{line}\n" for line in lines).encode()


def images_of(folder, rows):
    """Stored bytes by key, by another reader."""
    with tarfile.open(folder / "train-000000.tar") as tar:
        return {row["key"]: tar.extractfile(f"{row['key']}.{row['extension']}").read() for row in rows}


def test_the_tar_and_the_index_of_the_page():
    tar, index = tar_and_index([("cat_a", "jpg", b"\xff\xd8", 0), ("dog_b", "jpg", bytes(513), 12)], 4)
    assert index.decode() == block(PAGE, "Tar and index")
    assert quoted(PAGE, "Tar and index", r"sha256 `([0-9a-f]{64})`") == [sha256(tar)]


def test_the_tar_and_the_index_of_the_program_are_rebuilt_to_the_byte(odd_set, odd_rows, odd_manifest):
    images = images_of(odd_set, odd_rows)
    samples = [(row["key"], row["extension"], images[row["key"]], row["label"]) for row in odd_rows]
    tar, index = tar_and_index(samples, max(4, len(str(len(odd_manifest["classes"]) - 1))))
    assert tar == (odd_set / "train-000000.tar").read_bytes()
    assert index == (odd_set / "train-000000.idx").read_bytes()
    assert odd_manifest["shards"][0]["sha256"] == sha256(tar)


# --- Statistics


def eigen(covariance):
    """Eigenvalues, largest first, and the eigenvectors as columns, by the rotations of the page."""
    a, v = [list(row) for row in covariance], [[float(i == j) for j in range(3)] for i in range(3)]
    for _ in range(60):
        if a[0][1] == a[0][2] == a[1][2] == 0.0:
            break
        for p, q in ((0, 1), (0, 2), (1, 2)):
            rotate(a, v, p, q, 3 - p - q)
    order = sorted(range(3), key=lambda i: a[i][i], reverse=True)
    columns = [[v[row][i] for row in range(3)] for i in order]
    for column in columns:
        if max(column, key=abs) < 0:
            column[:] = [-x for x in column]
    return [a[i][i] for i in order], [list(row) for row in zip(*columns, strict=True)]


def rotate(a, v, p, q, r):
    o = a[p][q]
    if abs(o) <= 1e-18 * math.sqrt(abs(a[p][p] * a[q][q])):
        a[p][q] = a[q][p] = 0.0
        return
    theta = (a[q][q] - a[p][p]) / (2.0 * o)
    t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
    c = 1.0 / math.sqrt(t * t + 1.0)
    s = t * c
    a[p][p] -= t * o
    a[q][q] += t * o
    a[p][q] = a[q][p] = 0.0
    x, y = a[r][p], a[r][q]
    a[r][p] = a[p][r] = c * x - s * y
    a[r][q] = a[q][r] = s * x + c * y
    for row in v:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]


def statistics(sums, products, n):
    covariance = [[float(Fraction(n * products[i][j] - sums[i] * sums[j], n * n)) for j in range(3)] for i in range(3)]
    values, vectors = eigen(covariance)
    return {
        "mean_rgb_255": [float(Fraction(one, n)) for one in sums],
        "covariance_255": covariance,
        "eigenvalues_255": values,
        "eigenvalues_01": [one / 65025.0 for one in values],
        "eigenvectors": vectors,
    }


def mean_npy(mean_HWC):
    """The file: its header padded with spaces to 128 bytes."""
    shape = ", ".join(map(str, mean_HWC.shape))
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}"
    return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + mean_HWC.astype("<f8").tobytes()


def test_the_pages_statistics():
    shown = json.loads(block(PAGE, "`stats.json`", 1))
    assert statistics(shown["rgb_sums"], shown["rgb_products"], shown["num_pixels"]).items() <= shown.items()
    assert quoted(PAGE, "`stats.json`", r"has the sha256 `([0-9a-f]{64})`") == [
        sha256(mean_npy(np.full((256, 256, 3), 127.5)))
    ]


def test_eigen_pairs_of_the_program_are_those_of_the_page_where_signs_and_order_are_in_question():
    rng = np.random.default_rng(8)
    equal = [[[5.0, -1.0, 0.0], [-1.0, 5.0, 0.0], [0.0, 0.0, 5.0]], [[2.0] * 3] * 3, [[0.0] * 3] * 3]
    drawn = [(m @ m.T).tolist() for m in rng.normal(size=(50, 3, 3))]
    for covariance in [*equal, np.diag([1.0, 3.0, 3.0]).tolist(), *drawn]:
        assert rgb_pca(covariance) == eigen(covariance)


def test_the_statistics_of_the_program_are_rebuilt_to_the_bit(odd_set, odd_rows):
    images = [np.frombuffer(image, np.uint8).reshape(256, 256, 3) for image in images_of(odd_set, odd_rows).values()]
    stats = json.loads((odd_set / "stats.json").read_bytes())
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(int)
    sums, products = pixels.sum(0).tolist(), (pixels.T @ pixels).tolist()
    assert (stats["rgb_sums"], stats["rgb_products"], stats["num_pixels"]) == (sums, products, len(pixels))
    assert statistics(sums, products, len(pixels)).items() <= stats.items()
    file = mean_npy(sum(image.astype(int) for image in images) / len(images))
    assert file == (odd_set / "mean.npy").read_bytes()
    assert stats["mean_image_sha256"] == sha256(file)
