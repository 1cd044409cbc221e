"""Seconds to load a detector of 100 MB in a fresh process and score one clip, with the tiny encoder.

    python benchmarks/detector_load.py

Target: under 3 s with imports, on one core. The normal recordings are noise,
which changes no times.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

import nearfar
from nearfar.config import load_recipe
from nearfar.detector.machine import FittedMachine

MACHINES, CLIPS, FITTED, SECONDS, RATE_HZ = 4, 700, 10, 10.0, 16_000
LIMIT_S, SIZE_MB = 3.0, 100
RECIPE = {
    "training.adaptation": "none",
    "features.source": "tokens",
    "features.layers": [2, 3, 4],
    "features.pooling": "mean-std",
    "features.keep_bands": True,
    "scoring.views": ["near"],
}
SCORE = """
import sys, time
began = time.perf_counter()
import nearfar
detector = nearfar.Detector.load(sys.argv[1])
loaded = time.perf_counter()
detector.score(sys.argv[2], "machine 2")
print(loaded - began, time.perf_counter() - loaded)
"""


def many(fitted: FittedMachine, random: np.random.Generator) -> FittedMachine:
    """A machine with CLIPS normal recordings: the fitted ones with a little noise."""
    chosen = torch.arange(CLIPS) % FITTED
    features = {
        view: values[chosen] + 0.1 * torch.from_numpy(random.standard_normal((CLIPS, *values.shape[1:]))).float()
        for view, values in fitted.features.items()
    }
    names = tuple(f"{clip:04d}.wav" for clip in range(CLIPS))
    return replace(
        fitted,
        recordings=names,
        files=names,
        target=np.zeros(CLIPS, np.bool_),
        features=features,
        recording=np.arange(CLIPS),
        begins_s=np.zeros(CLIPS),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        random = np.random.default_rng(0)
        for machine in range(MACHINES):
            normal = root / "data" / f"machine {machine}" / "normal"
            normal.mkdir(parents=True)
            for clip in range(FITTED):
                sound = 0.1 * random.standard_normal((round(SECONDS * RATE_HZ), 2))
                sf.write(normal / f"{clip:04d}.wav", sound, RATE_HZ, subtype="PCM_16")
        detector = nearfar.Detector.fit(root / "data", load_recipe("tiny-near").with_changes(**RECIPE))
        machines = tuple(many(fitted, random) for fitted in detector._fitted.machines)
        nearfar.Detector(replace(detector._fitted, machines=machines)).save(root / "detector")
        size = sum(path.stat().st_size for path in (root / "detector").rglob("*") if path.is_file()) / 1e6
        clip = root / "data" / "machine 2" / "normal" / "0000.wav"
        times = []
        for _ in range(3):
            began, used = time.perf_counter(), children_seconds()
            done = subprocess.run(
                [sys.executable, "-c", SCORE, str(root / "detector"), str(clip)], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            whole = time.perf_counter() - began
            times.append((whole, children_seconds() - used, *map(float, done.stdout.split())))
    names = ("process_seconds", "processor_seconds", "import_and_load_seconds", "score_seconds")
    best = dict(zip(names, (round(value, 2) for value in min(times)), strict=True))
    inside = best["process_seconds"] < LIMIT_S and size >= SIZE_MB
    print(json.dumps({"detector_mb": round(size, 1), **best, "inside_target": inside}))


def children_seconds() -> float:
    """Processor time of the processes that this one has started, which a busy machine disturbs least."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
