"""From 10 s stereo files to scores with EAT-base of random weights: the speed-ups of encoders against none.

    python benchmarks/fast_mode.py

Clips are padded to 16 s where nothing else is said; near and far are embedded (by the head of eat-fusion) and
compared with a bank. Every way works on the same files in turn; ratios are of processor time in a turn, on one
thread, which other work on the machine disturbs least. Target: at least 4 times the pace of the published mode.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile as sf
import torch

from nearfar.config import load_recipe
from nearfar.encoders.speedups import FAST
from nearfar.models import TrainedEmbedder, build_model
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import extractor_of_model
from nearfar.pipeline.windows import Recording
from nearfar.scoring import NearestNeighbours
from nearfar.threads import set_jobs

SECONDS, RATE_HZ, NORMALS, TARGET = 10.0, 16_000, 1_000, 4.0
WAYS = {
    "as published": (),
    "own-length": ("own-length",),
    "own-length, int8": ("own-length", "int8"),
    "own-length, merged-tokens": ("own-length", "merged-tokens"),
    "all three (--fast)": FAST,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    set_jobs(1)
    torch.set_num_threads(1)
    recipe = load_recipe("eat-fusion").with_changes(**{"encoder.weights": "random:base"})
    embedder = build_model(recipe, classes=2).embedder.eval().requires_grad_(False)
    random = np.random.default_rng(0)
    bank = NearestNeighbours().fit(torch.randn(NORMALS, 1, recipe.head.embedding_dim))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        recordings = []
        for number in range(arguments.clips):
            path = Path(folder) / f"{number}.wav"
            sf.write(path, 0.1 * random.standard_normal((round(SECONDS * RATE_HZ), 2)), RATE_HZ, subtype="PCM_16")
            recordings.append(Recording(path.name, path))
        extractors = {}
        for name, speedups in WAYS.items():
            chosen = recipe.with_changes(**{"inference.speedups": list(speedups)})
            model = TrainedEmbedder(embedder, chosen, ("a", "b"), weights_hash="")
            extractors[name] = extractor_of_model(model, chosen)
        for turn in range(arguments.rounds + 1):
            for name, extractor in extractors.items():
                began = time.process_time()
                found = extract(extractor, recordings, device=torch.device("cpu"))
                for view in found.features.values():
                    bank.score(view[0])
                if turn:
                    seconds[name].append((time.process_time() - began) / arguments.clips)
    ratios = {
        name: median(plain / fast for plain, fast in zip(seconds["as published"], own, strict=True))
        for name, own in seconds.items()
    }
    print("random weights, processor time of one thread for a clip of 10 s, near and far")
    for name, own in seconds.items():
        print(f"{name:28} {median(own):6.3f} s, {ratios[name]:.2f} times as fast")
    print(f"target {TARGET:g}")
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))
    raise SystemExit(0 if ratios["all three (--fast)"] >= TARGET else 1)


if __name__ == "__main__":
    main()
