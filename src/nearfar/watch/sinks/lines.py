"""Lines of JSON on standard output, for other programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, TextIO

from nearfar.settings import Settings
from nearfar.watch.events import Event, ScoredWindow

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory


class LineSettings(Settings):
    """Keys of a sink with ``kind = "lines"``."""

    windows: bool = True
    """Whether every scored window is printed as well."""


class LineSink:
    """Prints one line for every event. ``stream`` is standard output unless given."""

    def __init__(self, name: str, settings: LineSettings, memory: Memory, stream: TextIO | None = None) -> None:
        self._settings, self._stream = settings, stream

    def send(self, event: Event) -> None:
        """Print an event."""
        if isinstance(event, ScoredWindow) and not self._settings.windows:
            return
        stream = sys.stdout if self._stream is None else self._stream
        print(json.dumps(event.to_json(), ensure_ascii=False), file=stream, flush=True)

    def close(self) -> None:
        """Standard output stays open."""
