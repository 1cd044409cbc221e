"""Ten thousand detectors in bounded memory: what loading and scoring costs in different orders of visits.

    python benchmarks/fleet.py [--detectors 10000] [--visits 2000] [--normals 100]

One detector is fitted with ``auto`` on noise, 10 s at 16 kHz with two channels, which changes no times or sizes.
All folders of the fleet are hard links to its files, so that disk space suffices: files come from the page cache,
and reading from a slow disk or a network comes on top. A visit loads the detector unless it is in memory and
scores the features of one window; features cost the same for any number of machines, and are measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

import nearfar
from nearfar.detector.detector import Detector
from nearfar.detector.loaded import LoadedDetectors

RATE_HZ, SECONDS = 16_000, 10.0
LIMITS_MB = {"in turn": (100,), "bursts": (100,), "a few often (Zipf 1.2)": (100, 1_000)}
"""Limits of memory by the order of visits; in turn, none below the size of the whole fleet makes a difference."""

BURST = 20
"""Recordings of a machine that are scored one after the other in the order ``bursts``."""


def main() -> None:
    """Print a line of JSON for the sizes, and one for each limit of memory and order of visits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", type=int, default=10_000)
    parser.add_argument("--visits", type=int, default=2_000)
    parser.add_argument("--normals", type=int, default=100)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recordings = root / "machine"
        recordings.mkdir()
        for index in range(arguments.normals):
            sound = 0.1 * random.standard_normal((round(SECONDS * RATE_HZ), 2))
            sf.write(recordings / f"{index:04d}.wav", sound, RATE_HZ, subtype="PCM_16")
        began = time.process_time()
        Detector.fit(recordings).save(root / "detector")
        fit_s = time.process_time() - began
        fleet = linked(root, arguments.detectors)
        print(
            json.dumps({"detectors": len(fleet), **sizes(root / "detector", recordings, fleet, fit_s)}), flush=True
        )
        for name, order in orders(len(fleet), arguments.visits, random).items():
            for limit in LIMITS_MB[name]:
                print(json.dumps({"limit_mb": limit, "order": name, **visit(fleet, order, limit)}), flush=True)


def linked(root: Path, count: int) -> list[Path]:
    """Folders whose files are hard links to those of the fitted detector."""
    folders = [root / "fleet" / f"{index:06d}" for index in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
        for file in (root / "detector").iterdir():
            os.link(file, folder / file.name)
    return folders


def orders(detectors: int, visits: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Indices of the detectors that are visited."""
    popular = random.permutation(detectors)[np.minimum(random.zipf(1.2, visits) - 1, detectors - 1)]
    return {
        "in turn": np.arange(visits) % detectors,
        "bursts": np.arange(visits) // BURST % detectors,
        "a few often (Zipf 1.2)": popular,
    }


def sizes(detector: Path, recordings: Path, fleet: list[Path], fit_s: float) -> dict[str, float]:
    """Bytes of a detector on disk and in memory, and seconds of processor time of its steps."""
    on_disk = sum(file.stat().st_size for file in detector.iterdir())
    clips = sorted(recordings.iterdir())[:5]
    nearfar.Detector.load(detector).score(clips[0])
    before, kept = resident_bytes(), []
    load_s = seconds_of(lambda: kept.extend(nearfar.Detector.load(folder) for folder in fleet[:50])) / 50
    first_s = seconds_of(lambda: [each.score(clips[0]) for each in kept[:10]]) / 10
    score_s = seconds_of(lambda: [kept[0].score(clip) for clip in clips]) / len(clips)
    for each in kept[10:]:
        score_window(each)
    memory = (resident_bytes() - before) / len(kept)
    return {
        "fit_s_per_recording": round(fit_s / len(list(recordings.iterdir())), 4),
        "disk_mb_each": round(on_disk / 1e6, 2),
        "memory_mb_each": round(memory / 1e6, 2),
        "memory_over_banks": round(memory / (detector / "banks.safetensors").stat().st_size, 2),
        "load_ms": round(1e3 * load_s, 1),
        "score_ms_first": round(1e3 * first_s, 1),
        "score_ms": round(1e3 * score_s, 1),
    }


def visit(fleet: list[Path], order: np.ndarray, limit_mb: int) -> dict[str, float]:
    """Visit detectors in an order with a limit of memory."""
    loaded = LoadedDetectors(limit_mb * 1_000_000)
    before = highest = resident_bytes()
    used, began = time.process_time(), time.perf_counter()
    for number, index in enumerate(order.tolist()):
        score_window(loaded.get(fleet[index]))
        if number % 50 == 0:
            highest = max(highest, resident_bytes())
    return {
        "visits": len(order),
        "loads": loaded.loads,
        "in_memory": len(loaded),
        "memory_mb": round((highest - before) / 1e6),
        "ms_per_visit": round(1e3 * (time.process_time() - used) / len(order), 2),
        "wall_s": round(time.perf_counter() - began, 1),
    }


def score_window(detector: Detector) -> None:
    """Score a window by its features: those of a normal recording."""
    machine = detector._fitted.machines[0]
    machine.score({view: values[:1] for view, values in machine.features.items()})


def seconds_of(work) -> float:  # type: ignore[no-untyped-def]
    """Processor time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
