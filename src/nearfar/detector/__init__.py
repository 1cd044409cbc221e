"""Detectors of one's own machines: fitted on normal recordings, saved as a folder with their thresholds."""

from nearfar.detector.departure import Departure
from nearfar.detector.detector import Detector
from nearfar.detector.drift import Drift
from nearfar.detector.results import Failure, Score, WindowScore

__all__ = ["Departure", "Detector", "Drift", "Failure", "Score", "WindowScore"]
