"""The recipe from source image to stored bytes, and how many bytes a sample can have by it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from alexstream.core.text import quote_value

MOST_KEPT_BYTES = 3 * 89_478_485 + (64 << 20)  # of an original: the most pixels that are decoded, plus metadata
JPEG_TABLES = 64 << 10  # bytes; ample for a header without metadata
MAX_FAST_DCT_QUALITY = 95  # earlier versions, which recorded no DCT, used the fast one up to this quality


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRecipe:
    """The recipe from source image to stored bytes, part of the manifest; one folder has one recipe.

    Args:
        encoding: ``jpeg`` stores the scaled square as JPEG, ``raw`` as uint8 R, G, B bytes, ``keep`` the original.
        size_px: The side of the square to which images are scaled and cut, 224 to 4096 pixels.
        resize_filter: ``lanczos``, ``bicubic``, ``bilinear`` or ``box``.
        quality: Of the JPEG, 1 to 100.
        chroma: How finely the JPEG holds colours: ``4:4:4``, ``4:2:2`` or ``4:2:0``.
        dct: The forward transform of the JPEG encoder: ``accurate``, or ``fast`` as in data sets of earlier versions.
    """

    encoding: str = "jpeg"
    size_px: int = 256
    resize_filter: str = "lanczos"
    quality: int = 95
    chroma: str = "4:2:0"
    dct: str = "accurate"

    def __post_init__(self) -> None:
        """Raise ValueError for values outside the ranges of the JPEG encoder and the 224-pixel crop."""
        if not 224 <= self.size_px <= 4096:
            raise ValueError(f"size_px: received {self.size_px}, expected 224..4096")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: received {self.quality}, expected 1..100")
        choices = {
            "resize_filter": ("lanczos", "bicubic", "bilinear", "box"),
            "chroma": ("4:4:4", "4:2:2", "4:2:0"),
            "encoding": ("jpeg", "raw", "keep"),
            "dct": ("accurate", "fast"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: received {quote_value(getattr(self, name))}, expected one of {', '.join(allowed)}"
                )

    @property
    def most_bytes(self) -> int:
        """The most bytes that a stored sample has; of ``raw``, the only number."""
        if self.encoding == "keep":
            return MOST_KEPT_BYTES
        # Twice the raw pixels: noise of extreme values at quality 100 takes 1.6 times as many.
        return (3 if self.encoding == "raw" else 6) * self.size_px**2 + (JPEG_TABLES if self.encoding == "jpeg" else 0)

    def identity(self) -> dict[str, Any]:
        """Return the fields that determine the stored bytes, from which the plan's digest is computed.

        ``dct`` is left out where it makes no difference, as in the plans of versions that did not record it.
        """
        fields = asdict(self)
        if self.encoding == "raw" or self.quality > MAX_FAST_DCT_QUALITY:
            del fields["dct"]
        return fields

    def describe(self) -> str:
        """Return a description for people: ``256x256 JPEG, quality 95, 4:2:0, lanczos``."""
        square = f"{self.size_px}x{self.size_px}"
        return {
            "jpeg": f"{square} JPEG, quality {self.quality}, {self.chroma}, {self.resize_filter}",
            "raw": f"{square} raw RGB, {self.resize_filter}",
            "keep": f"original bytes (statistics of {square} squares, {self.resize_filter})",
        }[self.encoding]
