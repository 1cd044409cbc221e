"""Lines of text on standard error, for people at a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from nearfar.settings import Settings
from nearfar.watch.events import Event
from nearfar.watch.wording import title_and_sentence

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory


class TextSettings(Settings):
    """A sink with ``kind = "text"`` has no keys."""


class TextSink:
    """Prints the time, a title and a sentence for every kept event. ``stream`` is standard error unless given."""

    def __init__(self, name: str, settings: TextSettings, memory: Memory, stream: TextIO | None = None) -> None:
        self._stream = stream

    def send(self, event: Event) -> None:
        """Print an event, with the computer's local time."""
        title, sentence = title_and_sentence(event)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time_s))
        stream = sys.stderr if self._stream is None else self._stream
        print(f"{when} {title}. {sentence}".rstrip(), file=stream, flush=True)

    def close(self) -> None:
        """Standard error stays open."""
