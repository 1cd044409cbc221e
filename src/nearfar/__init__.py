"""nearfar hears when a machine starts to fail, from one microphone near it and one far from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.detector.detector import Detector
    from nearfar.encoders import load_encoder

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    # torch is imported on first use, so that `nearfar --help` answers at once.
    if name == "load_encoder":
        from nearfar.encoders import load_encoder

        return load_encoder
    if name == "Detector":
        from nearfar.detector.detector import Detector

        return Detector
    raise AttributeError(f"module 'nearfar' has no attribute {name!r}")
