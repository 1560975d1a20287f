"""From tables, Parquet and WebDataset to shards, by the command line: each image's label is that of its source."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexstream.commands.main import main
from tests.support import imagenet_miniature as mini

CLASSES = ("ant", "bee", "cow")


def picture(i):
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (i * 40 % 256, i * 7 % 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURES = {picture(i): CLASSES[i * 2 % 3] for i in range(9)}


def numbered():
    return [(f"{i:03d}", data, name) for i, (data, name) in enumerate(PICTURES.items())]


def with_labels(root):
    for name, data, _ in numbered():
        mini.write(root / "src" / f"{name}.jpg", data)
    rows = [json.dumps({"image": name, "species": label}) for name, _, label in numbered()]
    mini.write(root / "t.jsonl", "\n".join(rows).encode())
    return ["--labels", str(root / "t.jsonl")]


def as_kaggle(root):
    for name, data, _ in numbered():
        mini.write(root / "src" / "train" / f"{name}.jpg", data)
    rows = ["id,breed", *(f"{name},{label}" for name, _, label in numbered())]
    mini.write(root / "src" / "labels.csv", "\r\n".join(rows).encode())
    return []


def as_torn_webdataset(root):
    members = [(f"{name}.jpg", data) for name, data, _ in numbered()]
    members += [(f"{name}.cls", label.encode()) for name, _, label in reversed(numbered())]
    mini.write(root / "src" / "shard-000.tar", mini.tar_bytes(members))
    return []


def as_parquet(root):
    (root / "src").mkdir()
    images = pa.array([{"bytes": data} for _, data, _ in numbered()], pa.struct([("bytes", pa.binary())]))
    labels = pa.array([label for _, _, label in numbered()])
    pq.write_table(pa.table({"image": images, "label": labels}), root / "src" / "0000.parquet")
    return []


def as_replaced_members(root):
    members = [(f"{label}/{name}.jpg", b"old" + data) for name, data, label in numbered()[:2]]
    members += [(f"./{label}/{name}.jpg", data) for name, data, label in numbered()]
    mini.write(root / "src" / "train.tar", mini.tar_bytes(members))
    return []


FORMS = [with_labels, as_kaggle, as_torn_webdataset, as_parquet, as_replaced_members]


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_each_image_in_the_shards_has_the_label_of_its_source(tmp_path, write):
    options = write(tmp_path)
    out = tmp_path / "out"
    arguments = ["shard", "--src", tmp_path / "src", "--out", out, "--encode", "keep", "--workers", 1, "--quiet"]
    main([*map(str, arguments), *options], standalone_mode=False)
    names = [row["wnid"] for row in json.loads((out / "classes.json").read_text())]
    assert names == sorted(CLASSES)
    stored = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            held = {member.name: tar.extractfile(member).read() for member in tar}
        stored |= {
            data: names[int(held[name.replace(".jpg", ".cls")])] for name, data in held.items() if name.endswith(".jpg")
        }
    assert stored == PICTURES
