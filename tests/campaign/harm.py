"""Damage to the bytes of a file, and the parts of recordings where other bytes make another recording."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path


def flip_bit(content: bytearray, rng: random.Random, place: int) -> None:
    """One bit."""
    content[place] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, rng: random.Random, place: int) -> None:
    """Up to 16 random bytes."""
    end = min(place + rng.randint(1, 16), len(content))
    content[place:end] = rng.randbytes(end - place)


def clear_sector(content: bytearray, rng: random.Random, place: int) -> None:
    """A sector of 512 bytes that was never written."""
    begin = place - place % 512
    end = min(begin + 512, len(content))
    content[begin:end] = bytes(end - begin)


def truncate(content: bytearray, rng: random.Random, place: int) -> None:
    """All bytes from one on are lost; in a tenth of cases the file is empty."""
    del content[0 if rng.random() < 0.1 else place :]


def lose_end(content: bytearray, rng: random.Random, place: int) -> None:
    """The last few bytes are lost."""
    del content[-rng.randint(1, min(64, len(content))) :]


FLIPS: tuple[Callable[[bytearray, random.Random, int], None], ...] = (flip_bit, flip_bit, overwrite, clear_sector)
TRUNCATIONS: tuple[Callable[[bytearray, random.Random, int], None], ...] = (truncate, truncate, lose_end)


def damage(
    path: Path, rng: random.Random, ways: tuple[Callable[[bytearray, random.Random, int], None], ...]
) -> tuple[str, bool]:
    """Damage a file in one of these ways; the words for it, and whether only samples of a recording changed.

    Half of the damage to recordings is to the first 128 bytes, where their headers are.
    """
    before = path.read_bytes()
    if not before:
        return f"{path.name} is empty already", False
    is_audio = path.suffix in (".wav", ".flac")
    most = min(128, len(before)) if is_audio and rng.random() < 0.5 else len(before)
    way, place = rng.choice(ways), rng.randrange(most)
    content = bytearray(before)
    way(content, rng, place)
    samples = sound_begins(path, before)
    first = next((at for at, (a, b) in enumerate(zip(before, content, strict=False)) if a != b), len(content))
    path.unlink()  # not through a link
    path.write_bytes(content)
    path.chmod(0o644)
    only_samples = samples is not None and first >= samples and len(content) == len(before)
    return f"{way.__name__} at byte {place} of {path}", only_samples


def sound_begins(path: Path, content: bytes) -> int | None:
    """The byte where the samples of a WAV file, or the frames of a FLAC file, begin; None for other files."""
    if path.suffix == ".wav":
        return content.index(b"data") + 8
    if path.suffix != ".flac":
        return None
    at, last = 4, False
    while not last:
        last = bool(content[at] & 0x80)
        at += 4 + int.from_bytes(content[at + 1 : at + 4], "big")
    return at
