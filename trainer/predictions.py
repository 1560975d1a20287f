"""What is said of single images: the most probable classes of one, and of a split, one row a sample, in a file.

Columns of the CSV or Parquet file: ``key``, ``label`` (number), ``class``; then for each of the five most probable
classes (fewer where there are fewer), the first first, ``class_1`` and ``probability_1`` and so on. Rows are in catalog
order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import Batch
from trainer.errors import TrainError
from trainer.probabilities import Model, first_classes, log_probabilities, mixed

ENDINGS = (".csv", ".parquet")


def most_probable(models: Sequence[Model], images: torch.Tensor, count: int = 5) -> tuple[list[int], list[float]]:
    """The most probable classes of one image, (1, C, H, W) or (1, 10, C, H, W), and their probabilities.

    Means over the views and the models, as ``evaluate.assess`` scores them with equal weights.
    """
    together = mixed(log_probabilities(models, images), [1.0 / len(models)] * len(models))
    classes, probabilities = first_classes(together, count)
    return classes[0].tolist(), probabilities[0].tolist()


class Predictions:
    """The five most probable classes of every image that was added: 100 bytes a row."""

    def __init__(self, path: Path, keys: Sequence[str], classes: Sequence[str]) -> None:
        """For a file; ``keys`` by sample id, ``classes`` by label.

        Raises TrainError if the file's ending names no format, or if its folder does not exist.
        """
        if path.suffix not in ENDINGS:
            raise TrainError(f"--predictions: received {str(path)!r}, expected a name that ends in .csv or .parquet")
        if not path.absolute().parent.is_dir():
            raise TrainError(f"--predictions: the folder of {path} does not exist; make it first")
        self._path, self._keys, self._classes = path, np.asarray(keys, object), np.asarray(classes, object)
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Remember a batch without padding."""
        classes, probabilities = first_classes(log_probabilities_NK)
        self._parts.append(tuple(t.cpu().numpy() for t in (batch.ids_N, batch.labels_N, classes, probabilities)))

    def write(self) -> None:
        """Write the file, whole or not at all. Raises TrainError if that cannot be done."""
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        ids, labels, classes, probabilities = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        columns: dict[str, Any] = {"key": self._keys[ids], "label": labels, "class": self._classes[labels]}
        for place in range(classes.shape[1]):
            columns[f"class_{place + 1}"] = self._classes[classes[:, place]]
            columns[f"probability_{place + 1}"] = probabilities[:, place]
        table = pa.table(columns)
        tmp = self._path.with_name(self._path.name + ".tmp")
        write = pyarrow.csv.write_csv if self._path.suffix == ".csv" else pyarrow.parquet.write_table
        try:
            write(table, tmp)
            os.replace(tmp, self._path)
        except OSError as error:
            raise TrainError(f"cannot write {self._path}: {error.strerror or error}") from error
