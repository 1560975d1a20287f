"""High-throughput data pipelines for training image classifiers.

::

    import alexstream

    alexstream.shard("photos", "shards")
    data = alexstream.ShardedData("shards", batch_size=128)
    for epoch in range(90):
        for images, labels in data.loader():  # float32 (128, 3, 224, 224), int64 (128,)
            ...

The public names below are loaded when they are first used, so that ``import alexstream`` costs next to nothing: neither
torch nor DALI is loaded by it. The stages themselves are ``alexstream.sharding``, ``alexstream.pipeline`` and
``alexstream.trainer``; they stand on ``alexstream.core``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexstream.core.errors import AlexstreamError as AlexstreamError
    from alexstream.core.errors import BadImageError as BadImageError
    from alexstream.core.errors import DatasetError as DatasetError
    from alexstream.core.errors import DatasetVersionError as DatasetVersionError
    from alexstream.core.errors import OutputError as OutputError
    from alexstream.core.errors import SourceError as SourceError
    from alexstream.pipeline.batch import Batch as Batch
    from alexstream.pipeline.batch import BatchSlice as BatchSlice
    from alexstream.pipeline.batch import DataFacts as DataFacts
    from alexstream.pipeline.batch import TrainingData as TrainingData
    from alexstream.pipeline.epoch_loader import EpochLoader as EpochLoader
    from alexstream.pipeline.errors import StreamError as StreamError
    from alexstream.pipeline.stream import ShardedData as ShardedData
    from alexstream.pipeline.stream import Stream as Stream
    from alexstream.sharding.dataset_v1.manifest import Manifest as Manifest
    from alexstream.sharding.dataset_v1.recipe import EncodeRecipe as EncodeRecipe
    from alexstream.sharding.pack import shard as shard
    from alexstream.sharding.split_plans import ShardRequest as ShardRequest
    from alexstream.sharding.verify import VerifyReport as VerifyReport
    from alexstream.sharding.verify import verify as verify
    from alexstream.trainer.errors import CheckpointError as CheckpointError
    from alexstream.trainer.errors import CheckpointVersionError as CheckpointVersionError
    from alexstream.trainer.errors import LostRanksError as LostRanksError
    from alexstream.trainer.errors import TrainError as TrainError
    from alexstream.trainer.evaluation.evaluate import Assessment as Assessment
    from alexstream.trainer.recipe import Phase as Phase
    from alexstream.trainer.recipe import Recipe as Recipe
    from alexstream.trainer.run import evaluate as evaluate
    from alexstream.trainer.run import train as train
    from alexstream.trainer.run_setup import RunOptions as RunOptions

_HOMES = {
    "AlexstreamError": "core.errors",
    "Assessment": "trainer.evaluation.evaluate",
    "BadImageError": "core.errors",
    "Batch": "pipeline.batch",
    "BatchSlice": "pipeline.batch",
    "CheckpointError": "trainer.errors",
    "CheckpointVersionError": "trainer.errors",
    "DataFacts": "pipeline.batch",
    "DatasetError": "core.errors",
    "DatasetVersionError": "core.errors",
    "EncodeRecipe": "sharding.dataset_v1.recipe",
    "EpochLoader": "pipeline.epoch_loader",
    "LostRanksError": "trainer.errors",
    "Manifest": "sharding.dataset_v1.manifest",
    "OutputError": "core.errors",
    "Phase": "trainer.recipe",
    "Recipe": "trainer.recipe",
    "RunOptions": "trainer.run_setup",
    "ShardRequest": "sharding.split_plans",
    "ShardedData": "pipeline.stream",
    "SourceError": "core.errors",
    "Stream": "pipeline.stream",
    "StreamError": "pipeline.errors",
    "TrainError": "trainer.errors",
    "TrainingData": "pipeline.batch",
    "VerifyReport": "sharding.verify",
    "evaluate": "trainer.run",
    "shard": "sharding.pack",
    "train": "trainer.run",
    "verify": "sharding.verify",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'alexstream' has no attribute {name!r}")
    value = getattr(import_module(f"alexstream.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names beside what is loaded."""
    return sorted({*globals(), *__all__})


def _version() -> str:
    try:
        return version("alexstream")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
