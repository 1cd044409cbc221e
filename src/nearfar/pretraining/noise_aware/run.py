"""Pre-training of noise-aware layers from folders of recordings to an encoder folder.

The folder holds the files of an encoder with noise-aware layers (see :mod:`nearfar.encoders.noise_aware`),
``README.md`` (the model card), ``recipe.toml``, ``environment.json``, ``log.jsonl``, attributions, and
``pretraining.json``, which is written last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nearfar.checkpoint import CHECKPOINT_FILE, Identity
from nearfar.config.validation import digest
from nearfar.data.recordings import AudioFile, find_recordings, recordings_key
from nearfar.encoders import encoder_hash, load_encoder, parameter_count
from nearfar.encoders.noise_aware import LAYERS_WEIGHTS, NoiseAwareEAT, save_noise_aware
from nearfar.encoders.weights import seeded_start
from nearfar.environment import environment
from nearfar.executors import is_main_process
from nearfar.extras import require_extras
from nearfar.files import file_sha256, write_json, write_text
from nearfar.pretraining.folder import FINISHED_FILE, copied_attributions, data_lines, finished_before
from nearfar.pretraining.noise_aware.batches import RoomBatches
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe
from nearfar.pretraining.noise_aware.training import NoiseAwareLearner, train_layers
from nearfar.progress import Progress, silent
from nearfar.training.log import LOG_FILE, logged_total, read_log

HELD_OUT = 10
"""Every tenth recording is left out of training, for the errors in the model card."""

TEST_BATCHES, TEST_ROWS = 16, 8

logger = logging.getLogger(__name__)


def pretrain_layers(
    recipe: NoiseAwareRecipe,
    folders: Sequence[Path],
    out: Path,
    *,
    noises: Sequence[Path] = (),
    licences: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Pre-train the noise-aware layers of an encoder on recordings in simulated rooms.

    Args:
        folders: of recordings of machines, or of any sound, with little noise.
        out: the encoder's folder.
        noises: folders of recordings of noise; by default those of ``folders``.
        licences: of the recordings, for the model card.

    Returns:
        The content of ``pretraining.json``, or None on processes that are not the main one.

    Raises:
        InputError: if there are no recordings, one cannot be read, the encoder does not load, ``out`` holds
            another training, or an extra (``train``, ``simulate``) is not installed.
        TrainingError: if the training fails.
        NearfarError: if a file cannot be written.
    """
    require_extras("pre-training of noise-aware layers", "train", "simulate")
    machines = find_recordings(folders)
    noise_files = find_recordings(noises) if noises else machines
    base = load_encoder(seeded_start(recipe.encoder.weights, recipe.seed), revision=recipe.encoder.revision)
    data_key = digest([recordings_key(machines), recordings_key(noise_files)])
    identity = Identity(recipe.model_key(), data_key, encoder_hash(base))
    if (finished := finished_before(out, identity)) is not None:
        logger.warning("%s already holds this encoder; nothing is trained", out)
        return finished if is_main_process() else None
    if is_main_process():
        write_text(out / "recipe.toml", recipe.to_toml())
        write_json(out / "environment.json", environment())
    learner = NoiseAwareLearner(NoiseAwareEAT(base, recipe.layers), recipe)
    (used, test), (used_noises, test_noises) = _split(machines), _split(noise_files)
    encoder = train_layers(
        recipe,
        learner,
        RoomBatches(used, used_noises, recipe),
        out,
        identity=identity,
        progress=partial(progress, "pre-training"),
    )
    if encoder is None:
        return None
    save_noise_aware(encoder, out)
    facts = {
        **asdict(identity),
        "encoder_hash": encoder_hash(encoder),
        "file_sha256": file_sha256(out / LAYERS_WEIGHTS),
        "steps": recipe.training.steps,
        "seconds": logged_total(out, "seconds"),
        "wait_seconds": logged_total(out, "wait_seconds"),
        "recordings": len(machines),
        "loss": read_log(out / LOG_FILE)[-1]["loss"],
        "test": errors_in_unused_rooms(
            learner, RoomBatches(test, test_noises, recipe, first_room=recipe.rooms.count)
        ),
    }
    every = [*folders, *(folder for folder in noises if folder not in folders)]
    data = data_lines([*machines, *noise_files], every, licences) + copied_attributions(every, out)
    write_text(out / "README.md", _model_card(recipe, data, facts, parameter_count(encoder.layers)))
    write_json(out / FINISHED_FILE, facts)
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return facts


@torch.inference_mode()
def errors_in_unused_rooms(learner: NoiseAwareLearner, batches: RoomBatches) -> dict[str, float]:
    """Mean squared errors of patch tokens and CLS, with the layers and without, in rooms of ``batches``."""
    learner.eval()
    totals = dict.fromkeys(("token", "utterance", "token_without", "utterance_without"), 0.0)
    for step in range(TEST_BATCHES):
        batch = batches.rows(step, 0, TEST_ROWS)
        found, without = (
            learner(batch.noisy, batch.wanted),
            learner.errors_without_layers(batch.noisy, batch.wanted),
        )
        for name, value in zip(totals, (*found, *without), strict=True):
            totals[name] += float(value) / TEST_BATCHES
    return totals


def _split(recordings: Sequence[AudioFile]) -> tuple[list[AudioFile], list[AudioFile]]:
    """Recordings for training and for the test; with few recordings all are for both."""
    if len(recordings) < HELD_OUT:
        return list(recordings), list(recordings)
    test = list(recordings[HELD_OUT - 1 :: HELD_OUT])
    return [file for file in recordings if file not in test], test


def _model_card(recipe: NoiseAwareRecipe, data: Sequence[str], facts: Mapping[str, Any], parameters: int) -> str:
    """The README.md beside the weights, in Markdown."""
    rooms, training, test = recipe.rooms, recipe.training, facts["test"]
    lines = "\n".join(data)
    return f"""---
library_name: nearfar
tags: [audio, noise-aware, eat]
---

# {recipe.name}

{recipe.description or "An EAT encoder with noise-aware layers"}. {parameters / 1e6:.2f} M parameters in \
layers of cross-attention from near to far tokens, after every block of a frozen encoder. Use the folder as \
`encoder.weights` of a recipe with `encoder.family = "eat-noise-aware"` and the view `pair`, such as \
`frozen-noise-aware`.

## Data

{lines}

## Training

- {training.steps} steps of {training.batch_size} samples of {recipe.crop_seconds:g} s in {rooms.count} simulated \
rooms; signal-to-noise ratio {rooms.snr_db[0]:g} to {rooms.snr_db[1]:g} dB; seed {recipe.seed}
- frozen encoder: `{recipe.encoder.weights}` (weights {facts["base_hash"][:16]})
- the whole recipe is in `recipe.toml`, versions and command in `environment.json`, every step in `log.jsonl`

## Measured

Mean squared error to the tokens of the wanted signal, in rooms that training did not use, with recordings of \
which every {HELD_OUT}th was left out of training (simulated, {TEST_BATCHES * TEST_ROWS} samples):

| | with the layers | encoder alone, near |
|---|---:|---:|
| patch tokens | {test["token"]:.4f} | {test["token_without"]:.4f} |
| CLS | {test["utterance"]:.4f} | {test["utterance_without"]:.4f} |

## Identity

- `{LAYERS_WEIGHTS}`: SHA-256 {facts["file_sha256"]}
- encoder: {facts["encoder_hash"]}
- recordings: {facts["data_key"]} (names, sizes, lengths)
"""
