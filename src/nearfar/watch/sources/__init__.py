"""Where sound comes from. A new kind of source is one file and one line in :data:`AUDIO_SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nearfar.registry import Entry, Registry
from nearfar.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SourceKind(Entry):
    """A kind of source."""

    build: Callable[[Any], Any]
    settings: type[Settings] = Settings


AUDIO_SOURCES: Registry[SourceKind] = Registry("source")
