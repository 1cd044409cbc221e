"""Memory of one optimiser step of EAT-base at 16 s and batch 16 on a CPU, full fine-tuning, float32.

    python benchmarks/training_memory.py

Target: below 24 GB, by slices of four samples and activation checkpointing. Linux only, as it reads the peak from
/proc. Takes minutes.
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
from nearfar.data.clips import parse_clip
from nearfar.training.finetune import finetune
from nearfar.training.labels import label_samples

THREADS, CLIPS, RATE_HZ = 2, 8, 16_000
LIMIT_GB = 24.0


def main() -> None:
    torch.set_num_threads(THREADS)
    recipe = load_recipe("eat-fusion").with_changes(
        **{
            "encoder.weights": "random:base",
            "training.steps": 1,
            "training.warmup_steps": 0,
            "training.micro_batch_size": 4,
            "training.activation_checkpointing": True,
        }
    )
    assert (recipe.audio.clip_seconds, recipe.training.batch_size) == (16.0, 16)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        clips = []
        for index in range(CLIPS):
            path = Path(folder) / f"section_00_source_train_normal_{index:04d}_noAttribute.wav"
            sf.write(path, 0.1 * random.standard_normal((10 * RATE_HZ, 2)), RATE_HZ, subtype="PCM_16")
            clips.append(parse_clip(path, "noise", "train"))
        began = time.perf_counter()
        finetune(recipe, label_samples(clips), Path(folder) / "model", data_key="noise")
        seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024**2
    print(f"one step of {recipe.training.batch_size} samples of {recipe.audio.clip_seconds:g} s")
    print(f"peak memory of the process  {peak:6.2f} GB, {peak / LIMIT_GB:.2f} of the {LIMIT_GB:g} GB allowed")
    print(f"with saving the model       {seconds:6.1f} s")
    print(
        json.dumps(
            {"peak_gb": round(peak, 2), "fraction_of_limit": round(peak / LIMIT_GB, 3), "seconds": round(seconds)}
        )
    )


if __name__ == "__main__":
    main()
