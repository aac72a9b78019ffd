"""Reads TensorFlow checkpoints (`NAME.index` and `NAME.data-?????-of-?????`) with numpy alone.

Source: LevelDB's table format; tensorflow/core/protobuf/tensor_bundle.proto and tensor_shape.proto (field numbers).

Notation
    index file   blocks | footer (48 bytes: handles of the meta block and the index block, padding, magic number)
    handle       two varints: offset and size of a block; behind each block stand 1 byte (compression) and a CRC
    block        entries (shared, unshared, value length as varints; rest of the key; value) | restart offsets, count
    index block  last key of a data block -> its handle;   data block  tensor name -> BundleEntryProto ("" -> header)
    data files   the tensors' bytes, at the offset, of the size and with the CRC that the entry names
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tianwen.backbone.crc32c import masked_crc32c
from tianwen.errors import ModelError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2", 14: "bfloat16"}  # DataType of types.proto


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_tensorflow_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """Every numeric tensor of a checkpoint by name, in the type it was saved in (bfloat16 as float32).

    `prefix` is the path without `.index`, as TensorFlow names checkpoints. Bookkeeping strings are left out.
    Raises ModelError if a file is missing, cut short, changed (checksums are verified) or of an unknown kind.
    """
    index = Path(f"{prefix}.index")
    shards, entries = _read_index(_read(index), index)
    files = [Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
    contents = [memoryview(_read(file)) for file in files]
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype in _TYPES:
            if not 0 <= entry.shard < shards:
                raise _damaged(index, f"{name} lies in part {entry.shard} of {shards}")
            tensors[name] = _read_tensor(name, entry, contents[entry.shard], files[entry.shard])
    return tensors


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The TensorFlow checkpoint file {path} cannot be read ({error.strerror}). "
            "A checkpoint is NAME.index with all of its NAME.data-... files beside it."
        ) from error


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is damaged or no TensorFlow checkpoint: {what}. Copy or download it again.")


def _read_tensor(name: str, entry: Entry, data: memoryview, path: Path) -> np.ndarray:
    raw = data[entry.offset : entry.offset + entry.size]
    kind = _TYPES[entry.dtype]
    item = 2 if kind == "bfloat16" else np.dtype(kind).itemsize
    count = int(np.prod(entry.shape, dtype=np.int64))
    if len(raw) != entry.size or entry.size != count * item:
        raise _damaged(path, f"{name} should have {count * item} bytes, {len(raw)} are there")
    if masked_crc32c(raw) != entry.crc:
        raise _damaged(path, f"the checksum of {name} does not match")
    if kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
    return np.frombuffer(raw, dtype=kind).reshape(entry.shape).copy()


def _read_index(data: bytes, path: Path) -> tuple[int, dict[str, Entry]]:
    """Number of data files and the entry of each tensor."""
    if len(data) < _FOOTER or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise _damaged(path, "the closing signature is missing")
    try:
        footer = data[-_FOOTER:]
        at = _skip_handle(footer)
        entries: dict[str, Entry] = {}
        shards = 1
        for _, handle in _block(data, footer[at:], path):
            for key, value in _block(data, handle, path):
                if key:
                    entries[key.decode("utf-8")] = _entry(value)
                else:
                    shards = _header(value, path)
    except (IndexError, ValueError, struct.error) as error:
        raise _damaged(path, "its table of tensors cannot be followed") from error
    return shards, entries


def _skip_handle(footer: bytes) -> int:
    _, at = _varint(footer, 0)
    return _varint(footer, at)[1]


def _block(data: bytes, handle: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that `handle` points to."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    if offset + size + 5 > len(data):
        raise _damaged(path, "a block reaches beyond the end of the file")
    crc = struct.unpack_from("<I", data, offset + size + 1)[0]
    if masked_crc32c(data[offset : offset + size + 1]) != crc:
        raise _damaged(path, "the checksum of a block does not match")
    if data[offset + size]:
        raise ModelError(f"{path} has a compressed table, which TensorFlow's own Saver does not write. Save it again.")
    block = data[offset : offset + size]
    end = size - 4 * (struct.unpack_from("<I", block, size - 4)[0] + 1)  # the restart offsets only serve searching
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


def _header(value: bytes, path: Path) -> int:
    """Number of data files, from BundleHeaderProto."""
    fields = dict(_fields(value))
    if fields.get(2, 0):
        raise ModelError(f"{path} was written on a big-endian machine, which cannot be read here. Save it on another.")
    shards = fields.get(1, 1)
    if not isinstance(shards, int) or shards < 1:
        raise _damaged(path, "it names no data file")
    return shards


def _entry(value: bytes) -> Entry:
    """BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc 6."""
    numbers: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    for number, content in _fields(value):
        if isinstance(content, int):
            numbers[number] = content
        elif number == 2:
            shape = tuple(_dimension(dimension) for field, dimension in _fields(content) if field == 2)
    return Entry(*(numbers.get(1, 0), shape), *(numbers.get(field, 0) for field in (3, 4, 5, 6)))


def _dimension(content: int | bytes) -> int:
    """TensorShapeProto.Dim: size 1 (left out when 0)."""
    size = dict(_fields(content)).get(1, 0) if isinstance(content, bytes) else -1
    if not isinstance(size, int):
        raise ValueError("a dimension is no number")
    return size


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol buffer message: numbers as int, the rest as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                value, at = struct.unpack_from("<Q", message, at)[0], at + 8
            case 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case 5:
                value, at = struct.unpack_from("<I", message, at)[0], at + 4
            case kind:
                raise ValueError(f"field type {kind}")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The base-128 number at `at` and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
