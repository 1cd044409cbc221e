"""Commands on one core and on all, quiet and beside a busy process.

    python benchmarks/threads.py [COMMAND ...]

Each command is a process of its own, on made-up or simulated recordings. For each, in turn: one job quiet, all
jobs quiet, one job and all jobs beside a process that keeps one core busy. Beside it, the fair share of a command
with as many threads as cores is cores / (cores + 1) of each core. Printed: seconds, and how many times slower than
quiet beyond that share; asked: at most 1.5. Seconds include Python's start. The load at the beginning is printed
too: nothing is quiet on a machine that others use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_up import write_recordings

ROUNDS, LIMIT = 2, 1.5
BUSY = "while True: pass"


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands; folders of their results end in the number of the run, ``{}``."""
    data, sound, detector = f"{folder}/factory", f"{folder}/machine", f"{folder}/detector"
    autoencoder = ["--set", "autoencoder.epochs=5"]
    return {
        "fit": ["fit", sound, "--out", f"{folder}/fit-{{}}"],
        "score": ["score", detector, f"{folder}/new"],
        "data": ["data", data, "--check-channels"],
        "run": ["run", "tiny-fusion", "--data", data, "--out", f"{folder}/run-{{}}", "--set", "training.steps=20"],
        "autoencoder": ["run", "ae-mse", "--data", data, "--out", f"{folder}/ae-{{}}", *autoencoder],
        "embed": ["embed", f"{folder}/new", "--encoder", "eat-tiny", "--out", f"{folder}/embedded-{{}}.npy"],
    }


def seconds_of(arguments: list[str], jobs: int | None, number: int) -> float:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    chosen = [argument.replace("{}", str(number)) for argument in arguments]
    chosen += [] if jobs is None else ["--jobs", str(jobs)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "nearfar", *chosen], capture_output=True, text=True, env=environment
    )
    if done.returncode > 1:
        raise SystemExit(f"{' '.join(chosen)}: {done.stderr}")
    return time.perf_counter() - began


def main() -> None:
    from nearfar.threads import usable_cores

    cores = usable_cores()
    print(f"{cores} cores; load of the machine at the beginning: {os.getloadavg()[0]:.1f}")
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder / "machine" / "normal", 100)
        write_recordings(folder / "new", 60, seed=1)
        listed = commands(folder)
        seconds_of(["fit", str(folder / "machine"), "--out", str(folder / "detector")], None, 0)
        few = ["--machines", "fan", "--train-source", "30", "--train-target", "4", "--test", "4"]
        seconds_of(["simulate", str(folder / "factory"), *few], None, 0)
        number = 0
        for command in sys.argv[1:] or listed:
            found: dict[tuple[int, bool], float] = {}
            for _ in range(ROUNDS):
                for is_busy in (False, True):
                    busy = subprocess.Popen([sys.executable, "-c", BUSY]) if is_busy else None
                    for jobs in sorted({1, cores}):
                        number += 1
                        seconds = seconds_of(listed[command], jobs, number)
                        found[jobs, is_busy] = min(seconds, found.get((jobs, is_busy), seconds))
                    if busy is not None:
                        busy.kill()
                        busy.wait()
            slower = {}
            for jobs in sorted({1, cores}):
                share = min(1.0, cores / (jobs + 1))  # of a core for each of its threads
                slower[jobs] = found[jobs, True] / found[jobs, False] * share
            print(
                f"{command:12s} one job {found[1, False]:6.2f} s, {cores} jobs {found[cores, False]:6.2f} s; "
                f"beside a busy process: {found[1, True]:6.2f} s and {found[cores, True]:6.2f} s, "
                f"{slower[1]:.2f} and {slower[cores]:.2f} times slower beyond the fair share (asked: {LIMIT})"
            )
            result[command] = {
                "all_over_one": found[cores, False] / found[1, False],
                "beyond_share": slower[cores],
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
