"""What is said of each image, one row a sample, as CSV or Parquet.

Columns: ``key``, ``label`` (number), ``class``; then for each of the five most probable classes, the first first,
``class_1`` and ``probability_1`` and so on (fewer where there are fewer classes). Rows are in catalog order.
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
from trainer.probabilities import first_classes

ENDINGS = (".csv", ".parquet")


class Predictions:
    """The five most probable classes of every image that was added: 100 bytes a row."""

    def __init__(self, path: Path, keys: Sequence[str], classes: Sequence[str]) -> None:
        """For a file; ``keys`` by sample id, ``classes`` by label.

        Raises TrainError if the file's ending names no format, or if its folder does not exist.
        """
        if path.suffix not in ENDINGS:
            raise TrainError(f"--predictions: received {str(path)!r}, expected a name that ends in .csv or .parquet")
        if not path.parent.is_dir():
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
