"""From folders of recordings to a pre-trained encoder in a folder of its own, in the published layout.

The folder holds ``config.json`` and ``model.safetensors`` (see :func:`nearfar.load_encoder`), ``README.md`` (the
model card), ``recipe.toml``, ``environment.json``, ``log.jsonl``, attributions, and ``pretraining.json``, which is
written last: where it is, training has finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nearfar.data.recordings import AudioFile, find_recordings, recordings_key
from nearfar.encoders import encoder_hash, load_encoder, parameter_count, save_encoder
from nearfar.encoders.eat import EAT
from nearfar.encoders.weights import WEIGHTS_FILE
from nearfar.environment import environment
from nearfar.errors import InputError
from nearfar.files import write_json, write_text
from nearfar.pretraining.crops import Crops
from nearfar.pretraining.model_card import Training, model_card
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.pretraining.training import LOG_FILE, PretrainRecord, build_student, pretrain
from nearfar.progress import Progress, silent
from nearfar.training.checkpoint import CHECKPOINT_FILE, Identity
from nearfar.training.finetune import is_main_process

FINISHED_FILE = "pretraining.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sources:
    folders: tuple[Path, ...]
    recordings: list[AudioFile]
    licences: tuple[str, ...]
    start_hash: str


def pretrain_encoder(
    recipe: PretrainRecipe,
    folders: Sequence[Path],
    out: Path,
    *,
    licences: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Pre-train an encoder on all recordings of some folders, or go on where a killed training stopped.

    Args:
        recipe: what to do.
        folders: searched for WAV, FLAC and Ogg files; every channel is heard on its own.
        out: the encoder's folder.
        licences: of the recordings, for the model card.
        progress: called after each step.

    Returns:
        What ``pretraining.json`` holds, or None on processes that are not the first.

    Raises:
        InputError: if there are no recordings, one cannot be read, the starting encoder does not load, or ``out``
            holds another training.
        TrainingError: if the training fails or collapses.
        NearfarError: if something cannot be written.
    """
    recordings = find_recordings(folders)
    started_from = load_encoder(_start_name(recipe), revision=recipe.encoder.revision)
    identity = Identity(recipe.model_key(), recordings_key(recordings), encoder_hash(started_from))
    if (finished := _finished(out, identity)) is not None:
        logger.warning("%s is already there; nothing is trained", out)
        return finished if is_main_process() else None
    student = build_student(recipe, started_from)
    crops = Crops(
        recordings,
        crop_seconds=recipe.crop_seconds,
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
        masking=recipe.masking,
        config=started_from.config,
    )
    if is_main_process():
        write_text(out / "recipe.toml", recipe.to_toml())
        write_json(out / "environment.json", environment())
    encoder = pretrain(recipe, student, crops, out, identity=identity, progress=partial(progress, "pre-training"))
    if encoder is None:
        return None
    sources = _Sources(tuple(folders), recordings, tuple(licences), str(identity.base_hash))
    return _save(recipe, encoder, sources, identity, out)


def _start_name(recipe: PretrainRecipe) -> str:
    """A random start without a seed of its own takes the recipe's."""
    name = recipe.encoder.weights
    return f"{name}:{recipe.seed}" if name.startswith("random:") and name.count(":") == 1 else name


def _finished(out: Path, identity: Identity) -> dict[str, Any] | None:
    path = out / FINISHED_FILE
    if not path.is_file():
        return None
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, what in (("model_key", "recipe"), ("data_key", "recordings"), ("base_hash", "starting encoder")):
        if facts.get(key) != getattr(identity, key):
            raise InputError(
                out,
                found=f"an encoder that was trained with another {what}",
                expected=f"an empty folder, or one of the same {what}",
                remedy="Give another output folder",
            )
    return facts


def _save(
    recipe: PretrainRecipe, encoder: EAT, sources: _Sources, identity: Identity, out: Path
) -> dict[str, Any]:
    save_encoder(encoder, out)
    lines = (out / LOG_FILE).read_text(encoding="utf-8").splitlines()
    first, last = (PretrainRecord(**json.loads(line)) for line in (lines[0], lines[-1]))
    with (out / WEIGHTS_FILE).open("rb") as file:
        file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    training = Training(
        recipe=recipe,
        folders=sources.folders,
        recordings=sources.recordings,
        licences=sources.licences,
        attributions=_copy_attributions(sources.folders, out),
        start_hash=sources.start_hash,
        encoder_hash=encoder_hash(encoder),
        file_hash=file_hash,
        data_key=identity.data_key,
        parameters=parameter_count(encoder),
        first=first,
        last=last,
    )
    write_text(out / "README.md", model_card(training))
    facts = {
        **asdict(identity),
        "encoder_hash": training.encoder_hash,
        "file_sha256": file_hash,
        "steps": recipe.training.steps,
        "seconds": round(sum(json.loads(line)["seconds"] for line in lines), 3),
        "wait_seconds": round(sum(json.loads(line)["wait_seconds"] for line in lines), 3),
        "recordings": len(sources.recordings),
        "loss": last.loss,
    }
    write_json(out / FINISHED_FILE, facts)
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return facts


def _copy_attributions(folders: Sequence[Path], out: Path) -> list[str]:
    names = []
    for folder in folders:
        for path in sorted(folder.glob("ATTRIBUTION*")):
            name = f"{path.stem}-{folder.name}{path.suffix}"
            shutil.copyfile(path, out / name)
            names.append(name)
    return names
