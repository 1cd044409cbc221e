"""The sound of a machine, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ, SECONDS = 16_000, 1.0


def machine_sound(
    seed: int, *, fault: bool = False, seconds: float = SECONDS, gain: float = 1.0
) -> NDArray[np.float32]:
    """(2, samples) of a machine that hums, and whistles with a fault; 16-bit values."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    hum = sum(np.sin(2 * np.pi * 120 * k * time_s + random.uniform(0, 6)) / k for k in range(1, 6))
    near = 0.1 * hum + 0.02 * random.normal(size=time_s.size)
    if fault:
        near = near + 0.1 * np.sin(2 * np.pi * 3300 * time_s) + 0.05 * random.normal(size=time_s.size)
    far = 0.4 * near + 0.02 * random.normal(size=time_s.size)
    both = np.clip(gain * np.stack([near, far]), -0.99, 0.99)
    return (np.round(both * 32768) / 32768).astype(np.float32)


def write_sound(path: Path, samples: NDArray[np.float32]) -> Path:
    """Write (channels, samples) as 16 bits, through a name that no watch reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    soundfile.write(partial, samples.T, RATE_HZ, subtype="PCM_16", format="WAV")
    partial.rename(path)
    return path
