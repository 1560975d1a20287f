"""Load files of ``torch.save`` safely: plain values and float32 tensors only, in memory bounded by the file's size.

``torch.load(weights_only=True)`` runs no code from a file, but a file of a kilobyte can make it allocate any amount of
memory: ``bytearray(6 << 30)``, a tensor without stored values, nested lists whose printed form has 10^9 entries. So
this module interprets the few pickle operations that a checkpoint contains, and checks each value as it is built.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from alexstream.core.text import quote_value

MAX_OPCODES = 1_000_000  # 2 for the name of a class; seconds
_MAX_PICKLE_BYTES = 32 << 20  # of the pickle
_MAX_TEXT_CHARS = 64 << 20  # characters, a text counted as often as it is named
_MAX_MARKS = 64  # open at once
_MAX_AXES = 8
_PROTOCOL = 2  # of the pickles of torch.save
_MAX_DIRECTORY_BYTES = 64 << 10  # bytes, of the archive's list of parts: hundreds
_ZIP_START, _ZIP_END, _ZIP64_LOCATOR = b"PK\3\4", b"PK\5\6", b"PK\6\7"
_DESCRIPTOR = 24  # bytes, behind a part: its checksum and sizes again
_CHUNK = 1 << 20
_SCHEMA, _MOST_SCHEMA = "alexstream", 64  # the part that says what a file is, and its most bytes

_MARK = object()
_FLOAT_STORAGE, _REBUILD_TENSOR = "torch FloatStorage", "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"  # of a tensor's hooks: empty


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    name: str
    num_values: int


def load_torch_file(path: Path, check: Callable[[Any], None]) -> Any:
    """Load dicts, lists, tuples, strings, numbers and float32 tensors from a file of ``torch.save``.

    ``check`` is given the value before a tensor is read: its tensors are on the device ``meta``, with their shapes. It
    raises ValueError for more than is due: a file of gigabytes may be a hole in the disk. Raises ValueError,
    zipfile.BadZipFile or OSError for any other content, and for a file that would take more memory than it has bytes,
    or more than ``MAX_OPCODES`` pickle operations.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        _check_zip_ends(file, num_bytes)
        with zipfile.ZipFile(file) as archive:
            return _load_archive(file, archive, num_bytes, check)


def _check_parts(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Refuse bytes before, between or behind the parts, in which another reader may find another archive."""
    at = 0
    for part in sorted(archive.infolist(), key=lambda part: part.header_offset):
        if not 0 <= part.header_offset - at <= (_DESCRIPTOR if at else 0):
            break
        file.seek(part.header_offset + 26)
        lengths = file.read(4)
        if len(lengths) < 4:
            break
        at = part.header_offset + 30 + sum(struct.unpack("<HH", lengths)) + part.compress_size
    else:
        if 0 <= archive.start_dir - at <= _DESCRIPTOR:
            return
    raise ValueError("its parts do not lie one behind the other from its first byte on, as those that were saved do")


def name_schema(archive: BinaryIO, schema: str) -> None:
    """Add a part to what ``torch.save`` wrote that holds ``schema`` alone; torch and older versions pass it over.

    It is there to be read before anything else, by versions for which the rest is too new.
    """
    with zipfile.ZipFile(archive, "a") as parts:
        root = parts.namelist()[0].partition("/")[0]
        parts.writestr(zipfile.ZipInfo(f"{root}/{_SCHEMA}"), schema)  # of 1980, so that the same state is the same file


def saved_schema(path: Path) -> str | None:
    """Return what ``name_schema`` wrote into a file; None if there is no such part, as in files of older versions.

    Raises ValueError, zipfile.BadZipFile or OSError for what is no file of ``torch.save``.
    """
    with path.open("rb") as file:
        _check_zip_ends(file, path.stat().st_size)
        with zipfile.ZipFile(file) as archive:
            found = _find_schema_parts(archive)
            if len(found) != 1 or found[0].file_size > _MOST_SCHEMA or found[0].compress_type:
                return None
            return archive.read(found[0]).decode("ascii", "replace")


def _find_schema_parts(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [one for one in archive.infolist() if one.filename.partition("/")[2] == _SCHEMA]


def _check_zip_ends(file: BinaryIO, num_bytes: int) -> None:
    """Check that the file is one zip archive from start to end, with a directory of a reasonable size.

    zipfile finds an archive from its end, torch.load from its start: a file could show different content to each.
    Raises ValueError.
    """
    if file.read(4) != _ZIP_START:
        raise ValueError("it is no zip archive of torch.save")
    file.seek(max(0, num_bytes - (1 << 16) - 98))
    tail = file.read()
    at = tail.rfind(_ZIP_END)
    if at < 0 or len(tail) < at + 22:
        raise ValueError("its end is missing")
    directory = struct.unpack_from("<I", tail, at + 12)[0]
    if at >= 76 and tail[at - 20 : at - 16] == _ZIP64_LOCATOR:  # archives of more than 4 GiB
        directory = struct.unpack_from("<Q", tail, at - 36)[0]
    if directory > _MAX_DIRECTORY_BYTES:
        raise ValueError(f"its directory has {directory:,} bytes, more than any that was saved")


def _load_archive(file: BinaryIO, archive: zipfile.ZipFile, num_bytes: int, check: Callable[[Any], None]) -> Any:
    parts = {one.filename: one for one in archive.infolist()}
    if sum(one.file_size for one in archive.infolist()) > num_bytes or any(one.compress_type for one in parts.values()):
        raise ValueError("its parts are packed, or claim to be larger than the file")
    if len(named := _find_schema_parts(archive)) > 1 or any(one.file_size > _MOST_SCHEMA for one in named):
        raise ValueError(f"its part {_SCHEMA} is there twice, or has more than {_MOST_SCHEMA} bytes")
    _check_parts(file, archive)
    roots = [name.removesuffix("data.pkl") for name in parts if name.endswith("/data.pkl")]
    if len(roots) != 1 or parts[f"{roots[0]}data.pkl"].file_size > _MAX_PICKLE_BYTES:
        raise ValueError("it holds no pickle, several, or one larger than any that was saved")
    if (order := parts.get(f"{roots[0]}byteorder")) is not None and archive.read(order)[:6] != b"little":
        raise ValueError("its tensors are not little-endian")
    tensors = _TensorReader(archive, f"{roots[0]}data/", num_bytes)
    value = _SafeUnpickler(tensors).run(archive.read(f"{roots[0]}data.pkl"))
    check(value)
    return tensors.read_all(value)


class _Place(NamedTuple):
    """Where a tensor's numbers are."""

    storage: _Storage
    offset: int


class _TensorReader:
    """Builds tensors from the parts of an archive, of no more bytes in total than it has; they are read at the end."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, num_bytes: int) -> None:
        self._archive, self._folder, self._left = archive, folder, num_bytes
        self._read: dict[_Storage, torch.Tensor] = {}
        self._places: list[tuple[torch.Tensor, _Place]] = []

    def check_storage(self, described: Any) -> _Storage:
        """Return the storage that a persistent id describes. Raises ValueError unless the part exists in that size."""
        match described:
            case ("storage", _Global(name), str(key), str(), int(num_values)) if name == _FLOAT_STORAGE:
                if self._archive.getinfo(self._folder + key).file_size == 4 * num_values:
                    return _Storage(self._folder + key, num_values)
        raise ValueError("a tensor's numbers are not stored, or are no float32")

    def build_tensor(self, arguments: Any) -> torch.Tensor:
        """Build the tensor that ``_rebuild_tensor_v2`` would, without its numbers.

        Raises ValueError if it exceeds its storage.
        """
        match arguments:
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), hooks, *_):
                pass
            case _:
                raise ValueError("a tensor is made of other things than one that was saved")
        sizes = (offset, *shape, *strides)
        if hooks != {} or len(shape) != len(strides) or len(shape) > _MAX_AXES:
            raise ValueError("a tensor is made of other things than one that was saved")
        if not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes):
            raise ValueError("a tensor's size is none")
        num_values = math.prod(shape)
        end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if num_values and end > storage.num_values:
            raise ValueError("a tensor is larger than what is stored of it")
        if num_values > end - offset:
            raise ValueError("a tensor's numbers lie upon one another")
        self._left -= 4 * num_values
        if self._left < 0:
            raise ValueError("its tensors are larger than the file")
        made = torch.empty_strided(shape, strides, device="meta")
        self._places.append((made, _Place(storage, offset if num_values else 0)))
        return made

    def read_all(self, value: Any) -> Any:
        """Return the same value, the tensors in its dicts with their numbers."""
        places = {id(tensor): place for tensor, place in self._places}

        def read(inner: Any) -> Any:
            if type(inner) is dict:
                return {key: read(one) for key, one in inner.items()}
            if not isinstance(inner, torch.Tensor):
                return inner
            storage, offset = places[id(inner)]
            return self._read_values(storage).as_strided(inner.shape, inner.stride(), offset)

        return read(value)

    def _read_values(self, storage: _Storage) -> torch.Tensor:
        if storage not in self._read:
            values = np.empty(storage.num_values, "<f4")
            content = values.data.cast("B")
            with self._archive.open(storage.name) as part:
                for at in range(0, len(content), _CHUNK):
                    content[at : at + _CHUNK] = part.read(_CHUNK)
            self._read[storage] = torch.from_numpy(values)
        return self._read[storage]


class _SafeUnpickler:
    """Interprets a pickle of protocol 2 in which no list, dict or tensor is referenced a second time.

    Without such references, a value has no more parts than the pickle has operations.
    """

    def __init__(self, tensors: _TensorReader) -> None:
        self._tensors = tensors
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._text_left = _MAX_TEXT_CHARS

    def run(self, pickled: bytes) -> Any:
        """Return the value of the pickle. Raises ValueError for operations that no checkpoint's pickle contains."""
        for number, (opcode, argument, at) in enumerate(pickletools.genops(pickled)):
            if number >= MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES:,} operations")
            if opcode.name == "STOP":
                if at is not None and at + 1 < len(pickled):
                    raise ValueError("its pickle goes on behind its end")
                break
            if opcode.name in _CONSTANT_OPCODES:
                self._stack.append(argument)
            elif (act := _HANDLERS.get(opcode.name)) is not None:
                act(self, argument)
            else:
                raise ValueError(f"its pickle holds {opcode.name}, which no checkpoint has")
        if len(self._stack) != 1 or self._marks:
            raise ValueError("its pickle makes more or less than one value")
        return self._stack[0]

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle takes what is not there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("its pickle takes what is not there")
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def check_protocol(self, protocol: int) -> None:
        if protocol != _PROTOCOL:
            raise ValueError(f"its pickle is of protocol {protocol}, expected {_PROTOCOL}")

    def mark(self, _: None) -> None:
        if len(self._marks) == _MAX_MARKS:
            raise ValueError(f"its values lie deeper than {_MAX_MARKS}")
        self._marks.append(len(self._stack))

    def push_text(self, text: str) -> None:
        self._text_left -= len(text)
        if self._text_left < 0:
            raise ValueError("its texts are longer than any that were saved")
        self._stack.append(text)

    def put(self, place: int) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[place] = value if isinstance(value, str | _Global) else _MARK

    def get(self, place: int) -> None:
        value = self._memo.get(place, _MARK)
        if isinstance(value, str):
            self.push_text(value)
        elif isinstance(value, _Global):
            self._stack.append(value)
        else:
            raise ValueError("one of its values is there twice")

    def push_global(self, name: str) -> None:
        if name not in (_FLOAT_STORAGE, _REBUILD_TENSOR, _ORDERED_DICT):
            raise ValueError(f"its pickle names {quote_value(name)}, which no checkpoint has")
        self._stack.append(_Global(name))

    def set_item(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self, _: None) -> None:
        self._set(self._pop_to_mark())

    def _set(self, entries: list[Any]) -> None:
        target = self._top(dict)
        if len(entries) % 2 or not all(type(key) is str for key in entries[::2]):
            raise ValueError("one of its dicts has other keys than texts")
        if len({*target, *entries[::2]}) < len(target) + len(entries) // 2:
            raise ValueError("one of its dicts has a key twice")
        target.update(zip(entries[::2], entries[1::2], strict=True))

    def append_item(self, _: None) -> None:
        value = self._pop()
        self._top(list).append(value)

    def append_items(self, _: None) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _top(self, kind: type) -> Any:
        value = self._pop()
        if type(value) is not kind:
            raise ValueError(f"its pickle fills what is no {kind.__name__}")
        self._stack.append(value)
        return value

    def build_tuple(self, number: int | None) -> None:
        taken = self._pop_to_mark() if number is None else [self._pop() for _ in range(number)][::-1]
        self._stack.append(tuple(taken))

    def push_storage(self, _: None) -> None:
        self._stack.append(self._tensors.check_storage(self._pop()))

    def call_function(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        if function == _Global(_ORDERED_DICT) and arguments == ():
            self._stack.append({})
        elif function == _Global(_REBUILD_TENSOR):
            self._stack.append(self._tensors.build_tensor(arguments))
        else:
            raise ValueError("its pickle calls what no checkpoint calls")


_CONSTANT_OPCODES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_HANDLERS: dict[str, Callable[[_SafeUnpickler, Any], None]] = {
    "PROTO": _SafeUnpickler.check_protocol,
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine._stack.append(()),
    "NONE": lambda machine, _: machine._stack.append(None),
    "NEWTRUE": lambda machine, _: machine._stack.append(True),
    "NEWFALSE": lambda machine, _: machine._stack.append(False),
    "BINUNICODE": _SafeUnpickler.push_text,
    "MARK": _SafeUnpickler.mark,
    "BINPUT": _SafeUnpickler.put,
    "LONG_BINPUT": _SafeUnpickler.put,
    "BINGET": _SafeUnpickler.get,
    "LONG_BINGET": _SafeUnpickler.get,
    "GLOBAL": _SafeUnpickler.push_global,
    "SETITEM": _SafeUnpickler.set_item,
    "SETITEMS": _SafeUnpickler.set_items,
    "APPEND": _SafeUnpickler.append_item,
    "APPENDS": _SafeUnpickler.append_items,
    "TUPLE": _SafeUnpickler.build_tuple,
    "TUPLE1": lambda machine, _: machine.build_tuple(1),
    "TUPLE2": lambda machine, _: machine.build_tuple(2),
    "TUPLE3": lambda machine, _: machine.build_tuple(3),
    "BINPERSID": _SafeUnpickler.push_storage,
    "REDUCE": _SafeUnpickler.call_function,
}
