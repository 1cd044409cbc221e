"""A hash of recordings by content, the key under which results of the same recordings are cached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from nearfar.data.clips import Clip


@lru_cache(maxsize=100_000)
def _file_digest(path: Path, size: int, modified_ns: int) -> bytes:
    # Size and modification time are only keys of this cache; the digest is of the content.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def clips_key(clips: Iterable[Clip]) -> str:
    """Hexadecimal SHA-256 over machine, split, name and content of every clip, in order."""
    digest = hashlib.sha256()
    for clip in clips:
        stat = clip.path.stat()
        digest.update(f"{clip.machine}/{clip.split}/{clip.name}\n".encode())
        digest.update(_file_digest(clip.path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()
