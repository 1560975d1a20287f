"""Draws that never change: the words of the generator, written down, and the crop, flip, offset and box made of each.

A version that draws otherwise gives another stream for the same seed, so these numbers are part of the format. They
were computed from docs/stream.md by integers and Python's ``math``, not by the code under test; ``WORDS`` below is the
generator once more. ``test_order`` holds the same for the order of samples.
"""

import math

import numpy as np
import pytest

from alexstream.pipeline.sampling.philox import sample_words
from alexstream.pipeline.transforms.augment import AUGMENTATIONS, standard_normals, uniform_below
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from tests.support.known_statistics import AXES, STATS, VARIANCES

BIG = 2**40 + 7  # a seed of more than 32 bits

# seed, epoch, sample; words of purpose 1; corner of the crop, 1 = mirrored
CROPS = [
    (1, 0, 0, (0x127BEE41, 0x1E047488, 0x48842B20, 0x0A393496), (2, 3), 0),
    (1, 0, 1, (0x10CC6764, 0xA9634A04, 0x4506AE51, 0xF15E1F53), (2, 21), 0),
    (1, 1, 0, (0x5F385A57, 0x657C4616, 0x70E6D019, 0x4500AB68), (12, 13), 0),
    (2012, 0, 0, (0xB593C6B0, 0xC262CD01, 0x2FDDAF8C, 0x4C1C665C), (23, 25), 0),
    (2012, 89, 1281166, (0xB9272CE1, 0xFE5C4C5F, 0x690821BE, 0x3A2564EF), (23, 32), 0),
    (BIG, 3, 123456789, (0xD6B214A7, 0x3C015746, 0x8855B937, 0xB269B975), (27, 7), 1),
]
# seed, epoch, place in the order; words of purpose 5 for place ÷ 32; corner, mirrored
BLOCKS = [
    (1, 0, 0, (0x3321C3D5, 0x2057F548, 0xCB402FDD, 0x756E84FD), (6, 4), 1),
    (1, 0, 31, (0x3321C3D5, 0x2057F548, 0xCB402FDD, 0x756E84FD), (6, 4), 1),
    (1, 0, 32, (0x64737089, 0x96365015, 0xFFC1454C, 0xBE85BDBE), (12, 19), 1),
    (2012, 1, 95, (0x77B35EE1, 0x5E500926, 0x85ED0F2C, 0xD58F8C63), (15, 12), 1),
    (2012, 89, 1281166, (0x0ADA5459, 0xC90A71C1, 0xDE6E2683, 0x18941355), (1, 25), 1),
]
# seed, epoch, sample; words of purpose 2; three normals; the offset of ``paper`` and of ``original`` (before ÷ 1.1)
LIGHTS = [
    (1, 0, 0, (0x2FE424F7, 0x6B5C693B, 0x46220365, 0x7D0E2E0A), (-0.274565, 1.810278, -1.314876),
     (-0.77123, -0.573127, -0.21845), (-3.921905, -0.228004, 0.485548)),
    (1, 0, 1, (0x2CA4F974, 0x49F7D7D7, 0x4A192CB5, 0x280AA3A7), (-0.458487, 1.811818, 0.87412),
     (-1.192642, -1.028724, -0.411836), (-4.62527, -2.313376, 0.828522)),
    (1, 1, 0, (0x623C99A7, 0xB610A29B, 0x61204DDC, 0xBDF9EE0F), (-1.005345, 0.95125, -0.040991),
     (-2.427906, -2.334003, -1.121015), (-7.369708, -5.839726, -2.193759)),
    (2012, 0, 0, (0xD91FC0DC, 0xF9223776, 0xA9705B67, 0x6110C8C6), (-0.30182, -0.488182, -0.169143),
     (-0.679142, -0.72435, -0.388759), (-1.429947, -2.094856, -1.540345)),
    (2012, 89, 1281166, (0x37EE20B7, 0xD53D9853, 0x39182E42, 0xBA592CD8), (0.294203, 1.719183, -0.083594),
     (0.57944, 0.749298, 0.457612), (0.0309, 2.802036, 2.707283)),
    (BIG, 3, 123456789, (0xA5550155, 0x3603D95D, 0x5436E037, 0x772496BA), (-0.445144, 0.822369, -1.722521),
     (-1.110153, -1.002509, -0.487962), (-4.045328, -1.655631, -1.267094)),
]  # fmt: skip
# seed, epoch, sample; height, width; the attempt (0 to 9) that fits, and its words of purpose 16 + attempt; the box
BOXES = [
    (1, 0, 0, (375, 500), 0, (0xAB5E9DDB, 0x85174586, 0x5FA82473, 0x8A397C84), (6, 74, 359, 363)),
    (1, 0, 24, (375, 500), 2, (0x1E795F6E, 0xB364961C, 0xAF34AC52, 0x98C41279), (135, 179, 178, 200)),
    (1, 0, 1, (500, 375), 3, (0x4B8B96BE, 0x10BE1428, 0x14631E57, 0x6990ED12), (16, 61, 291, 227)),
    (1, 0, 21, (300, 900), 3, (0x10689047, 0x518B9CD1, 0x9602A29D, 0x725FCA05), (56, 320, 204, 184)),
    (1, 2, 3, (256, 256), 0, (0xCD842B0A, 0xA18E1422, 0xF6556724, 0xE774950D), (32, 14, 223, 241)),
    (2012, 89, 1281166, (256, 256), 2, (0x67F471B6, 0x94750743, 0x8770F345, 0xB40D6023), (47, 56, 168, 176)),
]


def philox(key, counter):
    """Philox4x32-10 (Salmon et al., 2011) on Python's integers."""
    low = 0xFFFFFFFF
    k0, k1, (c0, c1, c2, c3) = key & low, key >> 32 & low, counter
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & low, (a >> 32) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def preprocessing_of(recipe):
    return Preprocessing(recipe=recipe, stats=STATS, mean_image_HWC=np.zeros((256, 256, 3)))


def augmenter_of(recipe, seed, size_px=256):
    return preprocessing_of(AUGMENTATIONS[recipe]).make_augmenter(seed, size_px)


def drawn(recipe, seed, epoch, sample, place):
    return augmenter_of(recipe, seed).draw(np.array([epoch]), np.array([sample]), np.array([place]))


def crop_of(draws):
    return tuple(draws.yx_N2[0].tolist()), int(draws.flip_N[0])


def test_the_words_are_those_of_the_generator_for_key_and_counter():
    """Key: the seed. Counter: sample (or block) below 2^32 and above, epoch, purpose."""
    asked = [(seed, epoch, sample, 1, words) for seed, epoch, sample, words, *_ in CROPS]
    asked += [(seed, epoch, place // 32, 5, words) for seed, epoch, place, words, *_ in BLOCKS]
    asked += [(seed, epoch, sample, 2, words) for seed, epoch, sample, words, *_ in LIGHTS]
    asked += [(seed, epoch, sample, 16 + attempt, words) for seed, epoch, sample, _, attempt, words, _ in BOXES]
    for seed, epoch, number, purpose, words in asked:
        assert philox(seed, (number, 0, epoch, purpose)) == words
        assert tuple(sample_words(seed, np.array([epoch]), np.array([number]), purpose)[0].tolist()) == words


@pytest.mark.parametrize("recipe", ["paper", "paper-no-lighting"])
def test_known_crops_of_each_image(recipe):
    for seed, epoch, sample, words, corner, flip in CROPS:
        assert corner == (words[0] * 33 >> 32, words[1] * 33 >> 32) and flip == words[2] >> 31
        assert crop_of(drawn(recipe, seed, epoch, sample, place=99)) == (corner, flip)


@pytest.mark.parametrize("recipe", ["original", "original-no-lighting"])
def test_known_crops_of_each_block_of_32(recipe):
    for seed, epoch, place, words, corner, flip in BLOCKS:
        assert corner == (words[0] * 33 >> 32, words[1] * 33 >> 32) and flip == words[2] >> 31
        assert crop_of(drawn(recipe, seed, epoch, sample=77, place=place)) == (corner, flip)


@pytest.mark.parametrize("recipe", ["inception", "inception-no-lighting"])
def test_boxes_are_mirrored_as_the_paper_s_crops_are(recipe):
    for seed, epoch, sample, _, _, flip in CROPS:
        assert crop_of(drawn(recipe, seed, epoch, sample, place=99)) == ((16, 16), flip)


@pytest.mark.parametrize("recipe", ["none", "paper-no-crops", "original-no-crops"])
def test_recipes_without_crops_take_the_centre_as_it_is(recipe):
    for seed, epoch, sample, *_ in CROPS:
        assert crop_of(drawn(recipe, seed, epoch, sample, place=sample)) == ((16, 16), 0)


@pytest.mark.parametrize("recipe", AUGMENTATIONS)
def test_validation_takes_the_centre_without_light(recipe):
    plain = preprocessing_of(AUGMENTATIONS[recipe].for_evaluation()).make_augmenter(1, 256)
    draws = plain.draw(np.array([3]), np.array([8]), np.array([0]))
    assert crop_of(draws) == ((16, 16), 0) and not draws.rgb_N3.any()


@pytest.mark.parametrize(
    ("recipe", "column"),
    [("paper", 5), ("paper-no-crops", 5), ("inception", 5), ("original", 6), ("original-no-crops", 6)],
)
def test_known_lighting(recipe, column):
    for row in LIGHTS:
        seed, epoch, sample, words, normals = row[:5]
        u = [(word + 0.5) / 2**32 for word in words]
        radius, angle = [math.sqrt(-2 * math.log(v)) for v in u[:2]], [2 * math.pi * v for v in u[2:]]
        z = radius[0] * math.cos(angle[0]), radius[0] * math.sin(angle[0]), radius[1] * math.cos(angle[1])
        assert z == pytest.approx(normals, abs=1e-6)
        assert standard_normals(np.array([words], np.uint32))[0] == pytest.approx(z, rel=1e-12)
        scale = [255 * 0.1 * v / 255**2 for v in VARIANCES] if column == 5 else [0.1 * math.sqrt(v) for v in VARIANCES]
        offset = [sum(AXES[c][k] * scale[k] * z[k] for k in range(3)) for c in range(3)]
        assert offset == pytest.approx(row[column], abs=1e-6)
        assert drawn(recipe, seed, epoch, sample, place=5).rgb_N3[0] == pytest.approx(offset, rel=1e-6)


@pytest.mark.parametrize("recipe", ["none", "paper-no-lighting", "original-no-lighting", "inception-no-lighting"])
def test_recipes_without_lighting_add_nothing(recipe):
    for seed, epoch, sample, *_ in LIGHTS:
        assert not drawn(recipe, seed, epoch, sample, place=5).rgb_N3.any()


def textbook_box(words, height, width):
    """What four words make of an image: y, x, height, width; None if it does not fit."""
    u = [(word + 0.5) / 2**32 for word in words]
    area, ratio = height * width * (0.08 + 0.92 * u[0]), 0.75 * (16 / 9) ** u[1]
    tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
    if not (1 <= tall <= height and 1 <= wide <= width):
        return None
    return words[2] * (height - tall + 1) >> 32, words[3] * (width - wide + 1) >> 32, tall, wide


def test_known_boxes_are_those_of_the_first_attempt_that_fits():
    for seed, epoch, sample, (height, width), attempt, words, box in BOXES:
        for before in range(attempt):
            assert textbook_box(philox(seed, (sample, 0, epoch, 16 + before)), height, width) is None
        assert textbook_box(words, height, width) == box
        sizes = np.array([[height, width]])
        assert tuple(augmenter_of("inception", seed).boxes(np.array([epoch]), np.array([sample]), sizes)[0]) == box


def test_many_boxes_are_the_textbook_s():
    """All ten attempts take part: of 300 × 900, one in four fits; of 40 × 4000 none, and the centre is taken."""
    augmenter, ids = augmenter_of("inception", 1), np.arange(300)
    for height, width in ((300, 900), (375, 500), (200, 1100), (4, 4)):
        boxes = augmenter.boxes(np.zeros_like(ids), ids, np.tile(np.array([height, width]), (len(ids), 1)))
        for sample, box in zip(ids.tolist(), boxes.tolist(), strict=True):
            attempts = (textbook_box(philox(1, (sample, 0, 0, 16 + i)), height, width) for i in range(10))
            fitting = [one for one in attempts if one]
            if fitting:
                assert tuple(box) == fitting[0]
            else:
                wide = round(height * 4 / 3)
                assert box == [0, (width - wide) // 2, height, wide]


def test_where_no_box_fits_the_largest_centred_one_of_an_allowed_ratio_is_taken():
    augmenter, ids = augmenter_of("inception", 1), np.arange(50)
    wide = augmenter.boxes(np.zeros_like(ids), ids, np.tile(np.array([40, 4000]), (50, 1)))
    tall = augmenter.boxes(np.zeros_like(ids), ids, np.tile(np.array([4000, 40]), (50, 1)))
    assert (wide == [0, 1973, 40, 53]).all()  # 53 = 40 · 4/3; (4000 − 53) ÷ 2
    assert (tall == [1973, 0, 53, 40]).all()


def test_integers_below_a_stop_are_the_upper_half_of_a_product():
    words = np.array([0, 2**32 - 1, 0x80000000, 0x07C1F07C, 0x07C1F07D], np.uint32)
    assert uniform_below(words, 33).tolist() == [0, 32, 16, 0, 1]  # 2^32 ÷ 33 = 0x07C1F07C.1F…


# --- divisors, centres and places -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "divisors"),
    [("paper", (1, 1, 1)), ("original", (1.1, 1.1, 1.1)), ("inception", (20, 30, 40)), ("none", (1, 1, 1)),
     ("original-no-lighting", (1, 1, 1)), ("original-no-crops", (1.1, 1.1, 1.1))],
)  # fmt: skip
def test_what_recipes_divide_by(recipe, divisors):
    """``original`` by 1.1 in training only; ``inception`` by the standard deviations, in validation too."""
    found = preprocessing_of(AUGMENTATIONS[recipe]).divisors_C
    assert found.dtype == np.float32 and found.tolist() == np.float32(divisors).tolist()
    plain = preprocessing_of(AUGMENTATIONS[recipe].for_evaluation()).divisors_C
    assert plain.tolist() == ([20, 30, 40] if recipe == "inception" else [1, 1, 1])


@pytest.mark.parametrize(("size_px", "corner"), [(256, 16), (224, 0), (257, 16), (300, 38)])
def test_the_centre_is_in_the_middle_of_any_view(size_px, corner):
    draws = augmenter_of("none", 1, size_px).draw(np.array([0]), np.array([0]))
    assert draws.yx_N2.tolist() == [[corner, corner]]


def test_crops_of_a_view_of_another_size_reach_its_edge():
    augmenter, ids = augmenter_of("paper", 1, 226), np.arange(200)
    corners = augmenter.draw(np.zeros_like(ids), ids).yx_N2
    assert sorted(set(map(tuple, corners.tolist()))) == [(y, x) for y in range(3) for x in range(3)]


def test_a_recipe_of_blocks_asks_for_the_places():
    with pytest.raises(ValueError, match="32 images share a crop"):
        augmenter_of("original", 1).draw(np.array([0]), np.array([0]))
