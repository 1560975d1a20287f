"""Open inputs for Arrow such that none of its threads ever owns a Python object.

Arrow's threads outlive the Python interpreter. One that then drops the last reference to a Python object (a buffer of
``io.BytesIO``, an open file) needs the interpreter, and the process aborts with SIGABRT after all its work: in 1 to 2 %
of short commands on a busy machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa


def open_buffer(data: bytes | bytearray) -> Any:
    """Return a ``pyarrow.BufferReader`` over a copy of ``data`` owned by Arrow, which any thread may free."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def open_parquet(path: Path, metadata: bytes) -> Any:
    """Open a Parquet file of any place as ``pyarrow.parquet.ParquetFile``; read it with ``use_threads=False``.

    ``metadata``: those of the file, which have been looked at; what the file itself has is not read once more. A file
    of an object store is a Python object: without pre-buffering and decoding threads only the thread that calls
    touches it. Raises OSError or ArrowException if it is none.
    """
    import pyarrow.parquet as pq

    size = len(metadata).to_bytes(4, "little")
    read = pq.read_metadata(open_buffer(b"".join((b"PAR1", metadata, size, b"PAR1"))))
    if isinstance(path, Path):
        return pq.ParquetFile(path, metadata=read)
    return pq.ParquetFile(path.open("rb"), metadata=read, pre_buffer=False)
