"""What an operator says about an alarm: its sound becomes a normal recording, or one of a known fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nearfar.detector.history import Change
from nearfar.watch.memory import Memory


@dataclass(frozen=True, slots=True)
class Effect:
    """What feedback would change, before it is applied.

    Attributes:
        change: the change of the detector: recordings, thresholds and counts before and after.
        levels_before, levels_after: levels of the recordings of the alarm by the detector as it is, and as it
            would be; the threshold is 1.
    """

    change: Change
    levels_before: tuple[float, ...]
    levels_after: tuple[float, ...]


class Feedback:
    """Feedback on the alarms of one machine, whose detector is in a folder.

    >>> feedback = Feedback(memory, "pump 7", Path("pump7.detector"), Path("watch-recordings"))
    >>> feedback.preview(alarm=12, fault=None)      # this is normal
    >>> feedback.apply(alarm=12, fault="worn belt", by="Ada")
    >>> feedback.undo(by="Ada")
    """

    def __init__(self, memory: Memory, machine: str, detector: Path, recordings: Path) -> None:
        raise NotImplementedError

    def preview(self, alarm: int, fault: str | None) -> Effect:
        """The effect of adding the sound of an alarm as normal (``fault`` None) or as a fault of that name."""
        raise NotImplementedError

    def apply(self, alarm: int, fault: str | None, *, by: str, note: str | None = None) -> Change:
        """Add it: the detector's folder is replaced, and the watch uses it from the next window on."""
        raise NotImplementedError

    def undo(self, *, by: str) -> Change:
        """Undo the last change of the detector."""
        raise NotImplementedError
