"""Memory of scoring 10,000 short test clips with the tiny encoder, above that of process and model.

    python benchmarks/scoring_memory.py

Target: at most 500 MB. Linux only, as it reads the peak from /proc.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from nearfar.config import load_recipe
from nearfar.data.layouts import read_dataset
from nearfar.models import TrainedEmbedder, build_model
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import extractor_of_model
from nearfar.pipeline.scoring import score_machines, tested_groups

THREADS, TEST_CLIPS, TRAIN_CLIPS, FILES = 1, 10_000, 1_000, 8
CLIP_SECONDS, RATE_HZ = 0.5, 16_000
LIMIT_MB = 500


def write_machine(root: Path) -> None:
    """One machine whose clips are links to a few recordings of noise."""
    random = np.random.default_rng(0)
    for index in range(FILES):
        sound = 0.1 * random.standard_normal((round(CLIP_SECONDS * RATE_HZ), 2))
        sf.write(root / f"{index}.wav", sound, RATE_HZ, subtype="PCM_16")
    for split, clips in (("train", TRAIN_CLIPS), ("test", TEST_CLIPS)):
        folder = root / "data" / "noise" / split
        folder.mkdir(parents=True)
        for index in range(clips):
            # Four digits number 10,000 clips; sections could number more.
            name = f"section_00_source_{split}_normal_{index:04d}_noAttribute.wav"
            (folder / name).symlink_to(root / f"{index % FILES}.wav")


def memory_mb(field: str) -> float:
    """VmRSS (current) or VmHWM (maximum since the last reset) of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    torch.set_num_threads(THREADS)
    recipe = load_recipe("tiny-fusion").with_changes(**{"audio.clip_seconds": CLIP_SECONDS})
    embedder = build_model(recipe, classes=2).embedder.eval().requires_grad_(False)
    model = TrainedEmbedder(embedder, recipe, ("a", "b"), weights_hash="")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_machine(root)
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        began = time.perf_counter()
        dataset, extractor, cache = (
            read_dataset(root / "data"),
            extractor_of_model(model, recipe),
            FeatureCache(root / "store"),
        )
        (scored,), _, _ = score_machines(
            recipe, dataset, tested_groups(dataset), lambda clips: cache.get(extractor, clips), root / "store"
        )
        seconds = time.perf_counter() - began
        above = memory_mb("VmHWM") - before
    assert len(scored.test.names) == TEST_CLIPS
    print(f"process and model       {before:5.0f} MB")
    print(
        f"scoring {TEST_CLIPS:6d} clips    {above:5.0f} MB more, {above / LIMIT_MB:.2f} of {LIMIT_MB} MB allowed"
    )
    print(f"                        {seconds:5.0f} s")
    result = {
        "mb_before": round(before),
        "mb_above": round(above),
        "fraction_of_limit": round(above / LIMIT_MB, 3),
    }
    print(json.dumps(result | {"seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
