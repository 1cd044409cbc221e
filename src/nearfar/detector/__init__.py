"""Detectors of one's own machines: fitted on normal recordings, saved as a folder with their thresholds."""

from nearfar.detector.detector import Detector
from nearfar.detector.results import Departure, Score, WindowScore

__all__ = ["Departure", "Detector", "Score", "WindowScore"]
