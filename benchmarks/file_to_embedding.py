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
from reference import interleaved

from nearfar.config import load_recipe
from nearfar.data.clips import Clip, parse_clip
from nearfar.models import TrainedEmbedder, build_model
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import extractor_of_model
from nearfar.pipeline.windows import Recording

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
        **{
            "encoder.weights": "random:base",
            "audio.clip_seconds": PADDED_SECONDS,
            "scoring.views": ["near"],
            "scoring.batch_size": BATCH,
        }
    )
    embedder = build_model(recipe, classes=2).embedder.eval().requires_grad_(False)
    return TrainedEmbedder(embedder, recipe, ("a", "b"), weights_hash="")


def main() -> None:
    torch.set_num_threads(THREADS)
    model, device = random_base(), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        recordings = [Recording.of_clip(clip) for clip in write_clips(Path(folder))]
        extractor = extractor_of_model(model, model.recipe)
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
                "files": lambda: extract(extractor, recordings, device=device),
            },
            ROUNDS,
        )
    fraction = median(one / other for one, other in zip(seconds["encoder"], seconds["files"], strict=True))
    encoder, files = (CLIPS / median(seconds[name]) for name in ("encoder", "files"))
    print(f"encoder alone, ready fbanks   {encoder:5.2f} clips/s")
    print(f"files to embeddings           {files:5.2f} clips/s, {fraction:.3f} of it (target 0.9)")
    result = {
        "clips_per_second_encoder": round(encoder, 3),
        "clips_per_second_files": round(files, 3),
        "fraction_of_encoder": round(fraction, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
