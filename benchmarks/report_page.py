"""Size and time of the report page of a run as large as the challenge.

    python benchmarks/report_page.py

Seven machines of 100 training and 200 test clips of 10 s, two channels of made-up sound (most files are links, so
that few have to be made). The run itself is not timed.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from nearfar.challenge.run import run_system
from nearfar.config import load_recipe
from nearfar.report.run_page import report_run

MACHINES, TRAIN_SOURCE, TRAIN_TARGET, TEST, SECONDS, DISTINCT = 7, 90, 10, 50, 10.0, 6
LIMIT_MB, LIMIT_SECONDS = 15.0, 60.0


def make_clip(path: Path, tone_hz: float, seed: int) -> None:
    """A hum with harmonics in pink-like noise, quieter in the far channel."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(SECONDS * 16_000)) / 16_000
    hum = sum(np.sin(2 * np.pi * tone_hz * k * time_s) / k for k in range(1, 6))
    noise = np.cumsum(random.standard_normal((2, len(time_s))), axis=1)
    noise -= np.apply_along_axis(lambda row: np.convolve(row, np.ones(64) / 64, "same"), 1, noise)
    stereo = np.stack([0.05 * hum + 0.01 * noise[0], 0.01 * hum + 0.01 * noise[1]], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, stereo.clip(-1, 1), 16_000, subtype="PCM_16")


def make_data(root: Path) -> None:
    for number in range(MACHINES):
        machine = root / f"machine{number}"
        groups = [("train", "source", "normal", TRAIN_SOURCE), ("train", "target", "normal", TRAIN_TARGET)]
        groups += [
            ("test", domain, label, TEST) for domain in ("source", "target") for label in ("normal", "anomaly")
        ]
        for split, domain, label, count in groups:
            tone = (
                100.0 * (1 + number) * (1.1 if domain == "target" else 1.0) * (1.02 if label == "anomaly" else 1.0)
            )
            for index in range(count):
                path = machine / split / f"section_00_{domain}_{split}_{label}_{index:04d}_noAttribute.wav"
                if index < DISTINCT:
                    make_clip(path, tone, 1000 * number + index + len(label))
                else:
                    os.link(path.with_name(path.name.replace(f"{index:04d}", f"{index % DISTINCT:04d}")), path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root / "data")
        recipe = load_recipe("nearfar-best").with_changes(**{"scoring.views": ["near", "far"]})
        run_system(recipe, root / "data", root / "run", note="Made-up sound.")
        began = time.perf_counter()
        page = report_run(root / "run", root / "report.html")
        seconds, size_mb = time.perf_counter() - began, page.stat().st_size / 1e6
        sounds = page.read_text(encoding="utf-8").count("<audio")
    print("Measured on made-up sound.")
    print(f"{size_mb:.1f} MB (at most {LIMIT_MB:g}), {seconds:.1f} s (at most {LIMIT_SECONDS:g}), {sounds} sounds")
    print(
        json.dumps(
            {"data": "made-up sound", "mb": round(size_mb, 2), "seconds": round(seconds, 1), "sounds": sounds}
        )
    )


if __name__ == "__main__":
    main()
