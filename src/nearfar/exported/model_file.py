"""What an ONNX file consists of, read from its bytes: operators, and files that it refers to.

Only what is asked for is decoded, of the wire format of Protocol Buffers; the package onnx is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

# Field numbers of onnx.proto.
_GRAPH, _FUNCTIONS = 7, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2


@dataclass(frozen=True, slots=True)
class ModelContent:
    """Operators, with their domain where it is not ONNX's own, and paths of files with weights."""

    operators: frozenset[str]
    external: frozenset[str]


def model_content(model: bytes) -> ModelContent:
    """The content of a model.

    Raises:
        ValueError: if the bytes are no Protocol Buffers message.
    """
    operators: set[str] = set()
    external: set[str] = set()
    for field, value in _fields(model):
        if field == _GRAPH:
            _read_graph(value, operators, external)
        elif field == _FUNCTIONS:
            operators.add("a function")
    return ModelContent(frozenset(operators), frozenset(external))


def _read_graph(graph: bytes, operators: set[str], external: set[str]) -> None:
    for field, value in _fields(graph):
        if field == _NODE:
            _read_node(value, operators, external)
        elif field == _INITIALIZER:
            external.update(_external_of(value))
        elif field == _SPARSE:
            operators.add("a sparse tensor")


def _read_node(node: bytes, operators: set[str], external: set[str]) -> None:
    name, domain = "", ""
    for field, value in _fields(node):
        if field == _OP_TYPE:
            name = value.decode()
        elif field == _DOMAIN:
            domain = value.decode()
        elif field == _ATTRIBUTE:
            for inner, part in _fields(value):
                if inner in (_TENSOR, _TENSORS):
                    external.update(_external_of(part))
                elif inner in (_SUBGRAPH, _SUBGRAPHS):
                    _read_graph(part, operators, external)
    operators.add(name if domain in ("", "ai.onnx") else f"{domain}.{name}")


def _external_of(tensor: bytes) -> Iterator[str]:
    for field, value in _fields(tensor):
        if field == _EXTERNAL_DATA:
            entry = {inner: part.decode() for inner, part in _fields(value) if inner in (_KEY, _VALUE)}
            if entry.get(_KEY) == "location":
                yield entry.get(_VALUE, "")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message with bytes as their value; numbers are skipped."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind in (_EIGHT, _FOUR):
            position += 8 if kind == _EIGHT else 4
        elif kind == _BYTES:
            length, position = _varint(message, position)
            if position + length > end:
                raise ValueError("a field that ends behind the message")
            yield field, message[position : position + length]
            position += length
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("a number that does not end")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
