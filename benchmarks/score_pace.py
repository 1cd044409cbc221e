"""Pace of scoring with explanation, against an earlier version of nearfar and against the arithmetic it needs.

    python benchmarks/score_pace.py [--before REVISION]

``Detector.score`` of files of 10 s with two channels, by the recipes auto and nearfar-best fitted on 100 normal
recordings (made-up sound), on one thread. Rounds of both versions, each in a process of its own, alternate, and
processor time counts; the arithmetic is that of bare Fourier transforms, one dense mel product per view and the
products with the bank, timed in the same rounds. Printed: times real time, the ratio of both versions (median of
the pairs), and the share of the arithmetic.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from made_up import write_recordings

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "1a960ba"
NORMALS, FILES, SECONDS, ROUNDS = 100, 16, 10.0, 15
RECIPES = ("auto", "nearfar-best")


def bare_arithmetic(recipe: str, normals: int) -> Any:
    """A function that does the arithmetic of one recording and nothing else."""
    import torch

    views = 2 if recipe == "auto" else 1
    speeds, dimensions = (7, 64) if recipe == "auto" else (1, 64)
    long, spectra = torch.randn(79, 8192), torch.randn(79, 4097, dtype=torch.complex64)
    frames, power, mel = torch.randn(998, 512), torch.rand(998, 257), torch.rand(257, 128)
    bank = torch.randn(8, dimensions, normals, dtype=torch.float64)
    queries = torch.randn(8, speeds, dimensions, dtype=torch.float64)

    def compute() -> None:
        torch.fft.rfft(long), torch.fft.rfft(long), torch.fft.irfft(spectra, 8192)
        for _ in range(views):
            torch.fft.rfft(frames), power @ mel, queries @ bank

    return compute


def work(folder: Path) -> None:
    """Fit the detectors, and for every line on standard input time a round of the recipe that it names."""
    import torch

    from nearfar import Detector

    torch.set_num_threads(1)
    files = sorted((folder / "new").glob("*.wav"))
    detectors = {recipe: Detector.fit(folder / "machine", recipe) for recipe in RECIPES}
    bare = {recipe: bare_arithmetic(recipe, NORMALS) for recipe in RECIPES}
    for detector in detectors.values():
        detector.score(files[0])
    print("ready", flush=True)
    for line in sys.stdin:
        recipe = line.strip()
        began = time.process_time()
        for file in files:
            detectors[recipe].score(file)
        scored = time.process_time()
        for _ in files:
            bare[recipe]()
        print(json.dumps([(scored - began) / FILES, (time.process_time() - scored) / FILES]), flush=True)


def start(source: Path, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--work", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer(process: subprocess.Popen[str], line: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", default=BEFORE, help="revision to compare with")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder / "machine" / "normal", NORMALS, SECONDS)
        write_recordings(folder / "new", FILES, SECONDS, seed=1)
        archive = subprocess.run(
            ["git", "archive", options.before, "src"], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder / "before", filter="data")
        processes = [start(source, folder) for source in (folder / "before" / "src", ROOT / "src")]
        for process in processes:
            answer(process)
        result = {}
        for recipe in RECIPES:
            rounds = [[json.loads(answer(process, recipe)) for process in processes] for _ in range(ROUNDS)]
            before, after = ([entry[version][0] for entry in rounds] for version in (0, 1))
            bare = [entry[1][1] for entry in rounds]
            faster = median(b / a for b, a in zip(before, after, strict=True))
            share = median(b / a for b, a in zip(bare, after, strict=True))
            result[recipe] = {"times_as_fast": round(faster, 2), "share_of_arithmetic": round(share, 2)}
            print(
                f"{recipe:13s} {1e3 * min(after):6.2f} ms of processor time a recording (least of rounds), "
                f"{SECONDS / min(after):5.0f} times real time; {options.before}: {1e3 * min(before):6.2f} ms; "
                f"{faster:.2f} times as fast (asked: 3); {share:.2f} of the bare arithmetic's pace (asked: 0.4)"
            )
        for process in processes:
            process.terminate()
            process.wait()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
