"""A progress line on stderr for what takes more than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.batch import Batch
from sharding.progress import progress


def shown(batches: Iterable[Batch], total: int, what: str, *, quiet: bool = False) -> Iterator[Batch]:
    """The same batches; ``what`` is being done to ``total`` images, padding not counted."""
    with progress(total, "images", what, quiet=quiet) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.ids_N >= 0).sum()))
