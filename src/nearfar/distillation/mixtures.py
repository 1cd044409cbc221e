"""Random mixtures of recordings: training audio as a pure function of seed and number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.errors import InputError
from nearfar.training.batches import rms

ENDINGS = {".wav", ".flac", ".ogg"}
SPEED_OCTAVES = 0.5
FILTER_DB = 6.0
FILTER_KNOTS = 8
MIX_PROBABILITY, MIX_SNR_DB = 0.6, (-5.0, 20.0)
NOISE_PROBABILITY, NOISE_SNR_DB = 0.3, (0.0, 30.0)
MACHINE_SNR_DB = (-9.0, 12.0)
NOISE_REDUCTION_DB = 15.0
LEVEL_DBFS = (-45.0, -12.0)
GROUP = 4
SILENCE_RMS = 1e-4
TRIES = 8


def sound_files(folders: Sequence[Path], excluded: Sequence[str] = ()) -> tuple[tuple[Path, ...], ...]:
    """The recordings (WAV, FLAC, Ogg) below each folder, sorted, without those that match an excluded pattern.

    Patterns are those of :meth:`pathlib.PurePath.match`, such as ``5-*`` or ``rain/*``.

    Raises:
        InputError: if a folder holds none.
    """
    found = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        included = tuple(path for path in files if not any(path.match(pattern) for pattern in excluded))
        if not included:
            raise InputError(
                folder,
                found=f"{len(files)} recordings, all of them excluded" if files else "no recordings",
                expected="recordings that end in " + ", ".join(sorted(ENDINGS)),
                remedy="Check the folder" + (" and the patterns" if files else ""),
            )
        found.append(included)
    return tuple(found)


def by_folder(folders: Sequence[Sequence[Path]]) -> tuple[tuple[Path, ...], ...]:
    """The same recordings grouped by their own folder, one per machine."""
    paths = sorted(chain.from_iterable(folders), key=lambda path: path.parent)
    return tuple(tuple(group) for _, group in groupby(paths, key=lambda path: path.parent))


class Mixture(NamedTuple):
    """A noisy mixture and its cleaner counterpart: (samples,) float32 each, of one level, |x| <= 1."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]


class Mixtures:
    """Random mixtures of recordings.

    Four mixtures with consecutive numbers (0 to 3, 4 to 7...) are a group. A group is, with probability
    ``machine_share``, of one machine: its mixtures are recordings of it in different noise (-9 to 12 dB), and the
    clean counterparts have 15 dB less noise. Otherwise a mixture is a sound, often with a second one mixed in (-5
    to 20 dB), which stays in the counterpart, and sometimes with coloured noise, which does not. Sounds are crops
    of recordings (folders are equally probable) whose speed may be changed by up to half an octave and whose
    spectrum may be filtered by up to 6 dB, for the machine equally in the whole group. Finally the mixture is
    scaled to a random level.

    Args:
        files: recordings of any kind by folder, see :func:`sound_files`; also the noise of machines.
        samples: length of a mixture at 16 kHz.
        seed: of all draws; a mixture is a function of seed and number.
        machines: recordings of machines with hardly any noise, by machine.
        machine_share: probability of a machine; not used without machines.
    """

    def __init__(
        self,
        files: Sequence[Sequence[Path]],
        samples: int,
        seed: int,
        machines: Sequence[Sequence[Path]] = (),
        machine_share: float = 0.4,
    ) -> None:
        self.files, self.samples, self.seed = files, samples, seed
        self.machines, self.machine_share = machines, machine_share if machines else 0.0

    def __getitem__(self, number: int) -> Mixture:
        """Mixture ``number``."""
        rng = np.random.default_rng([self.seed, 0, number])
        shared = np.random.default_rng([self.seed, 1, number // GROUP])
        of_machine = shared.random() < self.machine_share
        noisy, clean = self._machine_in_noise(rng, shared) if of_machine else self._sounds(rng)
        amplitude = 10 ** (rng.uniform(*LEVEL_DBFS) / 20)
        return Mixture(_at_level(noisy, amplitude), _at_level(clean, amplitude))

    def _machine_in_noise(
        self, rng: np.random.Generator, shared: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        machine = self._part(rng, self.machines, shared)
        noise = self._part(rng, self.files) * 10 ** (-rng.uniform(*MACHINE_SNR_DB) / 20)
        return machine + noise, machine + noise * 10 ** (-NOISE_REDUCTION_DB / 20)

    def _sounds(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        clean = self._part(rng, self.files)
        if rng.random() < MIX_PROBABILITY:
            clean = clean + self._part(rng, self.files) * 10 ** (-rng.uniform(*MIX_SNR_DB) / 20)
        if rng.random() >= NOISE_PROBABILITY:
            return clean, clean
        noise = _filtered(rng.standard_normal(self.samples), rng, 3 * FILTER_DB)
        return _unit_rms(clean) + _unit_rms(noise) * 10 ** (-rng.uniform(*NOISE_SNR_DB) / 20), clean

    def _part(
        self,
        rng: np.random.Generator,
        folders: Sequence[Sequence[Path]],
        shared: np.random.Generator | None = None,
    ) -> NDArray[np.float64]:
        """A changed crop of a recording, (samples,) of unit RMS; a silent crop is drawn again, a few times.

        ``shared`` draws folder, speed and filter, ``rng`` everything else.
        """
        shared = shared or rng
        folder = folders[int(shared.integers(len(folders)))]
        speed = 2 ** shared.uniform(-SPEED_OCTAVES, SPEED_OCTAVES) if shared.random() < 0.5 else 1.0
        for _ in range(TRIES):
            recording = _read(folder[int(rng.integers(len(folder)))])
            sound = recording[rng.integers(len(recording))].astype(np.float64) / 32_768
            if speed != 1.0:
                sound = _at_speed(sound, speed)
            sound = np.tile(sound, -(-self.samples // len(sound)))
            start = rng.integers(len(sound) - self.samples + 1)
            crop = sound[start : start + self.samples]
            if rms(crop) > SILENCE_RMS:
                break
        if shared.random() < 0.5:
            crop = _filtered(crop, shared, FILTER_DB)
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
    """A smooth random gain over the logarithm of frequency, within plus or minus ``most_db``, is applied."""
    spectrum = np.fft.rfft(sound)
    knots_hz = np.geomspace(40.0, SAMPLE_RATE_HZ / 2, FILTER_KNOTS)
    hz = np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ), knots_hz[0])
    gain_db = np.interp(np.log(hz), np.log(knots_hz), rng.uniform(-most_db, most_db, FILTER_KNOTS))
    return np.asarray(np.fft.irfft(spectrum * 10 ** (gain_db / 20), n=len(sound)))


def _at_level(sound: NDArray[np.float64], amplitude: float) -> NDArray[np.float32]:
    return np.clip(_unit_rms(sound) * amplitude, -1.0, 1.0).astype(np.float32)


def _unit_rms(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    return sound / rms(sound)
