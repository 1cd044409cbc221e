"""Time of cancelling far in near, relative to the Fourier transforms that it needs.

    python benchmarks/cancellation.py

One 16 s clip. Passes: two short-time transforms (cut, window, transform) and one inverse (transform, window, add
up), all of them necessary. Beside them, the Fourier transforms alone on prepared frames. All are timed in turn in
this process; ratios are those of the shortest times.
"""

from __future__ import annotations

import json
import time

import numpy as np
from scipy import fft

from nearfar.cancellation import Cancellation, cancel, istft, stft

SECONDS, ROUNDS, LIMIT = 16, 60, 1.5


def main() -> None:
    random = np.random.default_rng(0)
    near, far = random.standard_normal((2, SECONDS * 16_000)).astype(np.float32) * np.float32(0.1)
    result = {}
    for name, settings in {
        "W1": Cancellation(),
        "W1, limit": Cancellation(gain_limit=1.0),
        "window 8192, limit": Cancellation(window_samples=8192, hop_samples=2048, gain_limit=1.0),
    }.items():
        window, hop = settings.window_samples, settings.hop_samples
        count = 1 + -(-len(near) // hop)
        frames = random.standard_normal((2, count, window)).astype(np.float32)
        spectra = fft.rfft(frames[0], axis=-1)
        whole: list[float] = []
        passes: list[float] = []
        bare: list[float] = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            cancel(near, far, settings)
            cancelled = time.perf_counter()
            stft(near, window, hop)
            stft(far, window, hop)
            istft(spectra, len(near), window, hop)
            passed = time.perf_counter()
            fft.rfft(frames, axis=-1)
            fft.irfft(spectra, window, axis=-1)
            whole.append(cancelled - began)
            passes.append(passed - cancelled)
            bare.append(time.perf_counter() - passed)
        result[name] = round(min(whole) / min(passes), 2)
        print(
            f"{name:20s} {1000 * min(whole):6.2f} ms, passes {1000 * min(passes):6.2f} ms: {result[name]:.2f} "
            f"times (at most {LIMIT} asked of W1); {min(whole) / min(bare):.2f} times the transforms alone"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
