"""The challenge's baselines as systems: an autoencoder per machine, kept, used again, and scored.

A model folder holds, per machine, ``autoencoder_<machine>.safetensors`` (weights and covariances) and
``autoencoder_<machine>.json``, which is written last, so its presence means that the machine's model is whole. A
killed training resumes with the first machine that has none, from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor

import nearfar
from nearfar.config import Recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import Clip
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.data.prefetch import prefetched
from nearfar.errors import InputError, NearfarError
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.files import write_json
from nearfar.frontends.slaney import HOP_SAMPLES, slaney_log_mel
from nearfar.progress import Progress, record_writer, silent
from nearfar.scoring.autoencoder.network import (
    STACKED_FRAMES,
    Autoencoder,
    Covariances,
    TrainedAutoencoder,
    load_autoencoder,
    residual_frames,
    save_autoencoder,
)
from nearfar.scoring.autoencoder.scores import Precisions, mean_square_score, precisions, selective_score
from nearfar.scoring.autoencoder.training import EpochRecord, Vectors, gather_vectors, train_autoencoder
from nearfar.thresholds.runs import ScoredMachine
from nearfar.training.engine import is_main_process

FORMAT = 1
logger = logging.getLogger(__name__)


def is_trained(recipe: Recipe, dataset: Dataset, folder: Path) -> bool:
    """Whether a model folder holds a whole autoencoder of every machine that has test clips.

    Raises:
        InputError: if it holds one of another recipe or of other training clips, or the recipe's channels are not
            the near channel alone.
    """
    for name, channels in (("training", recipe.training.channels), ("scoring", recipe.scoring.channels)):
        if channels != ("near",):
            raise InputError(
                f"{name}.channels",
                found=f"{list(channels)} in the autoencoder recipe {recipe.name}",
                expected='["near"], which is all that the baselines hear',
                remedy="Correct the recipe",
            )
    return not _untrained(recipe, dataset, folder)


def train_or_reuse(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    progress: Progress = silent,
    tensorboard: Path | None = None,
) -> bool:
    """Make sure that ``folder`` holds an autoencoder of every machine that has test clips.

    Whole models of the same recipe and clips are used again. The training curve of every other machine is written
    into a folder of ``tensorboard``.

    Returns:
        whether this is the main process of a distributed launch; the others should stop.

    Raises:
        InputError: as :func:`is_trained`; if a recording cannot be used; or if there is something to train and
            this is one process of several.
        TrainingError: if a loss is not finite.
        NearfarError: if a model cannot be written.
    """
    missing = _untrained(recipe, dataset, folder)
    is_main = is_main_process()
    if missing and (processes := PartialState().num_processes) > 1:
        raise InputError(
            recipe.name,
            found=f"an autoencoder to train in a launch of {processes} processes",
            expected="one process, as an autoencoder is too small to share out",
            remedy="Run it without accelerate launch first (a launch then uses its models), or leave it out",
        )
    for machine in missing:
        with record_writer(None if tensorboard is None else tensorboard / machine) as on_epoch:
            _train_machine(recipe, dataset, machine, folder, progress, on_epoch)
    return is_main


def score_system(
    recipe: Recipe, dataset: Dataset, folder: Path, *, progress: Progress = silent
) -> tuple[ScoredMachine, ...]:
    """Anomaly scores of every test clip, and of the training clips for thresholds.

    Args:
        recipe: ``autoencoder.score`` and ``autoencoder.textbook`` are read.
        dataset: the data.
        folder: with a whole model of every machine that has test clips.
        progress: called with the task ``scoring clips``.

    Raises:
        InputError: if a recording or a model cannot be used, or a covariance is singular.
    """
    groups = [
        (
            machine,
            section,
            _of_section(dataset.train(machine), section),
            _of_section(dataset.test(machine), section),
        )
        for machine in _tested(dataset)
        for section in sorted({clip.section for clip in dataset.test(machine)})
    ]
    total, done = sum(len(train) + len(test) for *_, train, test in groups), 0
    scored = []
    for machine, section, train, test in groups:
        model = load_autoencoder(_files(folder, machine)[0])
        scores = np.empty(len(test) + len(train))
        for index, score in enumerate(_clip_scores(recipe, model, machine, (*test, *train))):
            scores[index] = score
            done += 1
            progress("scoring clips", done, total)
        names = tuple(clip.name for clip in test)
        of_test = MachineScores(machine, section, names, scores[: len(test)])
        scored.append(ScoredMachine(of_test, scores[len(test) :]))
    return tuple(scored)


def parameter_count(dataset: Dataset) -> int:
    """Trainable parameters of the autoencoders of all machines that have test clips."""
    one = sum(parameter.numel() for parameter in Autoencoder().parameters())
    return one * len(_tested(dataset))


def training_seconds(dataset: Dataset, folder: Path) -> float:
    """How long the autoencoders of all machines that have test clips took to train, whenever that was."""
    cards = [_files(folder, machine)[1] for machine in _tested(dataset)]
    return float(sum(json.loads(card.read_text(encoding="utf-8"))["training"]["seconds"] for card in cards))


def _tested(dataset: Dataset) -> list[str]:
    return [machine for machine in dataset.machines if dataset.test(machine)]


def _untrained(recipe: Recipe, dataset: Dataset, folder: Path) -> list[str]:
    return [machine for machine in _tested(dataset) if not _has_model(recipe, dataset, machine, folder)]


def _of_section(clips: Sequence[Clip], section: str) -> list[Clip]:
    return [clip for clip in clips if clip.section == section]


# --- one machine ------------------------------------------------------------------------------------------------


def _train_machine(
    recipe: Recipe,
    dataset: Dataset,
    machine: str,
    folder: Path,
    progress: Progress,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> None:
    clips = dataset.train(machine)
    began = time.perf_counter()
    vectors = _vectors(clips, recipe.audio.near_channel)
    checkpoint = folder / f"training_{machine}"
    try:
        model, history = train_autoencoder(
            vectors,
            recipe.autoencoder,
            recipe.seed,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            checkpoint=checkpoint,
            progress=lambda done, total: progress(f"training autoencoder of {machine}", done, total),
            on_epoch=on_epoch,
        )
    except ValueError as error:
        raise InputError(
            dataset.root / machine / "train",
            found=f"too few recordings for an autoencoder ({error})",
            expected="at least two vectors of five frames besides those held out",
            remedy="Add normal recordings of the machine",
        ) from None
    training = {
        "data_key": clips_key(clips),
        "clips": len(clips),
        "vectors": len(vectors),
        "seconds": round(time.perf_counter() - began, 3),
        "history": [asdict(record) for record in history],
    }
    _save(folder, machine, model, recipe, training)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _vectors(clips: Sequence[Clip], near: int) -> Vectors:
    domains = (clip.domain == "target" for clip in clips)
    return gather_vectors(zip(_log_mels(clips, near), domains, strict=True))


def _log_mels(clips: Sequence[Clip], near: int) -> Iterator[Tensor]:
    """(frames, 128) float32 of each clip's near channel, in order."""
    return prefetched(partial(_log_mel, near=near), clips, threads=2, ahead=8)


def _log_mel(clip: Clip, near: int) -> Tensor:
    log_mel = slaney_log_mel(torch.from_numpy(read_waveform(clip.path, ("near",), near=near)[0]))
    if len(log_mel) < STACKED_FRAMES:
        samples = (STACKED_FRAMES - 1) * HOP_SAMPLES
        raise InputError(
            clip.path,
            found=f"a clip of {len(log_mel)} frames",
            expected=f"at least {STACKED_FRAMES} ({samples} samples at 16 kHz)",
            remedy="Take it out, or record longer clips",
        )
    return log_mel


def _clip_scores(
    recipe: Recipe, model: TrainedAutoencoder, machine: str, clips: Sequence[Clip]
) -> Iterator[float]:
    settings = recipe.autoencoder
    residuals = (
        residual_frames(model.network, log_mel) for log_mel in _log_mels(clips, recipe.audio.near_channel)
    )
    if settings.score == "mse":
        yield from map(mean_square_score, residuals)
        return
    inverses = _precisions(model.textbook if settings.textbook else model.published, machine)
    for residual in residuals:
        yield selective_score(residual, inverses, textbook=settings.textbook)


def _precisions(covariances: Covariances, machine: str) -> Precisions:
    try:
        inverses = precisions(covariances)
    except ValueError as error:
        raise InputError(
            machine,
            found=f"training recordings too few or too alike ({error})",
            expected="recordings whose residuals vary in all 128 bands",
            remedy="Add normal recordings, or use ae-mse",
        ) from None
    if inverses.replaced is not None:
        other = "target" if inverses.replaced == "source" else "source"
        logger.warning(
            "%s: too few %s recordings for a covariance of their residuals; the %s domain's stands in",
            machine,
            inverses.replaced,
            other,
        )
    return inverses


# --- on disk -----------------------------------------------------------------------------------------------------


def _files(folder: Path, machine: str) -> tuple[Path, Path]:
    """Tensors and card."""
    return folder / f"autoencoder_{machine}.safetensors", folder / f"autoencoder_{machine}.json"


def _save(folder: Path, machine: str, model: TrainedAutoencoder, recipe: Recipe, training: dict[str, Any]) -> None:
    weights, card = _files(folder, machine)
    try:
        save_autoencoder(weights, model)
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{weights}: cannot write the model of {machine} ({error}). Free some space and run the same command "
            "again; machines that are trained are not trained again."
        ) from None
    facts = {"format": FORMAT, "nearfar": nearfar.__version__, "machine": machine}
    write_json(card, facts | {"training": training, "recipe": recipe.model_dump(mode="json")})


def _has_model(recipe: Recipe, dataset: Dataset, machine: str, folder: Path) -> bool:
    _, path = _files(folder, machine)
    if not path.is_file():
        return False
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}")
        trained, data_key = Recipe.model_validate(card["recipe"]), card["training"]["data_key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path,
            found=f"a model card that cannot be read ({' '.join(str(error).split())})",
            expected=f"an autoencoder of format {FORMAT}",
            remedy="Remove it and run the same command again, or use the nearfar version that wrote it",
        ) from None
    if (trained.model_key(), data_key) == (recipe.model_key(), clips_key(dataset.train(machine))):
        return True
    raise InputError(
        path,
        found=f"an autoencoder of another recipe or other training clips (trained as {trained.name})",
        expected=f"none, or one of {recipe.name} on this data",
        remedy="Give another --out folder, or remove this model",
    )
