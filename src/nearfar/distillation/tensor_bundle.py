"""Read a TensorFlow checkpoint (a tensor bundle of one shard) without TensorFlow; nothing in it is run.

The index is a LevelDB table: blocks of sorted keys, each sharing a prefix with the one before; the values are
``BundleEntryProto`` messages that say where in the data file a tensor lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
FLOAT32, INT32, INT64 = 1, 3, 9
DTYPES = {FLOAT32: "<f4", INT32: "<i4", INT64: "<i8"}


def read_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The numeric tensors of a checkpoint by their keys; texts are left out.

    Args:
        index: content of ``variables.index``.
        data: content of ``variables.data-00000-of-00001``.

    Raises:
        ValueError: if the index is not an uncompressed LevelDB table.
    """
    if len(index) < FOOTER_BYTES or int.from_bytes(index[-8:], "little") != MAGIC:
        raise ValueError("not the index of a tensor bundle")
    _, _, at = _handle(index, len(index) - FOOTER_BYTES)
    offset, size, _ = _handle(index, at)
    tensors = {}
    for _, handle in _block(index, offset, size):
        for key, value in _block(index, *_handle(handle, 0)[:2]):
            entry = _message(value)
            if key and entry.get(1) in DTYPES:
                shape = tuple(_message(dim).get(1, 0) for dim in _repeated(entry.get(2, b""), 2))
                start = entry.get(4, 0)
                values = np.frombuffer(data[start : start + entry[5]], DTYPES[entry[1]])
                tensors[key.decode()] = values.reshape(shape)
    return tensors


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where its handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. At its end stand the restart points and, as four bytes, their number."""
    if data[offset + size] != 0:
        raise ValueError("a compressed tensor bundle")
    block = data[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: Any
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:  # fixed 64 or 32 bits
            length = 8 if tag & 7 == 1 else 4
            value, at = message[at : at + length], at + length
        yield tag >> 3, value


def _message(message: bytes) -> dict[int, Any]:
    return dict(_fields(message))


def _repeated(message: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(message) if field == number]
