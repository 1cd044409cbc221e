"""Made-up recordings of two microphones for benchmarks of pace: harmonics and noise, and no faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf

RATE_HZ = 16_000


def write_recordings(folder: Path, count: int, seconds: float = 10.0, seed: int = 0) -> None:
    """Write ``count`` WAV files of 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    random, samples = np.random.default_rng(seed), round(seconds * RATE_HZ)
    time_s = np.arange(samples) / RATE_HZ
    harmonics = np.sin(2 * np.pi * 50 * np.outer(np.arange(1, 20), time_s)) / np.arange(1, 20)[:, None]
    machines = [np.roll(random.uniform(0.5, 1.5, 19) @ harmonics, random.integers(samples)) for _ in range(20)]
    for index in range(count):
        machine, (near, far) = machines[index % 20], random.standard_normal((2, samples), np.float32)
        room = np.convolve(far, [0.4, 0.3, 0.2, 0.1], mode="same")
        sound = [0.05 * machine + 0.02 * near + 0.05 * room, 0.01 * machine + 0.005 * near + 0.08 * far]
        stereo = np.stack(sound, axis=1).clip(-1, 1)
        sf.write(folder / f"recording_{index:05d}.wav", stereo, RATE_HZ, subtype="PCM_16")
