"""Crops of recordings, changed and mixed at random: audio for pre-training, a pure function of seed and number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.errors import InputError

ENDINGS = {".wav", ".flac", ".ogg"}
SPEED_OCTAVES = 0.5
FILTER_DB = 6.0
FILTER_KNOTS = 8
MIX_PROBABILITY, MIX_SNR_DB = 0.6, (-5.0, 20.0)
NOISE_PROBABILITY, NOISE_SNR_DB = 0.3, (0.0, 30.0)
LEVEL_DBFS = (-45.0, -12.0)
SILENCE_RMS = 1e-4
TRIES = 8


def sound_files(folders: Sequence[Path], excluded: Sequence[str] = ()) -> tuple[tuple[Path, ...], ...]:
    """The recordings (WAV, FLAC, Ogg) below each folder, sorted, without those that a pattern names.

    Args:
        folders: searched through and through.
        excluded: patterns as of :meth:`pathlib.PurePath.match`, such as ``5-*`` or ``rain/*``.

    Raises:
        InputError: if a folder holds none.
    """
    found = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        kept = tuple(path for path in files if not any(path.match(pattern) for pattern in excluded))
        if not kept:
            raise InputError(
                folder,
                found=f"{len(files)} recordings, all of them excluded" if files else "no recordings",
                expected="recordings that end in " + ", ".join(sorted(ENDINGS)),
                remedy="Check the folder" + (" and the patterns" if files else ""),
            )
        found.append(kept)
    return tuple(found)


class Mixtures:
    """Random mixtures of recordings.

    Mixture number i takes a recording and channel (every folder as likely as any other), changes its speed by up
    to half an octave, crops it, filters it by up to 6 dB, often mixes a second one to it (-5 to 20 dB), sometimes
    adds coloured noise, and brings it to a random level.

    Args:
        files: recordings by folder, see :func:`sound_files`.
        samples: length of a mixture at 16 kHz.
        seed: decides, with its number, everything about a mixture.
    """

    def __init__(self, files: Sequence[Sequence[Path]], samples: int, seed: int) -> None:
        self.files, self.samples, self.seed = files, samples, seed

    def __getitem__(self, number: int) -> NDArray[np.float32]:
        """Mixture ``number``, (samples,) float32, |x| <= 1."""
        rng = np.random.default_rng([self.seed, number])
        mixture = self._part(rng)
        if rng.random() < MIX_PROBABILITY:
            mixture = mixture + self._part(rng) * 10 ** (-rng.uniform(*MIX_SNR_DB) / 20)
        if rng.random() < NOISE_PROBABILITY:
            noise = _filtered(rng.standard_normal(self.samples), rng, 3 * FILTER_DB)
            mixture = _unit_rms(mixture) + _unit_rms(noise) * 10 ** (-rng.uniform(*NOISE_SNR_DB) / 20)
        level = 10 ** (rng.uniform(*LEVEL_DBFS) / 20)
        return np.clip(_unit_rms(mixture) * level, -1.0, 1.0).astype(np.float32)

    def _part(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One recording, changed: (samples,) of unit RMS. A crop of silence is drawn again, a few times."""
        for _ in range(TRIES):
            folder = self.files[int(rng.integers(len(self.files)))]
            recording = _read(folder[int(rng.integers(len(folder)))])
            sound = recording[rng.integers(len(recording))].astype(np.float64) / 32_768
            if rng.random() < 0.5:
                sound = _at_speed(sound, 2 ** rng.uniform(-SPEED_OCTAVES, SPEED_OCTAVES))
            sound = np.tile(sound, -(-self.samples // len(sound)))
            start = rng.integers(len(sound) - self.samples + 1)
            crop = sound[start : start + self.samples]
            if np.sqrt(np.mean(crop**2)) > SILENCE_RMS:
                break
        if rng.random() < 0.5:
            crop = _filtered(crop, rng, FILTER_DB)
        return _unit_rms(crop)


@lru_cache(maxsize=1024)
def _read(path: Path) -> NDArray[np.int16]:
    """(channels, samples) at 16 kHz."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE_HZ:
        sound = soxr.resample(sound, rate, SAMPLE_RATE_HZ, quality="HQ")
    return np.ascontiguousarray(np.round(np.clip(sound.T, -1, 1) * 32_767).astype(np.int16))


def _at_speed(sound: NDArray[np.float64], speed: float) -> NDArray[np.float64]:
    at = np.arange(0, len(sound) - 1, speed)
    return np.asarray(np.interp(at, np.arange(len(sound)), sound))


def _filtered(sound: NDArray[np.float64], rng: np.random.Generator, most_db: float) -> NDArray[np.float64]:
    """With a smooth random gain over the logarithm of frequency, within plus or minus ``most_db``."""
    spectrum = np.fft.rfft(sound)
    knots_hz = np.geomspace(40.0, SAMPLE_RATE_HZ / 2, FILTER_KNOTS)
    hz = np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ), knots_hz[0])
    gain_db = np.interp(np.log(hz), np.log(knots_hz), rng.uniform(-most_db, most_db, FILTER_KNOTS))
    return np.asarray(np.fft.irfft(spectrum * 10 ** (gain_db / 20), n=len(sound)))


def _unit_rms(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)
