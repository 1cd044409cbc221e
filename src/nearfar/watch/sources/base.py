"""What every source of sound gives: blocks of samples of streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import NearfarError
from nearfar.registry import Entry, Registry
from nearfar.settings import Settings

BLOCK_S = 0.1
"""The length of the blocks of live sources, in seconds."""


class SourceError(NearfarError):
    """A source gives no sound now. It is opened again after a while."""


@dataclass(frozen=True, slots=True, eq=False)
class AudioBlock:
    """Successive samples of a stream: a recording, or sound without gaps.

    Attributes:
        samples: (channels, samples) float32 in [-1, 1]; may be empty.
        sample_rate_hz: of the samples.
        stream: SHA-256 of the recording, or a name that no other sound has.
        begin: the number of the first sample in the stream, from 0.
        begin_s: when the stream began, in seconds since 1970.
        name: of the stream, to be shown.
        ends: whether the stream ends with this block; what is left over at its end may be a window.
        size, changed_ns: of the file; 0 without.
        error: why the rest of the stream cannot be used; it ends.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    stream: str
    begin: int
    begin_s: float
    name: str
    ends: bool = False
    size: int = 0
    changed_ns: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """How far a stream that was taken before is scored.

    Attributes:
        next: the first sample of the next window.
        finished: whether there is none.
    """

    next: int
    finished: bool


class TakenRecordings(Protocol):
    """What was taken from a source before."""

    def find(self, stream: str) -> Taken | None:
        """A stream; None if it was not taken."""
        ...

    def is_known(self, name: str, size: int, changed_ns: int) -> bool:
        """Whether a file of that name, size and time was taken whole."""
        ...


class AudioSource(Protocol):
    """A source of sound."""

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """Blocks of sound, waiting for more until ``stop`` is set; an iterator that ends has no more sound.

        Args:
            taken: what was taken before. A stream is begun at the sample that was reached or before it.
            stop: is set when the watch ends.

        Raises:
            SourceError: if there is no sound now.
            InputError: if there never can be.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SourceKind(Entry):
    """A kind of source.

    Attributes:
        build: a source, from its settings and the folder that paths in them are relative to.
        live: whether sound arrives all the time, read or not.
    """

    build: Callable[[Any, Path], AudioSource]
    settings: type[Settings] = Settings
    live: bool = False


AUDIO_SOURCES: Registry[SourceKind] = Registry("source")
