"""What each way to store a data set costs and keeps: bytes, fidelity and the speed at which it decodes again.

Example::

    python benchmarks/quality.py
    python benchmarks/quality.py --images photos/ --most 100

Rows: JPEG at five qualities with and without chroma subsampling, raw pixels, and the original files. PSNR and SSIM are
to the pixels before encoding. Decoding is one process, one thread, all rows in turn, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fidelity import Pixels, decoded, psnr, spread, ssim
from machine import command_line, describe, result_path
from photographs import IMAGENET_IMAGES, default_images, gather

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.tar import padded_bytes
from alexstream.sharding.images.decode import decode_sample, prepare_image

QUALITIES, CHROMAS = (75, 85, 90, 95, 100), ("4:2:0", "4:4:4")
BASE = "JPEG 95, 4:2:0"
READING = (
    "GB: all of ImageNet, 1,331,167 images, with the tar's headers and padding. PSNR of all channels and SSIM of the "
    "luma, to the pixels before encoding: median / 5th percentile / smallest. Decoding: to the 256×256 pixels, by "
    "simplejpeg; `raw` is one copy, `keep` decodes the whole original and resamples it."
)


@dataclass
class Way:
    """A way to store: its recipe, what it made of every image, and images/s of decoding that, one a round."""

    recipe: EncodeRecipe
    stored: list[tuple[bytes, str]] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def store(self, data: bytes, pixels: Pixels) -> None:
        """Store one image, and compare what comes back with its resampled pixels if it was re-encoded."""
        prepared = prepare_image(data, self.recipe)
        self.stored.append((prepared.content, prepared.extension))
        if self.recipe.encoding == "jpeg":
            again = decoded(prepared.content)
            self.psnr_db.append(psnr(again, pixels))
            self.ssim.append(ssim(again, pixels))

    def decode_all(self) -> float:
        """Images per second of CPU time, of turning what is stored into pixels."""
        begun = time.process_time()
        for content, extension in self.stored:
            np.array(decode_sample(content, extension, self.recipe))
        return len(self.stored) / (time.process_time() - begun)

    @property
    def sizes(self) -> list[int]:
        """Bytes of every stored image."""
        return [len(content) for content, _ in self.stored]


def ways() -> dict[str, Way]:
    """The ways to store that are compared."""
    jpegs = {
        f"JPEG {quality}, {chroma}": Way(EncodeRecipe(quality=quality, chroma=chroma))
        for chroma in CHROMAS
        for quality in QUALITIES
    }
    return {**jpegs, "raw": Way(EncodeRecipe(encoding="raw")), "keep": Way(EncodeRecipe(encoding="keep"))}


def table(all_ways: dict[str, Way]) -> list[str]:
    """A row for each way."""
    heads = ("stored as", "bytes an image", "GB", "PSNR, dB", "SSIM", f"decoding ÷ {BASE}", "images/s", "n")
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, way in all_ways.items():
        gigabytes = statistics.mean(padded_bytes(size) + padded_bytes(1) for size in way.sizes) * IMAGENET_IMAGES / 1e9
        ratios = [rate / base for rate, base in zip(way.rates, all_ways[BASE].rates, strict=True)]
        rows.append(
            f"| {name} | {statistics.mean(way.sizes):,.0f} | {gigabytes:.1f} | {spread(way.psnr_db)} | "
            f"{spread(way.ssim, 4)} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | "
            f"{statistics.median(way.rates):.0f} | {len(way.rates)} |"
        )
    return rows


def measured(images: Sequence[Path], rounds: int) -> list[str]:
    """Store every image in every way, then decode them all, round by round after a warm-up."""
    all_ways = ways()
    for path in images:
        data = path.read_bytes()
        pixels = prepare_image(data, EncodeRecipe(encoding="raw")).pixels_HWC
        for way in all_ways.values():
            way.store(data, pixels)
    for number in range(rounds + 1):
        for way in all_ways.values():
            rate = way.decode_all()
            if number:
                way.rates.append(rate)
    return table(all_ways)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=default_images(), help="[default: %(default)s, or drawn ones]")
    parser.add_argument("--most", type=int, default=0, help="use so many of the images [default: all]")
    parser.add_argument("--rounds", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        images, words = gather(args.images, Path(scratch), args.most)
        rows = measured(images, args.rounds)
    command = command_line()
    lines = ["# What each encoding costs and keeps", "", f"`{command}`", "", describe(), ""]
    lines += [f"On {words}.", "", *rows, "", READING]
    path = args.out or result_path("quality")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
