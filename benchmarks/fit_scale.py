"""Time and memory of fitting a detector on 100, 1,000 and, with --long, 10,000 recordings of 10 s.

    python benchmarks/fit_scale.py [--recipe auto] [--long]

Made-up sound of two channels. Each size in a process of its own, with all usable cores. Printed: seconds,
processor time, peak memory, and the cost of a recording relative to the smallest size: 1 where cost is linear.
Asked: 1,000 recordings in less than 15 s on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from made_up import write_recordings

FIT = """
import json, resource, sys, time
from nearfar import Detector
began, processor = time.perf_counter(), time.process_time()
Detector.fit(sys.argv[1], sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - began, time.process_time() - processor, peak]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    print(f"load of the machine at the beginning: {os.getloadavg()[0]:.1f}")
    result: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for count in (100, 1_000, *([10_000] if options.long else [])):
            folder = Path(name) / str(count)
            write_recordings(folder / "machine" / "normal", count)
            command = [sys.executable, "-c", FIT, str(folder / "machine"), options.recipe]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, processor_s, peak_mb = json.loads(done.stdout)
            result[count] = {"seconds": seconds, "processor_s": processor_s, "peak_mb": peak_mb}
            first = result[100]["processor_s"] / 100
            print(
                f"{count:6d} recordings: {seconds:7.1f} s, processor {processor_s:7.1f} s, {peak_mb:5.0f} MB; "
                f"one takes {processor_s / count / first:.2f} times that of 100"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
