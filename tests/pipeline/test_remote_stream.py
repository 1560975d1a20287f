"""The stream from an object store: the batches of the local one, through a cache that stays within its limit."""

import multiprocessing
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline.batch import Part
from pipeline.errors import StreamError
from pipeline.loader import ShardedData
from sharding.layout import load_manifest
from sharding.pack import ShardRequest, shard
from sharding.plan import ShardSize
from sharding.storage import location


@pytest.fixture(scope="module")
def local(sample_images, tmp_path_factory):
    """Nine shards of eight samples and fewer."""
    folder = tmp_path_factory.mktemp("local") / "train"
    shard(ShardRequest(source=sample_images / "train", folder=folder, shard_samples=8), quiet=True)
    return folder


@pytest.fixture
def remote(local, s3_folder):
    """The same in a bucket."""
    place = location(f"{s3_folder}/train")
    for path in local.iterdir():
        place.fs.put_file(str(path), f"{place.path}/{path.name}")
    return str(place)
