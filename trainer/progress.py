"""A progress line on stderr for what takes more than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tqdm import tqdm

from pipeline.batch import Batch

SILENT_S = 2.0  # shorter work says nothing


def shown(batches: Iterable[Batch], total: int, what: str, *, quiet: bool = False) -> Iterator[Batch]:
    """The same batches; ``what`` is being done to ``total`` images, padding not counted."""
    with tqdm(total=total, unit="images", desc=what, disable=quiet, delay=SILENT_S) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.ids_N >= 0).sum()))
