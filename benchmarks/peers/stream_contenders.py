"""The streams that ``stream.py`` compares: how each is called, where it lives, and which module starts it.

Modules are named, not imported: each can be loaded in its own environment only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LEADERS, OTHERS = 0, 1


@dataclass(frozen=True)
class Entry:
    """A contender: ``stream(stored, **options)`` of ``module`` starts it, in ``environment`` ("" is our own).

    ``subtracts`` says which mean; ``finished``: it gives float batches, not uint8 windows. ``group``: contenders of
    one group are measured close together, since ratios between them matter.
    """

    title: str
    encoding: str
    module: str
    packages: tuple[str, ...]
    subtracts: str = "mean colour"
    options: dict[str, str] = field(default_factory=dict)
    environment: str = ""
    finished: bool = True
    group: int = OTHERS


def _leader(title: str, encoding: str, module: str, *packages: str, environment: str = "", **options: str) -> Entry:
    return Entry(title, encoding, module, packages, "mean image", options, environment, group=LEADERS)


def _peer(title: str, module: str, *packages: str, environment: str = "", **options: str) -> Entry:
    return Entry(title, "jpeg", module, packages, "mean colour", options, environment)


_OURS = ("nvidia-dali-cuda130", "numba", "torch")
_DALI = ("nvidia-dali-cuda130", "torch")
_FFCV = ("ffcv", "numba")
_OFF = {"augmentation": "none"}

CONTENDERS = {
    "ours-jpeg": _leader("alexstream", "jpeg", "stream_ours", *_OURS),
    "ours-jpeg-plain": _leader("alexstream, augmentation none", "jpeg", "stream_ours", *_OURS, **_OFF),
    "bound-jpeg": _leader("C bound", "jpeg", "stream_bound", "numpy"),
    "ffcv-jpeg": _leader("FFCV, custom operation", "jpeg", "stream_ffcv", *_FFCV, environment="ffcv"),
    "ffcv-jpeg-tuned": _leader(
        "FFCV, custom operation, tuned", "jpeg", "stream_ffcv", *_FFCV, environment="ffcv", tuned="yes"
    ),
    "dali-windows": Entry(
        "DALI, decoding of windows alone (uint8)", "jpeg", "stream_dali", _DALI, "nothing", {"finish": "none"},
        finished=False,
    ),
    "dali-torch": _peer("DALI, lighting in torch", "stream_dali", *_DALI, finish="torch"),
    "dali-mean-image": Entry(
        "DALI, everything in DALI", "jpeg", "stream_dali", _DALI, "mean image", {"finish": "mean-image"}
    ),
    "threads": _peer("threads + simplejpeg", "stream_threads", "simplejpeg", "torch", loader="pool"),
    "webdataset-simplejpeg": _peer(
        "webdataset + simplejpeg", "stream_torch", "webdataset", "simplejpeg", store="webdataset", codec="simplejpeg"
    ),
    "webdataset-pillow": _peer(
        "webdataset + Pillow", "stream_torch", "webdataset", "pillow", store="webdataset", codec="pillow"
    ),
    "folder": _peer("folder + DataLoader + Pillow", "stream_torch", "torch", "pillow", store="folder", codec="pillow"),
    "huggingface": _peer(
        "Hugging Face datasets + Pillow", "stream_torch", "datasets", "pillow", store="huggingface", codec="pillow"
    ),
    "litdata": _peer(
        "litdata + simplejpeg", "stream_torch", "litdata", "torch", "simplejpeg",
        environment="litdata", store="litdata", codec="simplejpeg",
    ),
    "streaming": _peer(
        "MosaicML Streaming + simplejpeg", "stream_torch", "mosaicml-streaming", "torch", "simplejpeg",
        environment="streaming", store="streaming", codec="simplejpeg",
    ),
    "tensorflow": _peer("tf.data", "stream_tf", "tensorflow-cpu", environment="tensorflow"),
    "spdl": _peer("SPDL + simplejpeg", "stream_threads", "spdl", "simplejpeg", environment="spdl", loader="spdl"),
    "grain": _peer("grain + simplejpeg", "stream_threads", "grain", "simplejpeg", environment="grain", loader="grain"),
    "ours-raw": _leader("alexstream", "raw", "stream_ours", *_OURS),
    "ours-raw-plain": _leader("alexstream, augmentation none", "raw", "stream_ours", *_OURS, **_OFF),
    "bound-raw": _leader("C bound", "raw", "stream_bound", "numpy"),
    "ffcv-raw": _leader("FFCV, custom operation", "raw", "stream_ffcv", *_FFCV, environment="ffcv"),
    "ffcv-raw-tuned": _leader(
        "FFCV, custom operation, tuned", "raw", "stream_ffcv", *_FFCV, environment="ffcv", tuned="yes"
    ),
    "dali-raw": Entry(
        "DALI, lighting in torch", "raw", "stream_dali", _DALI, options={"finish": "torch"}
    ),
    "threads-raw": Entry(
        "threads + memory map", "raw", "stream_threads", ("torch", "numpy"), options={"loader": "pool"}
    ),
}  # fmt: skip
