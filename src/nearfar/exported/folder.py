"""The folder of an exported detector: its files, their hashes, and what a graph may contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from nearfar.data.clips import Channel
from nearfar.data.quality import Profile
from nearfar.errors import InputError
from nearfar.exported.model_file import model_content
from nearfar.files import file_sha256, read_json, require_signature, without_signature
from nearfar.settings import Settings, reason
from nearfar.thresholds import Calibration, Threshold
from nearfar.thresholds.file import THRESHOLDS, checked, read_rows

MODEL, DESCRIPTION, CALIBRATION, CARD = "model.onnx", "exported.json", "calibration.json", "README.md"
FORMAT = 1

OPERATORS = frozenset(
    " ".join(
        (
            "Abs Add And ArgMax ArgMin Cast CastLike Clip Concat Constant ConstantOfShape Conv Cos Div Equal Erf",
            "Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity",
            "IsInf IsNaN LayerNormalization Less LessOrEqual Log MatMul Max Min Mod Mul Neg Not OneHot Or Pad Pow",
            "Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
            "Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Split Sqrt Squeeze",
            "Sub Sum Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor",
            "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QuantizeLinear",
        )
    ).split()
)
"""Operators of ONNX that a graph may have: arithmetic without loops, files or code of others."""


class NormalWindow(Settings):
    """A normal window, in the order of the output ``nearest``: its recording, where it begins, and its path."""

    recording: str
    begin_s: float
    file: str
    domain: str


class Parity(Settings):
    """How far ONNX Runtime's scores are from the detector's.

    Attributes:
        windows: how many were compared, ``recordings`` of how many normal recordings among them.
        largest: the largest difference, as a fraction of the threshold or of a higher score; without a threshold,
            of the highest normal score.
        mean: the mean difference, in the same unit.
        decisions: how many decisions differ; 0 in float32.
        speed: ONNX Runtime's pace as a multiple of that of the float32 graph, on one thread; None in float32.
        openvino: the largest difference of OpenVINO's scores from ONNX Runtime's, where it was written as well.
    """

    windows: int
    recordings: int
    largest: float
    mean: float = 0.0
    decisions: int = 0
    speed: float | None = None
    openvino: float | None = None


class Description(Settings):
    """``exported.json``: what is needed beside the graph."""

    format: int = FORMAT
    nearfar: str
    opset: int
    machine: str
    section: str
    name: str
    recipe: str
    sample_rate_hz: int
    channels: tuple[Channel, ...]
    near_channel: int
    far_channel: int
    window_samples: int
    hop_samples: int
    views: tuple[str, ...]
    parts: int
    normal_windows: tuple[NormalWindow, ...]
    profile: Profile | None = None
    parity: Parity
    precision: str = "fp32"
    model_sha256: str = Field(min_length=64, max_length=64)


def read_description(folder: Path) -> Description:
    """The description of an exported detector, whose model is the one that was written and may be run.

    Raises:
        InputError: if a file is missing, damaged or another one, or the graph refers to other files or has
            operators that are not in :data:`OPERATORS`.
    """
    for name in (MODEL, DESCRIPTION, CALIBRATION, THRESHOLDS):
        if not (folder / name).is_file():
            raise _damaged(folder / name, "no such file")
    tree = _signed(folder / DESCRIPTION)
    if tree.get("format") != FORMAT:
        raise InputError(
            folder / DESCRIPTION,
            found=f"format {tree.get('format')!r}",
            expected=f"format {FORMAT}",
            remedy="Use the version of nearfar that wrote it, or export the detector again",
        )
    try:
        found = Description.model_validate(tree)
    except ValidationError as error:
        raise _damaged(folder / DESCRIPTION, reason(error)) from None
    model = folder / MODEL
    if (sha256 := file_sha256(model)) != found.model_sha256:
        raise _damaged(model, f"another file, with SHA-256 {sha256[:12]} instead of {found.model_sha256[:12]}")
    require_harmless(model)
    return found


def require_harmless(model: Path) -> None:
    """Refuse a graph that could read other files or run code of others.

    Raises:
        InputError: if it refers to other files, or has operators that are not in :data:`OPERATORS`.
    """
    try:
        content = model_content(model.read_bytes())
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(model, f"no ONNX model ({error})") from None
    if content.external:
        raise InputError(
            model,
            found=f"weights in another file, {min(content.external)!r}",
            expected="a model that holds its weights",
            remedy="Export the detector again; do not use a file of unknown origin",
        )
    if unknown := sorted(content.operators - OPERATORS):
        raise InputError(
            model,
            found=f"the operator {unknown[0]}",
            expected="operators of nearfar's exports (see docs/export.md)",
            remedy="Export the detector again; do not use a file of unknown origin",
        )


def read_calibration(folder: Path) -> Calibration:
    """The scores of normal recordings.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        return Calibration.model_validate(_signed(folder / CALIBRATION))
    except ValidationError as error:
        raise _damaged(folder / CALIBRATION, reason(error)) from None


def read_thresholds(folder: Path) -> tuple[Threshold, ...]:
    """The thresholds.

    Raises:
        InputError: if the file is damaged, or a threshold is not the one that was written.
    """
    path = folder / THRESHOLDS
    try:
        return tuple(Threshold.model_validate(checked(path, row)) for row in read_rows(path))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _signed(path: Path) -> dict[str, Any]:
    try:
        tree = read_json(path)
        require_signature(tree)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise _damaged(path, f"content that is not what was written ({error})") from None
    return without_signature(tree)


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        path, found=found, expected="the file that nearfar export wrote", remedy="Export the detector again"
    )
