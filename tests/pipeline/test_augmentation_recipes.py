"""What the augmentation recipes are, field by field, with what says so."""

from dataclasses import asdict, fields

import pytest

from alexstream.pipeline.transforms import augment
from alexstream.pipeline.transforms.augment import AUGMENTATIONS, Augmentation

FIELDS = ("crop", "flip", "lighting", "block", "mean", "unit_variance")
AUGMENTATIONS_ARE = {
    # Krizhevsky et al. (2012), section 4.1: random 224 x 224 patches and their reflections of each image, the multiples
    # of the principal components; section 2: the mean over the training set, subtracted from each pixel.
    "paper": ("random", True, "paper", 1, "window", False),
    # The program of 2012, convdata_jpeg.py: crop and flip of 32 images together (:77, :238-246), noise by √λ and
    # ÷ 1.1 (:175-179), the centre of the mean whatever the crop (:207-211), no division by a deviation (:201-211).
    "original": ("random", True, "original", 32, "centre", False),
    # Szegedy et al. (2015), section 6: 8 to 100 % of the area at a ratio of 3/4 to 4/3; He et al. (2016), section 3.4.
    "inception": ("resized", True, "paper", 1, "colour", True),
    # Section 4.1 of the paper: the centre patch.
    "none": ("centre", False, "none", 1, "window", False),
    # Each of the two forms of section 4.1 left out.
    "paper-no-lighting": ("random", True, "none", 1, "window", False),
    "original-no-lighting": ("random", True, "none", 32, "centre", False),
    "inception-no-lighting": ("resized", True, "none", 1, "colour", True),
    "paper-no-crops": ("centre", False, "paper", 1, "window", False),
    "original-no-crops": ("centre", False, "original", 1, "centre", False),
    # Both left out; what is subtracted stays that of the recipe.
    "paper-no-crops-no-lighting": ("centre", False, "none", 1, "window", False),
    "original-no-crops-no-lighting": ("centre", False, "none", 1, "centre", False),
}


def test_the_table_has_every_field_and_every_name():
    assert tuple(field.name for field in fields(Augmentation)) == FIELDS
    assert set(AUGMENTATIONS) == set(AUGMENTATIONS_ARE)


@pytest.mark.parametrize("name", AUGMENTATIONS_ARE)
def test_a_recipe_is_what_its_source_says(name):
    assert asdict(AUGMENTATIONS[name]) == dict(zip(FIELDS, AUGMENTATIONS_ARE[name], strict=True))


@pytest.mark.parametrize("name", AUGMENTATIONS_ARE)
def test_evaluation_takes_the_centre_and_what_is_subtracted_stays(name):
    crop, flip, lighting, block = "centre", False, "none", 1
    *_, mean, unit_variance = AUGMENTATIONS_ARE[name]
    expected = (crop, flip, lighting, block, mean, unit_variance)
    assert asdict(AUGMENTATIONS[name].for_evaluation()) == dict(zip(FIELDS, expected, strict=True))


def test_the_constants_of_boxes():
    """Szegedy et al. (2015), section 6; ten attempts, as torchvision's RandomResizedCrop."""
    assert augment.BOX_AREA == (0.08, 1.0)
    assert augment.BOX_RATIO == (3 / 4, 4 / 3)
    assert augment.BOX_ATTEMPTS == 10


def test_each_kind_of_draw_has_numbers_of_its_own():
    """0, 3 and 4 are the order's; a box takes as many as there are attempts."""
    kinds = [0, 3, 4, augment.PURPOSE_CROP, augment.PURPOSE_LIGHTING, augment.PURPOSE_BLOCK]
    kinds += [augment.PURPOSE_BOX + attempt for attempt in range(augment.BOX_ATTEMPTS)]
    assert len(set(kinds)) == 16
    # In every data set's stream since the first version.
    assert kinds[3:7] == [1, 2, 5, 16]
