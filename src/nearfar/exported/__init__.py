"""Scores by detectors that were exported to ONNX, without torch."""

from nearfar.exported.detector import ExportedDetector, is_exported

__all__ = ["ExportedDetector", "is_exported"]
