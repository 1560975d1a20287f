"""Split words: what people call training, validation and test data, and the class names that only sound like it."""

import pytest

from alexstream.sharding.sources.split_words import split_of_file, split_of_word, splits_of_folders

TRAIN = (
    "train TRAIN Train training Training_Set seg_train train_images images_train train.X1 train2017 trainset IMG_Train"
)
VAL = "val VAL valid Validation dev val_data valImages ILSVRC2012_img_val imagenet_1k_val Validation-Set valid_256x256"
TEST = "test Testing eval Evaluation holdout hold_out Hold-Out seg_test test1 testimages TEST_DATA"
NONE = (
    "evaluator trainer training-shoes testudo bullet_train test_tube dev-board train_station validator contest devil "
    "strain trains retrain latest attest invalid train_val trainval train-test foo cat 10 CLS-LOC ILSVRC Data images"
)
FILES = {
    "train-00000-of-00001.parquet": "train",
    "validation-00000-of-00001-b42a775f407cee45.parquet": "val",
    "DEV-00000-of-00001.parquet": "val",
    "eval-00000-of-00001.parquet": "test",
    "imagenet1k-validation-03.tar": "val",
    "ILSVRC2012_img_train_t3.tar": "train",
    "train_images_0.tar": "train",
    "cifar10-Test-{000}.tar": "test",
    "dogs-000.tar": None,
    "trainer-000.tar": None,
    "testudo-1.tar": None,
    "train-test-0.tar": None,
    "imagenet_object_localization_patched2019.tar": None,
}


@pytest.mark.parametrize(
    ("word", "split"),
    [(w, s) for s, words in (("train", TRAIN), ("val", VAL), ("test", TEST), (None, NONE)) for w in words.split()],
)
def test_a_folder_name_tells_its_split_by_whole_words(word, split):
    assert split_of_word(word) == split


@pytest.mark.parametrize(("name", "split"), FILES.items())
def test_a_file_name_tells_its_split_if_it_holds_the_words_of_one(name, split):
    assert split_of_file(name) == split


def test_folders_side_by_side_imply_splits_only_by_words_of_two_splits():
    assert splits_of_folders(["dogs_train", "dogs_test"]) == {"dogs_train": "train", "dogs_test": "test"}
    assert splits_of_folders(["bullet_train", "bus"]) == {"bullet_train": None, "bus": None}
    assert splits_of_folders(["dogs_train", "cats_test"]) == {"dogs_train": None, "cats_test": None}
