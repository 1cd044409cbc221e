"""What the speed-ups of encoders cost in official points, on a data folder with test clips.

    python benchmarks/fast_mode_quality.py DATA --out OUT                     frozen tokens of eat-tiny
    python benchmarks/fast_mode_quality.py DATA --out OUT --steps 150         tiny-fusion, trained on padded clips

Clips are padded to --seconds (default 8, for clips of 5 s) where a speed-up does not say otherwise, as 10 s are to
16 s in the published recipe. One model is trained and shared by all rows. ``nearfar compare OUT/A OUT/B`` gives
intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from nearfar.challenge.run import run_system
from nearfar.config import load_recipe

FULL, INTEGERS, MERGED = "own-length", "int8", "merged-tokens"
ROWS = {
    "padded": {},
    INTEGERS: {"inference.speedups": [INTEGERS]},
    FULL: {"inference.speedups": [FULL]},
    "int8, own-length": {"inference.speedups": [INTEGERS, FULL]},
    **{
        f"{name}, merged-tokens {share:g}": {
            "inference.speedups": [*name.split(", "), MERGED],
            "inference.merged_share": share,
        }
        for name, share in (
            (INTEGERS, 0.5),
            (INTEGERS, 0.75),
            ("int8, own-length", 0.25),
            ("int8, own-length", 0.5),
        )
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=0, help="of training; 0: frozen tokens")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is None:
        print("Nothing to do: give a data folder with test clips (docs/results/fast-mode.md).")
        return
    shared = {"encoder.weights": "eat-tiny", "fbank.std": 4.569, "audio.clip_seconds": options.seconds}
    if options.steps:
        recipe = load_recipe("tiny-fusion").with_changes(
            **shared, **{"training.steps": options.steps, "seed": options.seed}
        )
    else:
        recipe = load_recipe("frozen-eat").with_changes(**shared, **{"scoring.views": ["near", "far"]})
    out = options.out or Path(tempfile.mkdtemp())
    for name, changes in ROWS.items():
        run = run_system(
            recipe.with_changes(**changes),
            options.data,
            out / name,
            model_folder=out / "model",
        )
        if run is not None and run.results is not None:
            print(f"{name:32s} {100 * run.results.official_score:6.2f}", flush=True)


if __name__ == "__main__":
    main()
