"""Writing a module as an ONNX file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nearfar.export.signals import cannot

OPSET = 18
"""The version of ONNX's operators; from 20 on the axis of DFT is an input, here it is an attribute."""


@torch.inference_mode()
def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Trace a module and write it.

    Args:
        module: in evaluation mode.
        inputs: examples by name.
        outputs: names.
        axes: axes of any length, by input or output, and their names.
        path: of the file, which holds the weights as well.
    """
    import onnx

    with warnings.catch_warnings():
        # Checks of shapes in Python hold for all lengths that are allowed; the exporter cannot tell.
        warnings.simplefilter("ignore")
        try:
            _export(module, inputs, outputs, axes, path)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise cannot("nearfar export", reason) from None
    onnx.checker.check_model(str(path), full_check=True)


def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={name: dict(named) for name, named in axes.items()},
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=True,
    )
