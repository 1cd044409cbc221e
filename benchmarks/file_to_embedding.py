"""From 10 s stereo WAV files to embeddings with EAT-base, two threads, against the encoder alone on ready fbanks.

    python benchmarks/file_to_embedding.py

Clips are padded to 16 s. Target: 0.9 of the encoder's throughput, with reading, front end, pooling and projection
hidden behind it or cheap.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import soundfile as sf
import torch
from nearfar.features.cache import embed_clips
from nearfar.features.representation import of_model
from reference import interleaved

from nearfar.config import load_recipe
from nearfar.data.clips import Clip, parse_clip
from nearfar.models import TrainedEmbedder, build_model

THREADS, CLIPS, BATCH, ROUNDS = 2, 8, 4, 3
CLIP_SECONDS, PADDED_SECONDS, RATE_HZ = 10.0, 16.0, 16_000


def write_clips(folder: Path) -> list[Clip]:
    """Stereo recordings of noise, 16 bit."""
    random = np.random.default_rng(0)
    clips = []
    for index in range(CLIPS):
        path = folder / f"section_00_source_train_normal_{index:04d}_noAttribute.wav"
        sf.write(path, 0.1 * random.standard_normal((round(CLIP_SECONDS * RATE_HZ), 2)), RATE_HZ, subtype="PCM_16")
        clips.append(parse_clip(path, "noise", "train"))
    return clips


def random_base() -> TrainedEmbedder:
    """An untrained EAT-base with its head, as scoring uses it."""
    recipe = load_recipe("eat-fusion").with_changes(
        **{"encoder.weights": "random:base", "audio.clip_seconds": PADDED_SECONDS}
    )
    embedder = build_model(recipe, classes=2).embedder.eval().requires_grad_(False)
    return TrainedEmbedder(embedder, recipe, ("a", "b"), weights_hash="")


def main() -> None:
    torch.set_num_threads(THREADS)
    model, device = random_base(), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder))
        waveforms = 0.1 * torch.randn(CLIPS, round(PADDED_SECONDS * RATE_HZ))
        with torch.inference_mode():
            ready = torch.split(model.embedder.frontend(waveforms), BATCH)

        @torch.inference_mode()
        def encoder_only() -> None:
            for fbank in ready:
                model.embedder.encoder(fbank)

        seconds = interleaved(
            {
                "encoder": encoder_only,
                "files": lambda: embed_clips(
                    of_model(model, model.recipe), clips, "near", batch_size=BATCH, device=device
                ),
            },
            ROUNDS,
        )
    share = median(encoder / files for encoder, files in zip(seconds["encoder"], seconds["files"], strict=True))
    alone, files = (CLIPS / median(seconds[name]) for name in ("encoder", "files"))
    print(f"encoder alone, ready fbanks   {alone:5.2f} clips/s")
    print(f"files to embeddings           {files:5.2f} clips/s, {share:.3f} of it (target 0.9)")
    result = {
        "clips_per_second_encoder": round(alone, 3),
        "clips_per_second_files": round(files, 3),
        "share_of_encoder": round(share, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
