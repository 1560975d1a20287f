"""The converters that are compared: each turns the same image files into 256×256 JPEGs of quality 95, in one archive.

Loaded by ``worker.py`` in the environment of one tool, so nothing is imported before it is asked for.
"""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE, QUALITY, CHROMA = 256, 95, "4:2:0"


@dataclass(frozen=True)
class Tool:
    """``block`` converts files into a folder; it returns seconds if it times itself, else None.

    ``resample``: the bytes of an image → the uint8 RGB pixels (H, W, 3) that are then encoded; ``store``: → the bytes
    of the JPEG. None where a tool has no such thing.
    """

    block: Callable[[Sequence[Path], Path], float | None]
    resample: Callable[[bytes], Any] | None = None
    store: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Entry:
    """How a tool is named, which environment it lives in ("" is our own), and in how many processes it is started.

    FFCV starts its two workers itself.
    """

    title: str
    environment: str
    make: Callable[[Sequence[Path]], Tool]
    packages: tuple[str, ...]
    processes: int = 2
    stage: bool = False


def ours(resize_filter: str, images: Sequence[Path]) -> Tool:
    """What a worker of ``cli.py shard`` does with its job: everything from the file to the published shard."""
    from alexstream.sharding.convert import ShardJob, convert_shard
    from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
    from alexstream.sharding.images.decode import prepare_image
    from alexstream.sharding.listing import iter_images as records
    from alexstream.sharding.split_plans import ShardRequest, plan_splits

    root = images[0].parent.parent
    recipe = EncodeRecipe(resize_filter=resize_filter, quality=QUALITY, chroma=CHROMA, size_px=SIZE)
    raw = EncodeRecipe(resize_filter=resize_filter, encoding="raw", size_px=SIZE)
    listing = next(iter(plan_splits(ShardRequest(source=root, folder=root.with_name("shards"))))).listing
    row_of = {root / record.path: i for i, record in enumerate(records(listing.table, listing.classes))}

    def block(paths: Sequence[Path], folder: Path) -> None:
        import numpy as np

        rows = listing.rows(np.array([row_of[path] for path in paths]))
        job = ShardJob(
            name="train-000000",
            rows=rows,
            classes=listing.classes,
            source_root=root,
            folder=folder,
            encode=recipe,
            label_digits=4,
        )
        outcome, _ = convert_shard(job, lambda count: None)
        if outcome.refused:
            raise RuntimeError(f"refused: {outcome.refused[0]}")

    return Tool(
        block, lambda data: prepare_image(data, raw).pixels_HWC, lambda data: prepare_image(data, recipe).content
    )


def pillow(resize_filter: str, images: Sequence[Path]) -> Tool:
    """Pillow as it is mostly used: full decode, shorter side to 256, centre crop, save."""
    import numpy as np
    from PIL import Image

    resampling = Image.Resampling[resize_filter.upper()]

    def square(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG")).convert("RGB")
        scale = SIZE / min(image.size)
        width, height = (max(SIZE, round(side * scale)) for side in image.size)
        left, top = (width - SIZE) // 2, (height - SIZE) // 2
        return image.resize((width, height), resampling).crop((left, top, left + SIZE, top + SIZE))

    def store(data: bytes) -> bytes:
        buffer = io.BytesIO()
        square(data).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return Tool(into_tar(store), lambda data: np.asarray(square(data)), store)


def simd(resize_filter: str, images: Sequence[Path]) -> Tool:
    """Pillow-SIMD between simplejpeg's decoder and encoder, resampling the central square alone."""
    import numpy as np
    import simplejpeg
    from PIL import Image

    resampling = Image.Resampling[resize_filter.upper()]

    def resample(data: bytes) -> Any:
        image = Image.fromarray(simplejpeg.decode_jpeg(data))
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        return np.asarray(image.resize((SIZE, SIZE), resampling, box=(left, top, left + side, top + side)))

    def store(data: bytes) -> bytes:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(resample(data)), QUALITY, colorsubsampling="420")

    return Tool(into_tar(store), resample, store)


def img2dataset(images: Sequence[Path]) -> Tool:
    """The ``Resizer`` of img2dataset with its defaults; its pixels are had by letting it write PNG."""
    import cv2
    import numpy as np
    from img2dataset.resizer import Resizer

    jpeg = Resizer(SIZE, "center_crop", False, encode_quality=QUALITY)
    png = Resizer(SIZE, "center_crop", False, encode_quality=1, encode_format="png")

    def resized(resizer: Resizer, data: bytes) -> bytes:
        content, *_, error = resizer(io.BytesIO(data))
        if error:
            raise RuntimeError(error)
        return content

    def resample(data: bytes) -> Any:
        pixels = cv2.imdecode(np.frombuffer(resized(png, data), np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    return Tool(into_tar(lambda data: resized(jpeg, data)), resample, lambda data: resized(jpeg, data))


def ffcv(images: Sequence[Path]) -> Tool:
    """FFCV's ``DatasetWriter``. It limits the longer side and crops nothing, so Pillow hands it the central square."""
    import cv2
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import encode_jpeg, resizer
    from ffcv.writer import DatasetWriter
    from PIL import Image

    cv2.setNumThreads(1)

    def square(file: Any) -> Image.Image:
        image = Image.open(file, formats=("JPEG", "PNG")).convert("RGB")
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        return image.crop((left, top, left + side, top + side))

    class Squares:
        """An indexed data set that notes when its first image was asked for."""

        def __init__(self, paths: Sequence[Path]) -> None:
            self.paths, self.begun = paths, multiprocessing.RawValue("d", 0.0)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            self.begun.value = self.begun.value or time.perf_counter()
            return square(self.paths[index]), index

    def block(paths: Sequence[Path], folder: Path) -> float:
        squares = Squares(paths)
        field = RGBImageField(write_mode="jpg", max_resolution=SIZE, jpeg_quality=QUALITY)
        writer = DatasetWriter(str(folder / "out.beton"), {"image": field, "label": IntField()}, num_workers=2)
        writer.from_indexed_dataset(squares, chunksize=10)  # small, so that both workers end together
        seconds = time.perf_counter() - squares.begun.value
        multiprocessing.active_children()  # which reaps them, so that their CPU time is counted
        return seconds

    def resample(data: bytes) -> Any:
        return resizer(np.array(square(io.BytesIO(data))), SIZE)

    def store(data: bytes) -> bytes:
        return encode_jpeg(resample(data), QUALITY).tobytes()

    return Tool(block, resample, store)


def decode(images: Sequence[Path]) -> Tool:
    """A stage alone: simplejpeg's full decode of the sources."""
    import simplejpeg

    return Tool(for_each(lambda path: simplejpeg.decode_jpeg(path.read_bytes())))


def encode(images: Sequence[Path]) -> Tool:
    """A stage alone: simplejpeg's encoding of the squares."""
    import simplejpeg

    pixels = {path: pillow("bicubic", images).resample(path.read_bytes()) for path in images}
    return Tool(for_each(lambda path: simplejpeg.encode_jpeg(pixels[path], QUALITY, colorsubsampling="420")))


def verify(images: Sequence[Path]) -> Tool:
    """A stage alone: simplejpeg's decode of the stored squares."""
    import simplejpeg

    stored = {path: pillow("bicubic", images).store(path.read_bytes()) for path in images}
    return Tool(for_each(lambda path: simplejpeg.decode_jpeg(stored[path])))


def into_tar(store: Callable[[bytes], bytes]) -> Callable[[Sequence[Path], Path], None]:
    """A block that writes images and labels with webdataset's TarWriter."""

    def block(paths: Sequence[Path], folder: Path) -> None:
        from webdataset import TarWriter  # here, since it may load torch, which the stages need not wait for

        with TarWriter(str(folder / "train-000000.tar")) as tar:
            for i, path in enumerate(paths):
                tar.write({"__key__": f"{i:08d}", "jpg": store(path.read_bytes()), "cls": i})

    return block


def for_each(work: Callable[[Path], object]) -> Callable[[Sequence[Path], Path], None]:
    """A block that keeps nothing."""

    def block(paths: Sequence[Path], folder: Path) -> None:
        for path in paths:
            work(path)

    return block


def filtered(make: Callable[[str, Sequence[Path]], Tool], resize_filter: str) -> Callable[[Sequence[Path]], Tool]:
    """A tool with its filter chosen."""
    return lambda images: make(resize_filter, images)


_OURS = ("simplejpeg", "numba")
_PILLOW, _SIMD, _STAGE = ("pillow", "webdataset"), ("pillow-simd", "simplejpeg", "webdataset"), ("simplejpeg", "pillow")
TOOLS = {
    "pillow-bicubic": Entry("Pillow, bicubic", "", filtered(pillow, "bicubic"), _PILLOW),
    "pillow-lanczos": Entry("Pillow, Lanczos", "", filtered(pillow, "lanczos"), _PILLOW),
    "alexstream-lanczos": Entry("alexstream, Lanczos (default)", "", filtered(ours, "lanczos"), _OURS),
    "alexstream-bicubic": Entry("alexstream, bicubic", "", filtered(ours, "bicubic"), _OURS),
    "img2dataset": Entry(
        "img2dataset", "img2dataset", img2dataset, ("img2dataset", "opencv-python-headless", "albumentations")
    ),
    "ffcv": Entry("FFCV writer", "ffcv", ffcv, ("ffcv", "opencv-python-headless", "pillow"), processes=1),
    "simd-bicubic": Entry("simplejpeg + Pillow-SIMD, bicubic", "pillow-simd", filtered(simd, "bicubic"), _SIMD),
    "simd-lanczos": Entry("simplejpeg + Pillow-SIMD, Lanczos", "pillow-simd", filtered(simd, "lanczos"), _SIMD),
    "decode": Entry("decode the source (simplejpeg)", "", decode, _STAGE, stage=True),
    "encode": Entry("encode the square (simplejpeg)", "", encode, _STAGE, stage=True),
    "verify": Entry("decode the stored square (simplejpeg)", "", verify, _STAGE, stage=True),
}
