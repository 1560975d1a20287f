"""Convert the colors of a decoded image of any mode to correct RGB; find ICC profiles that must be applied; pure.

Training pipelines usually read an RGB file's numbers as they are, and so do the decoders used in training. That is kept
for profiles under which the numbers are RGB of some kind; where they are not (XYB of jpegli, swapped channels), they
would give a wrong picture, and the profile is applied.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from alexstream.core.errors import BadImageError

# Grays and primaries: an ordinary RGB profile keeps the former neutral and the latter dominant. Muted colors
# distinguish wider color spaces from sRGB, where the primaries are clipped.
_GRAYS = [[0] * 3, [64] * 3, [128] * 3, [192] * 3, [255] * 3]
_PRIMARIES = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
_MUTED = [[192, 96, 96], [96, 192, 96], [96, 96, 192]]
_PROBES = np.array([*_GRAYS, *_PRIMARIES, *_MUTED], np.uint8)
_NEUTRAL_TOLERANCE, _SRGB_TOLERANCE = 24, 6


def convert_to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert a loaded image of any mode to RGB, transparent pixels to white. Raises BadImageError if unsupported."""
    mode, transparency = image.mode, image.info.get("transparency")
    if mode != "RGB":
        notes.append(f"was {mode}")
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return _scale_16_bits(image, transparency)
    if mode == "LAB":
        return _apply_transform(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if transparency is not None or mode in ("PA", "LA", "RGBA", "RGBa"):
        return _composite_over_white(image)
    if mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("RGB")
    raise BadImageError("unsupported-mode", f"colour mode {mode} has no agreed way to RGB")


def _scale_16_bits(image: Image.Image, transparency: object) -> Image.Image:
    """Scale 16-bit values to 8 bits; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(transparency, int):
        scaled[values == transparency] = 255
    return Image.fromarray(scaled, "L").convert("RGB")


def _composite_over_white(image: Image.Image) -> Image.Image:
    """Composite over white: the color stored below transparent pixels was never meant to be seen."""
    rgba = image.convert("RGBA")
    if np.asarray(rgba)[..., 3].min() == 255:
        return rgba.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def needs_profile(icc: bytes) -> bool:
    """Return whether a profile (empty: none) is of RGB data whose numbers are not ordinary RGB."""
    return bool(icc) and _classify_profile(icc)[0] == "exotic"


def apply_profile(image: Image.Image, icc: bytes, notes: list[str]) -> Image.Image:
    """Convert an RGB image by its profile to sRGB. Raises BadImageError (``colour-profile``) if that fails."""
    notes.append(f"ICC applied: {_classify_profile(icc)[1]}")
    return _apply_transform(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)))


def note_profile(icc: bytes, notes: list[str]) -> None:
    """Add a note on a profile that is not applied, unless it is sRGB, which is assumed anyway."""
    kind, name = _classify_profile(icc)
    if kind != "sRGB":
        notes.append(f"ICC ignored: {name}")


@lru_cache(maxsize=32)
def _classify_profile(icc: bytes) -> tuple[str, str]:
    """Return ``sRGB``, ``ordinary``, ``exotic`` or ``unusable`` (not of RGB data), and the profile's name."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = re.sub(r"[^ -:<-~]+", " ", ImageCms.getProfileDescription(profile)).strip()[:60] or "unnamed"
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return "unusable", "unreadable profile"
    if icc[16:20] != b"RGB ":
        return "unusable", name
    try:
        shown = np.asarray(_apply_transform(Image.fromarray(_PROBES[None]), profile), np.int64)[0]
    except BadImageError:
        return "exotic", name
    if np.abs(shown - _PROBES).max() <= _SRGB_TOLERANCE:
        return "sRGB", name
    return ("ordinary" if _is_ordinary(shown) else "exotic"), name


def _is_ordinary(shown: NDArray[np.int64]) -> bool:
    """Return whether grays stay neutral and increase, and each primary keeps its largest channel."""
    grays, primaries = shown[:5], shown[5:8]
    neutral = (grays.max(axis=1) - grays.min(axis=1)).max() <= _NEUTRAL_TOLERANCE
    growing = (np.diff(grays.sum(axis=1)) > 0).all()
    return bool(neutral and growing and (primaries.argmax(axis=1) == np.arange(3)).all())


def _apply_transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    try:
        target = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        shown = ImageCms.profileToProfile(image, profile, target, renderingIntent=intent, outputMode="RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        raise BadImageError("colour-profile", f"the colour profile cannot be applied ({error})") from error
    if shown is None:
        raise BadImageError("colour-profile", "the colour profile cannot be applied")
    return shown
