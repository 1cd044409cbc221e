"""Variants of a graph in which the encoder computes with fewer bits.

To add one, write a function from file to file and a line of :data:`PRECISIONS`. The front end, distances and
scores stay as they are: their rounding would be larger than the differences that they measure.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.export.signals import cannot
from nearfar.registry import Entry, Registry

NOT_ENCODER = ("/source/frontend", "/source/pooling", "/source/projection", "/source/log_mel")


@dataclass(frozen=True, kw_only=True)
class Precision(Entry):
    """A precision.

    Attributes:
        convert: writes the variant of a graph (first path) to another file (second path); None for float32.
    """

    convert: Callable[[Path, Path], None] | None = None


def _encoder_nodes(model: Any) -> list[str]:
    """The names of the encoder's nodes.

    Raises:
        InputError: if there is no encoder.
    """
    names = [node.name for node in model.graph.node]
    found = [name for name in names if name.startswith("/source/") and not name.startswith(NOT_ENCODER)]
    products = {node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    if not products & set(found):
        raise cannot("--precision", "a recipe without an encoder, of which nothing would be smaller or faster")
    return found


def _to_int8(source: Path, target: Path) -> None:
    """Weights of linear layers in 8 bits, each output's with a scale of its own; inputs at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    weights = {initializer.name for initializer in model.graph.initializer}
    inside = set(_encoder_nodes(model))
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.name in inside and node.input[1] in weights
    ]
    with _quiet():
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=products)


def _to_fp16(source: Path, target: Path) -> None:
    """The encoder in float16: half the size; faster where the processor computes in it."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    inside = set(_encoder_nodes(model))
    outside = [node.name for node in model.graph.node if node.name not in inside]
    with _quiet():
        onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=outside), target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converters' remarks, none of which is about the result."""
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)


PRECISIONS: Registry[Precision] = Registry("precision")
PRECISIONS["fp32"] = Precision(description="float32")
PRECISIONS["int8"] = Precision(description="the encoder's weights in 8-bit integers", convert=_to_int8)
PRECISIONS["fp16"] = Precision(description="the encoder in float16", convert=_to_fp16)
