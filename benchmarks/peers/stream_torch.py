"""Loaders around DataLoader with two worker processes: folder, webdataset, Hugging Face, litdata, MosaicML."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from stream_finish import PillowSample, batch_finish, decoded
from stream_store import BATCH, EPOCH, THREADS, Stored, Stream
from torch.utils.data import DataLoader, Dataset

OPTIONS = {"batch_size": BATCH, "num_workers": THREADS, "drop_last": True}
SHUFFLED, REPEATED = 1000, 20


def stream(stored: Stored, store: str, codec: str) -> Stream:
    """``store``: folder, webdataset, huggingface, litdata or streaming.

    ``codec``: pillow finishes every image in the worker; simplejpeg hands over uint8 crops, finished as a batch.
    """
    torch.set_num_threads(1)
    sample: Callable[[Any], Any] = PillowSample(stored) if codec == "pillow" else _uint8_sample
    makers = {"webdataset": _webdataset, "huggingface": _huggingface, "litdata": _litdata, "streaming": _streaming}
    loader, bytes_per_image = {**makers, "folder": _folder}[store](stored, sample)
    batches = _endless(loader)
    return Stream(batches if codec == "pillow" else map(batch_finish(stored), batches), bytes_per_image)


def _uint8_sample(content: bytes) -> torch.Tensor:
    return torch.from_numpy(decoded(content))


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        for batch in loader:
            yield batch["image"] if isinstance(batch, dict) else batch[0]


def _written(stored: Stored) -> Iterator[dict[str, Any]]:
    for i in range(len(stored)):
        yield {"image": stored.content(i).tobytes(), "label": int(stored.label_N[i])}


class Files(Dataset[Any]):
    """JPEG files of a folder; an epoch goes through them several times."""

    def __init__(self, paths: list[Path], sample: Callable[[bytes], Any]) -> None:
        """List the files."""
        self._paths, self._sample = paths, sample

    def __len__(self) -> int:
        """Images in an epoch."""
        return EPOCH

    def __getitem__(self, i: int) -> tuple[Any, int]:
        """One image."""
        return self._sample(self._paths[i % len(self._paths)].read_bytes()), 0


def _folder(stored: Stored, sample: Callable[[Any], Any]) -> tuple[Any, float]:
    paths = []
    for i, row in enumerate(_written(stored)):
        paths.append(stored.folder / "files" / f"{row['label']:04d}" / f"{i:06d}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(row["image"])
    return DataLoader(Files(paths, sample), shuffle=True, **OPTIONS), stored.bytes_per_image()


def _webdataset(stored: Stored, sample: Callable[[Any], Any]) -> tuple[Any, float]:
    import webdataset

    tars = [str(tar) for tar in stored.tars]
    images = webdataset.WebDataset(tars, resampled=True, shardshuffle=False, empty_check=False).shuffle(SHUFFLED)
    batches = images.to_tuple("jpg", "cls").map_tuple(sample, int).batched(BATCH, partial=False)
    return webdataset.WebLoader(batches, batch_size=None, num_workers=THREADS), stored.bytes_per_image()


def _huggingface(stored: Stored, sample: Callable[[Any], Any]) -> tuple[Any, float]:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int32")})
    folder = stored.folder / "huggingface"
    table = datasets.Dataset.from_generator(partial(_written, stored), features=features, cache_dir=str(folder))
    images = table.with_transform(lambda rows: {"image": [sample(x) for x in rows["image"]], "label": rows["label"]})
    return DataLoader(images, shuffle=True, persistent_workers=True, **OPTIONS), table.data.nbytes / len(stored)


def _litdata(stored: Stored, sample: Callable[[Any], Any]) -> tuple[Any, float]:
    import litdata

    folder = stored.folder / "litdata"
    litdata.optimize(
        fn=partial(_litdata_row, stored), inputs=list(range(len(stored))), output_dir=str(folder),
        chunk_bytes="64MB", num_workers=1,
    )  # fmt: skip
    images = litdata.StreamingDataset(str(folder), shuffle=True, transform=partial(_litdata_sample, sample))
    loader = litdata.StreamingDataLoader(images, persistent_workers=True, **OPTIONS)
    return loader, _size(folder, "*.bin") / len(stored)


def _litdata_row(stored: Stored, i: int) -> dict[str, Any]:
    return {"image": stored.content(i).tobytes(), "label": int(stored.label_N[i])}


def _litdata_sample(sample: Callable[[Any], Any], row: dict[str, Any]) -> tuple[Any, int]:
    return sample(row["image"]), row["label"]


def _streaming(stored: Stored, sample: Callable[[Any], Any]) -> tuple[Any, float]:
    for ready_made in ("multimodal", "text", "vision"):  # data sets that are not used, but want much that is not here
        sys.modules[f"streaming.{ready_made}"] = ModuleType(f"streaming.{ready_made}")
    from streaming import MDSWriter, StreamingDataset
    from streaming import Stream as Source

    class Images(StreamingDataset):
        def __getitem__(self, i: int) -> tuple[Any, int]:
            return sample(super().__getitem__(i)["image"]), 0

    folder = stored.folder / "streaming"
    with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as out:
        for row in _written(stored):
            out.write(row)
    images = Images(streams=[Source(local=str(folder), repeat=REPEATED)], shuffle=True, batch_size=BATCH)
    return DataLoader(images, persistent_workers=True, **OPTIONS), _size(folder, "*.mds") / len(stored)


def _size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))
