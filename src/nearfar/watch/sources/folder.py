"""A folder into which a recorder writes.

A file is taken when it is whole: its size and time have not changed for a while, and its header promises no more
sound than there is. It is taken once, by the SHA-256 of its content, whatever its name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import AudioHeader, open_audio, read_file, unreadable
from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.data.folders import sub_folders, visible
from nearfar.errors import InputError
from nearfar.files import file_sha256
from nearfar.settings import PositiveFloat, Settings
from nearfar.watch.sources.base import AudioBlock, SourceError, TakenRecordings

READ_S = 30.0
"""Files are read in blocks of so many seconds."""


class FolderSettings(Settings):
    """``source = "folder"``."""

    folder: Path
    """WAV and FLAC files in it and in folders below it are taken, the oldest first."""
    settle_seconds: PositiveFloat = 2.0
    """A file is whole when it has not changed for so long."""
    incomplete_seconds: PositiveFloat = 60.0
    """A file that holds less than its header says, or cannot be read, is given up after so long without change."""
    once: bool = False
    """Whether to stop after the recordings that are there."""


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    changed_ns: int


class FolderSource:
    """The recordings of a folder, in the order of their times.

    Args:
        settings: of the source.
        base: the folder that a relative path is relative to.
    """

    def __init__(self, settings: FolderSettings, base: Path) -> None:
        self._settings = settings
        self._folder = base / settings.folder
        self._given_up: dict[_File, InputError] = {}

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """See :meth:`nearfar.watch.sources.base.AudioSource.blocks`."""
        known: set[_File] = set()
        while not stop.is_set():
            waiting, files = False, self._files()
            known &= set(files)
            for file in files:
                if stop.is_set():
                    return
                if file in known or file in self._given_up:
                    continue
                if taken.is_known(self._name(file), file.size, file.changed_ns):
                    known.add(file)
                    continue
                if not self._is_settled(file, self._settings.settle_seconds):
                    waiting = True
                    continue
                try:
                    yield from self._blocks_of(file, taken)
                except InputError as error:
                    if not self._is_settled(file, self._settings.incomplete_seconds):
                        waiting = True  # it may still grow
                        continue
                    self._given_up[file] = error
                    yield _failed(self._name(file), file, error)
                    continue
                known.add(file)
            if self._settings.once and not waiting:
                return
            self._wait(stop, self._settings.settle_seconds if waiting else None)

    def _files(self) -> list[_File]:
        if not self._folder.is_dir():
            raise SourceError(f"{self._folder}: there is no such folder. Create it or correct the configuration.")
        found = []
        for path in _recordings(self._folder):
            try:
                stat = path.stat()
            except OSError:
                continue  # it was moved or removed meanwhile
            found.append(_File(path, stat.st_size, stat.st_mtime_ns))
        return sorted(found, key=lambda file: (file.changed_ns, str(file.path)))

    def _name(self, file: _File) -> str:
        return file.path.relative_to(self._folder).as_posix()

    def _is_settled(self, file: _File, seconds: float) -> bool:
        """Whether a file has not changed for so long, by a clock that may have been set."""
        age_s = time.time() - file.changed_ns / 1e9
        return age_s >= seconds or age_s < -seconds

    def _blocks_of(self, file: _File, taken: TakenRecordings) -> Iterator[AudioBlock]:
        header, whole = read_file(file.path, READ_S)
        sha256 = file_sha256(file.path)
        found = taken.find(sha256)
        if found is not None and found.finished:
            return
        rate, done = header.sample_rate_hz, 0
        begin_s = file.changed_ns / 1e9 - header.seconds
        for samples in _read(file.path, header) if whole is None else (whole,):
            ends = done + samples.shape[1] == header.frames
            named = self._name(file), ends, file.size, file.changed_ns
            yield AudioBlock(samples, rate, sha256, done, begin_s, *named)
            done += samples.shape[1]

    def _wait(self, stop: threading.Event, seconds: float | None) -> None:
        """Wait until files change, or for so long; network folders report no changes, so look every 5 s."""
        from watchfiles import watch

        longest = 5.0 if seconds is None else seconds
        try:
            for _ in watch(
                self._folder,
                stop_event=stop,
                rust_timeout=round(1000 * longest),
                yield_on_timeout=True,
                debounce=200,
                step=50,
            ):
                return
        except FileNotFoundError:
            raise SourceError(
                f"{self._folder}: the folder is gone. Create it or correct the configuration."
            ) from None


def _failed(name: str, file: _File, error: InputError) -> AudioBlock:
    """The end of a recording that cannot be used."""
    nothing = np.empty((1, 0), np.float32)
    begin_s = file.changed_ns / 1e9
    stream = f"unreadable {name} {file.size} {file.changed_ns}"
    return AudioBlock(nothing, 1, stream, 0, begin_s, name, True, file.size, file.changed_ns, str(error))


def _recordings(folder: Path) -> Iterator[Path]:
    for path in visible(folder):
        if path.suffix.casefold() in AUDIO_SUFFIXES and path.is_file():
            yield path
    for inner in sub_folders(folder):
        yield from _recordings(inner)


def _read(path: Path, header: AudioHeader) -> Iterator[NDArray[np.float32]]:
    """(channels, samples) of a long recording, in blocks."""
    done = 0
    with open_audio(path) as audio:
        while done < header.frames:
            wanted = min(round(READ_S * header.sample_rate_hz), header.frames - done)
            samples = audio.read(wanted, dtype="float32", always_2d=True)
            done += len(samples)
            if len(samples) < wanted:
                raise unreadable(path, f"sound that ends after {done} of {header.frames} samples")
            yield np.ascontiguousarray(samples.T)
