"""The same graph for OpenVINO, with the same check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import InputError
from nearfar.exported.detector import ExportedDetector
from nearfar.exported.folder import MODEL
from nearfar.extras import require_extras

FOLDER = "openvino"


def write_openvino(folder: Path, windows: list[NDArray[np.float32]], largest: float) -> float:
    """Write ``openvino/model.xml`` and ``model.bin`` into an export's folder.

    Args:
        windows: (windows, channels, samples) float32, on which scores are compared with ONNX Runtime's.
        largest: the largest difference that is allowed, as a fraction of a score's size or 1.

    Returns:
        the largest difference that was found.

    Raises:
        InputError: if OpenVINO is not installed, or a score differs by more.
    """
    require_extras("--openvino", "openvino")
    import openvino

    core, target = openvino.Core(), folder / FOLDER / "model.xml"
    target.parent.mkdir()
    model = openvino.convert_model(folder / MODEL)
    openvino.save_model(model, target, compress_to_fp16=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled: Any = core.compile_model(core.read_model(target), "CPU", settings)
    loaded, found = ExportedDetector(folder), 0.0
    for samples in windows:
        one = loaded.run(samples)["score"]
        other = compiled({"samples": samples, **loaded.inputs})["score"]
        found = max(found, float(np.max(np.abs(one - other) / np.maximum(np.abs(one), 1.0))))
    if not found <= largest:
        raise InputError(
            "OpenVINO",
            found=f"scores that differ by {found:.3g} from ONNX Runtime's",
            expected=f"at most {largest:g}",
            remedy="Export without OpenVINO",
        )
    return found
