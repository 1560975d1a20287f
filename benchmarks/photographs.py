"""The image files that conversion and encodings are measured on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from alexstream.sharding.sample_set import write_sample_set

ROOT = Path(__file__).resolve().parent.parent
IMAGENET_IMAGES = 1_281_167 + 50_000


def default_images() -> Path | None:
    """``imagenet-sample`` where the tests look for real photographs, if it is there."""
    folder = Path(os.environ.get("ALEXSTREAM_TEST_DATA", ROOT.parent / "shared" / "data")) / "imagenet-sample"
    return folder if folder.is_dir() else None


def gather(source: Path | None, scratch: Path, most: int) -> tuple[list[Path], str]:
    """Copy the images that every tool understands to one class folder each; return the copies, and words on them.

    That is JPEGs in RGB or grey that stand upright: handling others is no work that all tools do. The copies are in
    the page cache. Without a source, the sample set is drawn.
    """
    if source is None:
        source = scratch / "drawn"
        write_sample_set(source, quiet=True)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    plain = [path for path in files if _plain(path)]
    if not plain:
        raise SystemExit(f"{source}: no upright RGB or grey JPEG in {len(files)} files")
    step = max(1, len(plain) // most) if most else 1
    chosen = plain[::step][: most or None]
    copies = []
    for i, path in enumerate(chosen):
        copy = scratch / "images" / path.parent.name / f"{i:06d}.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copies.append(copy)
    mean = sum(path.stat().st_size for path in copies) / len(copies)
    words = f"{len(copies)} of {len(files)} files of `{source.name}`, {mean / 1000:.1f} kB on average"
    return copies, words


def _plain(path: Path) -> bool:
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)
            return upright and image.format == "JPEG" and image.mode in ("RGB", "L")
    except (UnidentifiedImageError, OSError):
        return False
