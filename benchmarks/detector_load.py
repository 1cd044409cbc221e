"""Seconds to load a detector of 100 MB in a fresh process and score one clip, with the tiny encoder.

    python benchmarks/detector_load.py

Target: under 3 s with imports, on one core. The normal recordings are noise, which changes no times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

import nearfar
from nearfar.config import load_recipe

MACHINES, CLIPS, SECONDS, RATE_HZ = 4, 700, 2.0, 16_000
LIMIT_S, SIZE_MB = 3.0, 100
RECIPE = {
    "training.adaptation": "none",
    "features.source": "tokens",
    "features.layers": [2, 3, 4],
    "features.pooling": "mean-std",
    "features.keep_bands": True,
    "scoring.channels": ["near"],
}
SCORE = """
import sys, time
began = time.perf_counter()
import nearfar
detector = nearfar.Detector.load(sys.argv[1])
loaded = time.perf_counter()
(record,) = detector.score(sys.argv[2], "machine 2")
print(loaded - began, time.perf_counter() - loaded)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        random = np.random.default_rng(0)
        for machine in range(MACHINES):
            place = root / "data" / f"machine {machine}" / "normal"
            place.mkdir(parents=True)
            for clip in range(CLIPS):
                sound = 0.1 * random.standard_normal((round(SECONDS * RATE_HZ), 2))
                sf.write(place / f"{clip:04d}.wav", sound, RATE_HZ, subtype="PCM_16")
        began = time.perf_counter()
        detector = nearfar.Detector.fit(root / "data", load_recipe("tiny-near").with_changes(**RECIPE))
        fitted = time.perf_counter() - began
        detector.save(root / "detector")
        size = sum(path.stat().st_size for path in (root / "detector").rglob("*") if path.is_file()) / 1e6
        clip = root / "data" / "machine 2" / "normal" / "0000.wav"
        times = []
        for _ in range(3):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", SCORE, str(root / "detector"), str(clip)], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            times.append((time.perf_counter() - began, *map(float, done.stdout.split())))
    whole, loading, scoring = min(times)
    print(
        json.dumps(
            {
                "detector_mb": round(size, 1),
                "fit_seconds": round(fitted, 1),
                "process_seconds": round(whole, 2),
                "import_and_load_seconds": round(loading, 2),
                "score_seconds": round(scoring, 2),
                "inside_target": bool(whole < LIMIT_S and size >= SIZE_MB),
            }
        )
    )


if __name__ == "__main__":
    main()
