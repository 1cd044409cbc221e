"""Detectors of one's own machines: fitted on normal recordings, saved as a folder with their thresholds."""

from nearfar.detector.counts import FaultCount, MachineCounts, Rate
from nearfar.detector.departure import Departure
from nearfar.detector.detector import Detector
from nearfar.detector.faults import Like
from nearfar.detector.history import Change
from nearfar.scores import Failure, Score, WindowScore
from nearfar.thresholds.drift import Drift

__all__ = [
    "Change", "Departure", "Detector", "Drift", "Failure", "FaultCount", "Like", "MachineCounts", "Rate", "Score",
    "WindowScore",
]  # fmt: skip
