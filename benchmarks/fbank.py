"""The batched front end on 16 s clips, two threads, against one clip at a time as EAT's own code does it.

python benchmarks/fbank.py
"""

from __future__ import annotations

import json
from statistics import median

import torch
from reference import interleaved, plain_fbank

from nearfar.frontends.kaldi import KaldiFbank

THREADS, BATCH, SAMPLES, ROUNDS = 2, 16, 256_000, 15


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(THREADS)
    fbank = KaldiFbank()
    clips = 0.1 * torch.randn(BATCH, SAMPLES)
    frames = plain_fbank(clips[0]).shape[0]
    difference = (fbank(clips)[0, 0, :frames] - plain_fbank(clips[0])).abs().max().item()
    assert difference < 5e-4, f"the reference differs by {difference}"
    seconds = interleaved(
        {
            "plain": lambda: [plain_fbank(clip) for clip in clips],
            "batch": lambda: fbank(clips),
            "single": lambda: [fbank(clip[None]) for clip in clips],
        },
        ROUNDS,
    )
    milliseconds = {name: 1e3 * median(values) / BATCH for name, values in seconds.items()}
    speedup = median(p / b for p, b in zip(seconds["plain"], seconds["batch"], strict=True))
    print(f"clip by clip, plain    {milliseconds['plain']:6.2f} ms per clip")
    print(f"clip by clip, nearfar  {milliseconds['single']:6.2f} ms per clip")
    print(f"in a batch of {BATCH}       {milliseconds['batch']:6.2f} ms per clip, {speedup:.2f} times as fast")
    result = {f"milliseconds_{name}": round(value, 3) for name, value in milliseconds.items()}
    print(json.dumps({**result, "speedup": round(speedup, 3)}))


if __name__ == "__main__":
    main()
