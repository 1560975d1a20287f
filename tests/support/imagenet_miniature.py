"""ImageNet in small, in every form that it comes in: the same images, in the true structure of each form."""

import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

WNIDS = ("n01440764", "n03126707", "n04356056")  # tench, crane (machine), sunglasses
IDS = {"n01440764": 3, "n03126707": 1, "n04356056": 2}  # as in the devkit: not in the order of the wnids
WORDS = {"n01440764": "tench, Tinca tinca", "n03126707": "crane", "n04356056": "sunglasses, dark glasses, shades"}
INTERNAL = {"n00001740": 4, "n00021939": 5}
VAL_CLASSES = ("n04356056", "n01440764", "n03126707", "n01440764", "n04356056", "n03126707")
VAL_TAR_ORDER = (4, 2, 6, 1, 5, 3)  # the ground truth counts the sorted names, not these


@dataclass(frozen=True)
class Picture:
    wnid: str
    name: str
    data: bytes


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue() + b"\0" * (seed % 7)


def pictures():
    """The images of train and val."""
    train = [Picture(w, f"{w}_{n}.JPEG", jpeg(100 * i + n)) for i, w in enumerate(WNIDS) for n in (10026, 18, 7)]
    val = [Picture(w, f"ILSVRC2012_val_{n:08d}.JPEG", jpeg(n)) for n, w in enumerate(VAL_CLASSES, 1)]
    return {"train": train, "val": val}


def tar_bytes(members, **options):
    """A tar of ``(name or TarInfo, bytes)``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def meta_mat():
    nodes = [(IDS[w], w, WORDS[w], 0, 1300) for w in sorted(WNIDS, key=IDS.get)]
    nodes += [(number, w, "entity", 2, 0) for w, number in INTERNAL.items()]
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    synsets = np.zeros((len(nodes), 1), dtype=[(f, "O") for f in [*fields, "num_train_images"]])
    for row, (number, wnid, words, children, images) in enumerate(nodes):
        synsets[row, 0] = (number, wnid, words, "a gloss", children, np.zeros((1, children)), children and 9, images)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


def ground_truth(classes=VAL_CLASSES):
    return "".join(f"{IDS[w]}\n" for w in classes).encode()


def devkit_files(classes=VAL_CLASSES):
    return {
        "readme.txt": b"the devkit",
        "data/meta.mat": meta_mat(),
        "data/ILSVRC2012_validation_ground_truth.txt": ground_truth(classes),
    }


def write_devkit(root, *, packed, classes=VAL_CLASSES):
    folder = "ILSVRC2012_devkit_t12"
    files = devkit_files(classes)
    if not packed:
        for name, data in files.items():
            write(root / folder / name, data)
        return
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write(root / f"{folder}.tar.gz", buffer.getvalue())


def write_folder(root):
    for split, images in pictures().items():
        for image in images:
            write(root / split / image.wnid / image.name, image.data)


def inner_tars(wnids=WNIDS):
    return [
        (f"{w}.tar", tar_bytes([(p.name, p.data) for p in pictures()["train"] if p.wnid == w])) for w in wnids
    ]  # fmt: skip


def write_train_tar(root, name="ILSVRC2012_img_train.tar"):
    write(root / name, tar_bytes(inner_tars()))


def write_val_tar(root, numbers=VAL_TAR_ORDER):
    val = pictures()["val"]
    write(root / "ILSVRC2012_img_val.tar", tar_bytes([(val[n - 1].name, val[n - 1].data) for n in numbers]))


def write_archives(root, *, packed=True):
    write_train_tar(root)
    write_val_tar(root)
    write_devkit(root, packed=packed)


def write_inner_tars(root):
    for name, data in inner_tars():
        write(root / "train" / name, data)
    write_flat_val_images(root / "val")
    write_devkit(root, packed=False)


def write_folder_tars(root):
    for split, images in pictures().items():
        members = [(f"./{split}/{p.wnid}/{p.name}", p.data) for p in images]
        write(root / f"imagenet_{split}.tar", tar_bytes(members))


def write_flat_val_images(folder):
    for image in pictures()["val"]:
        write(folder / image.name, image.data)


def write_flat_val(root, *, packed=False):
    for image in pictures()["train"]:
        write(root / "train" / image.wnid / image.name, image.data)
    write_flat_val_images(root / "val")
    write_devkit(root, packed=packed)


def write_kaggle(root):
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    for image in pictures()["train"]:
        write(data / "train" / image.wnid / image.name, image.data)
    write_flat_val_images(data / "val")
    write(data / "test" / "ILSVRC2012_test_00000001.JPEG", jpeg(1))
    write(root / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000001.xml", b"<annotation/>")
    write(root / "LOC_synset_mapping.txt", "".join(f"{w} {WORDS[w]}\n" for w in WNIDS).encode())
    val = reversed(pictures()["val"])
    rows = [f"{p.name.removesuffix('.JPEG')},{p.wnid} 85 1 499 272 {p.wnid} 1 2 3 4 \n" for p in val]
    write(root / "LOC_val_solution.csv", "".join(["ImageId,PredictionString\n", *rows]).encode())


def hub_table(rows, *, names=None, paths=True):
    """Rows (label, path, bytes) as the Hugging Face hub writes them."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    feature = {"names": list(names or map(str, range(3))), "_type": "ClassLabel"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata={"huggingface": json.dumps(info)})
    structs = [{"bytes": data, "path": path if paths else None} for _, path, data in rows]
    return pa.table([pa.array(structs, image), pa.array([row[0] for row in rows], pa.int64())], schema=schema)


def write_parquet(root):
    (root / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        rows = []
        for p in pictures()[split]:
            stem = p.name.removesuffix(".JPEG")
            rows.append((WNIDS.index(p.wnid), f"{stem}_{p.wnid}.JPEG", p.data))
        rows = rows[::2] + rows[1::2]
        table = hub_table(rows, names=[WORDS[w] for w in WNIDS])
        for part in range(2):
            piece = table.slice(part * 4, 4 if part == 0 else None)
            pq.write_table(piece, root / "data" / f"{name}-0000{part}-of-00002.parquet", row_group_size=2)
    test = hub_table([(-1, "ILSVRC2012_test_00000001.JPEG", jpeg(3))], names=[WORDS[w] for w in WNIDS])
    pq.write_table(test, root / "data" / "test-00000-of-00001.parquet")
    write(root / "README.md", b"# card")


def samples(images, *, start=0):
    members = []
    for image in images[start:]:
        stem = image.name.partition(".")[0]
        label = f"{WNIDS.index(image.wnid)}".encode()
        members += [(f"{stem}.cls", label), (f"{stem}.jpg", image.data), (f"{stem}.json", b'{"filename": "x"}')]
    return members


def write_webdataset(root):
    for split, images in pictures().items():
        mixed = images[1::2] + images[::2]
        write(root / f"imagenet1k-{split}-0000.tar", tar_bytes(samples(mixed[:4])))
        write(root / f"imagenet1k-{split}-0001.tar", tar_bytes(samples(mixed[4:])))


FORMS = {
    "folder": write_folder,
    "flat val and an unpacked devkit": write_flat_val,
    "archives": write_archives,
    "archives and an unpacked devkit": lambda root: write_archives(root, packed=False),
    "inner tars in a folder": write_inner_tars,
    "class folders packed again": write_folder_tars,
    "kaggle": write_kaggle,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
