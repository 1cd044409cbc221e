"""Pace, start-up and memory of a detector by torch, ONNX Runtime and OpenVINO.

    python benchmarks/export.py [--recordings 24] [--rounds 10] [NAME ...]

Detectors (see ``DETECTORS``) are fitted on made-up recordings of 10 s and exported. Each runtime scores files, one
at a time, in a process of its own, on one thread and on all cores: ``torch`` by ``Detector.score_many`` without
explanations, ``onnxruntime`` by ``ExportedDetector.score_many``, both with the checks of quality, and ``openvino``
by the graph alone on samples that soundfile reads. Rounds of all alternate. Printed as JSON: milliseconds of the
clock a recording (least and median of the rounds), seconds from the start of Python to the first score, and the
largest memory of the process. Without OpenVINO where it does not compute a detector as exactly as asked; standard
error says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from made_up import write_recordings

DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto": ("auto", {}),
    "eat-tiny": ("frozen-eat", {"encoder.weights": "eat-tiny"}),
    "eat-base": ("frozen-eat", {"encoder.weights": "random:base:0"}),
}
SECONDS = 10.0


def scorer(runtime: str, folder: Path, threads: int) -> Callable[[Path], float]:
    """A function that scores a file."""
    if runtime == "torch":
        import torch

        from nearfar import Detector

        torch.set_num_threads(threads)
        detector = Detector.load(folder / "detector")
        return lambda file: next(iter(detector.score_many([file], explain=False))).score
    from nearfar.exported import ExportedDetector

    exported = ExportedDetector(folder / "exported", threads)
    if runtime == "onnxruntime":
        return lambda file: next(iter(exported.score_many([file]))).score
    import openvino
    import soundfile

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(folder / "exported" / "openvino" / "model.xml", "CPU", settings)
    channels = len(exported.description.channels)

    def score(file: Path) -> float:
        samples = soundfile.read(file, dtype="float32")[0].T[None, :channels].copy()
        return float(compiled({"samples": samples, **exported.inputs})["score"][0])

    return score


def work(runtime: str, folder: Path, threads: int) -> None:
    """Score the file once, and then once for every line on standard input."""
    file = next(iter(sorted((folder / "new").glob("*.wav"))))
    score = scorer(runtime, folder, threads)
    print(json.dumps(score(file)), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        score(file)
        print(json.dumps(time.perf_counter() - began), flush=True)
    print(json.dumps(largest_memory_mb()), flush=True)


def largest_memory_mb() -> float:
    """Of this process; ``ru_maxrss`` would count the one that started it as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes) / 1e6


def start(runtime: str, folder: Path, threads: int) -> tuple[subprocess.Popen[str], float, float]:
    """The process, its first score, and the seconds until then."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--work", runtime, str(threads), str(folder)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    first = read(process)
    return process, first, time.perf_counter() - began


def read(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(json.loads(process.stdout.readline()))


def prepare(name: str, folder: Path, recordings: int) -> list[str]:
    """Fit and export a detector: the runtimes that can score it."""
    from nearfar import Detector
    from nearfar.config import load_recipe
    from nearfar.errors import InputError
    from nearfar.export.write import export_detector

    write_recordings(folder / "machine" / "normal", recordings, SECONDS)
    write_recordings(folder / "new", 1, SECONDS, seed=1)
    recipe, changes = DETECTORS[name]
    detector = Detector.fit(folder / "machine", load_recipe(recipe).with_changes(**changes))
    detector.save(folder / "detector")
    try:
        export_detector(detector, folder / "exported", openvino=True)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        export_detector(detector, folder / "exported")
        return ["torch", "onnxruntime"]
    return ["torch", "onnxruntime", "openvino"]


def measure(runtimes: list[str], folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """All runtimes in turns."""
    started = {runtime: start(runtime, folder, threads) for runtime in runtimes}
    times: dict[str, list[float]] = {runtime: [] for runtime in runtimes}
    for _ in range(rounds):
        for runtime, (process, _, _) in started.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            times[runtime].append(read(process))
    result = {}
    for runtime, (process, score, start_s) in started.items():
        assert process.stdin is not None
        process.stdin.close()
        result[runtime] = {
            "least_ms": round(1e3 * min(times[runtime]), 1),
            "median_ms": round(1e3 * median(times[runtime]), 1),
            "start_s": round(start_s, 2),
            "memory_mb": round(read(process)),
            "score": score,
        }
        process.wait()
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["auto", "eat-tiny"], help="of DETECTORS")
    parser.add_argument("--recordings", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        runtime, threads, folder = options.work
        work(runtime, Path(folder), int(threads))
        return
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            runtimes = prepare(name, Path(temporary), options.recordings)
            for threads in sorted({1, os.cpu_count() or 1}):
                found = measure(runtimes, Path(temporary), threads, options.rounds)
                print(json.dumps({"detector": name, "threads": threads, **found}), flush=True)


if __name__ == "__main__":
    main()
