"""Predictions for single images: the most probable classes of one image, or of a whole split in a file.

The CSV or Parquet file has one row per sample, in catalog order, with the columns ``key``, ``label`` (number),
``class``, and then, for the five most probable classes (or all, if there are fewer) in order, ``class_1``,
``probability_1`` and so on. In CSV, keys and class names that begin with ``=``, ``+``, ``-``, ``@``, a full-width form
of one of these, a tab, a line end or ``'`` are preceded by ``'``, since spreadsheets would evaluate them as formulas.
Parquet holds all names unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.errors import OutputError
from alexstream.core.storage import check_target, publish_file
from alexstream.pipeline.batch import Batch
from alexstream.trainer.checkpoint import describe_write_error
from alexstream.trainer.errors import TrainError
from alexstream.trainer.evaluation.scoring import Model, compute_log_probabilities, mix_models, select_top_classes

FILE_ENDINGS = (".csv", ".parquet")
# Characters with which spreadsheets begin a formula; and the apostrophe, so that the escape can be undone.
_FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n'")


def predict_top_classes(models: Sequence[Model], images: torch.Tensor, count: int = 5) -> tuple[list[int], list[float]]:
    """Return the ``count`` most probable classes of one image, (1, C, H, W) or (1, 10, C, H, W), with probabilities.

    Probabilities are averaged over views and models, as ``evaluate.assess`` does with equal weights.
    """
    together = mix_models(compute_log_probabilities(models, images), [1.0 / len(models)] * len(models))
    classes, probabilities = select_top_classes(together, count)
    return classes[0].tolist(), probabilities[0].tolist()


class PredictionsFile:
    """Collects the five most probable classes of each image (100 bytes per row), and writes them to a file."""

    def __init__(self, path: Path, keys: Sequence[str], classes: Sequence[str]) -> None:
        """Prepare to write ``path``; ``keys`` are by sample id, ``classes`` by label.

        Raises TrainError if the suffix is neither .csv nor .parquet, or if the folder does not exist; OutputError if
        the file may not be replaced.
        """
        if path.suffix not in FILE_ENDINGS:
            raise TrainError(f"`predictions`: received {str(path)!r}, expected a name that ends in .csv or .parquet")
        if not path.absolute().parent.is_dir():
            raise TrainError(f"`predictions`: the folder of {path} does not exist; make it first")
        check_target(path)
        self._path, self._keys, self._classes = path, np.asarray(keys, object), np.asarray(classes, object)
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Add a batch without padding and its log-probabilities, float64 (N, K)."""
        classes, probabilities = select_top_classes(log_probabilities_NK)
        self._parts.append(tuple(t.cpu().numpy() for t in (batch.ids_N, batch.labels_N, classes, probabilities)))

    def write(self) -> None:
        """Write the file atomically. Raises TrainError if it cannot be written."""
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        ids, labels, classes, probabilities = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        is_csv = self._path.suffix == ".csv"
        keys, names = (_escape_formulas(texts) if is_csv else texts for texts in (self._keys, self._classes))
        columns: dict[str, Any] = {"key": keys[ids], "label": labels, "class": names[labels]}
        for place in range(classes.shape[1]):
            columns[f"class_{place + 1}"] = names[classes[:, place]]
            columns[f"probability_{place + 1}"] = probabilities[:, place]
        content = pa.BufferOutputStream()
        (pyarrow.csv.write_csv if is_csv else pyarrow.parquet.write_table)(pa.table(columns), content)
        try:
            publish_file(self._path, content.getvalue().to_pybytes())
        except OutputError as error:
            raise TrainError(f"cannot write {self._path}: {describe_write_error(error)}") from error


def _escape_formulas(texts: NDArray[Any]) -> NDArray[Any]:
    """Put an apostrophe before texts that a spreadsheet would evaluate, and before those that begin with one."""
    return np.array([f"'{text}" if text[:1] in _FORMULA_STARTS else text for text in texts], object)
