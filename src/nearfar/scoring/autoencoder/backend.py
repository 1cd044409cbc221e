"""The baselines of the challenge as a scoring back-end: an autoencoder per machine.

A workspace holds, per machine, ``autoencoder_<machine>.safetensors`` (weights and covariances) and
``autoencoder_<machine>.json``, which is written last: if it exists, the model is complete. An interrupted training
resumes from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from nearfar.errors import InputError, NearfarError
from nearfar.files import write_json
from nearfar.frontends.slaney import HOP_SAMPLES
from nearfar.progress import record_writer
from nearfar.scoring.autoencoder.network import (
    STACKED_FRAMES,
    TrainedAutoencoder,
    load_autoencoder,
    residual_frames,
    save_autoencoder,
)
from nearfar.scoring.autoencoder.scores import mean_square_score, precisions, selective_score
from nearfar.scoring.autoencoder.settings import AutoencoderSettings
from nearfar.scoring.autoencoder.training import gather_vectors, train_autoencoder
from nearfar.scoring.backends import Backend, Features, Scorer, Scores, Workspace, as_features

FORMAT = 2
logger = logging.getLogger(__name__)


class AutoencoderScorer:
    """A trained autoencoder of one machine, and the scores of its training clips.

    Attributes:
        seconds: duration of the training.
        parameters: number of trained scalars.
    """

    def __init__(
        self,
        model: TrainedAutoencoder,
        settings: AutoencoderSettings,
        normals: Tensor,
        machine: str,
        seconds: float,
    ) -> None:
        self._model, self._settings, self._normals, self.seconds = model, settings, normals, seconds
        self.parameters = sum(parameter.numel() for parameter in model.network.parameters())
        covariances = model.textbook if settings.textbook else model.published
        self._inverses = _inverses(covariances, machine) if settings.score == "mahala" else None

    def score(self, features: Features) -> Scores:
        """Scores of clips from their log-mel frames, (clips, frames, 128) float32: (clips,) float64."""
        scores = []
        for frames in as_features(features):
            residual = residual_frames(self._model.network, frames)
            if self._inverses is None:
                scores.append(mean_square_score(residual))
            else:
                scores.append(selective_score(residual, self._inverses, textbook=self._settings.textbook))
        return np.array(scores, dtype=np.float64)

    def leave_one_out(self) -> Scores:
        """(normals,) float64: scores of the training clips themselves, which are lower than those of new clips."""
        return self.score(self._normals)


def fit_autoencoder(
    normals: Tensor, target: Tensor, settings: AutoencoderSettings, seed: int, workspace: Workspace | None
) -> Scorer:
    """Train an autoencoder on log-mel frames (clips, frames, 128) of one machine, or load the workspace's.

    Raises:
        InputError: if the clips are too short or too few, the workspace holds another model, or no covariance can
            be inverted.
        TrainingError: if a loss is not finite.
        NearfarError: if the model cannot be written.
    """
    name = "" if workspace is None else workspace.name
    if workspace is not None and is_fitted(workspace):
        weights, card = _paths(workspace)
        seconds = float(json.loads(card.read_text(encoding="utf-8"))["training"]["seconds"])
        return AutoencoderScorer(load_autoencoder(weights), settings, normals, name, seconds)
    if normals.shape[1] < STACKED_FRAMES:
        raise InputError(
            name or "recordings",
            found=f"clips of {normals.shape[1]} frames",
            expected=f"at least {STACKED_FRAMES} ({(STACKED_FRAMES - 1) * HOP_SAMPLES} samples at 16 kHz)",
            remedy="Record longer clips",
        )
    began = time.perf_counter()
    vectors = gather_vectors(zip(normals, target.tolist(), strict=True))
    source, checkpoint, tensorboard, progress = "recordings", None, None, None
    if workspace is not None:
        source, checkpoint = workspace.source, workspace.folder / f"training_{name}"
        tensorboard = workspace.tensorboard / name if workspace.tensorboard is not None else None
        progress = partial(workspace.progress, f"training autoencoder of {name}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with record_writer(tensorboard) as on_epoch:
            model, history = train_autoencoder(
                vectors, settings, seed, device=device, checkpoint=checkpoint, progress=progress, on_epoch=on_epoch
            )
    except ValueError as error:
        raise InputError(
            source,
            found=f"too few recordings for an autoencoder ({error})",
            expected="at least two vectors of five frames besides those held out",
            remedy="Add normal recordings of the machine",
        ) from None
    seconds = round(time.perf_counter() - began, 3)
    if workspace is not None and checkpoint is not None:
        facts = {"clips": len(normals), "vectors": len(vectors), "seconds": seconds}
        _save(workspace, model, facts | {"history": [asdict(record) for record in history]})
        shutil.rmtree(checkpoint, ignore_errors=True)
    return AutoencoderScorer(model, settings, normals, name, seconds)


def is_fitted(workspace: Workspace) -> bool:
    """Whether a workspace holds a complete model of its machine.

    Raises:
        InputError: if it holds a model of another recipe or other clips, or one that cannot be read.
    """
    _, path = _paths(workspace)
    if not path.is_file():
        return False
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}")
        identity = card["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path,
            found=f"a model card that cannot be read ({' '.join(str(error).split())})",
            expected=f"an autoencoder of format {FORMAT}",
            remedy="Remove it and run the same command again, or use the nearfar version that wrote it",
        ) from None
    if workspace.identity in (None, identity):
        return True
    raise InputError(
        path,
        found="an autoencoder of another recipe or other training clips",
        expected="no model, or one of this recipe and these clips",
        remedy="Choose another output folder, or remove this model",
    )


def _paths(workspace: Workspace) -> tuple[Path, Path]:
    """The file of tensors and the JSON file."""
    stem = f"autoencoder_{workspace.name}"
    return workspace.folder / f"{stem}.safetensors", workspace.folder / f"{stem}.json"


def _save(workspace: Workspace, model: TrainedAutoencoder, training: dict[str, Any]) -> None:
    weights, card = _paths(workspace)
    try:
        save_autoencoder(weights, model)
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{weights}: cannot write the model of {workspace.name} ({error}). Free some space and run the same "
            "command again; machines that are trained are not trained again."
        ) from None
    tree = {"format": FORMAT, "machine": workspace.name, "identity": workspace.identity, "training": training}
    write_json(card, tree | dict(workspace.card))


def _inverses(covariances: Tensor, machine: str) -> tuple[Tensor, Tensor]:
    """Inverse covariances of both domains, with a warning if one domain's replaces the other's."""
    try:
        inverses, replaced = precisions(covariances)
    except ValueError as error:
        raise InputError(
            machine or "recordings",
            found=f"training recordings too few or too alike ({error})",
            expected="recordings whose residuals vary in all 128 bands",
            remedy="Add normal recordings, or use ae-mse",
        ) from None
    if replaced is not None:
        used = "target" if replaced == "source" else "source"
        words = "%s: too few %s recordings for a covariance of their residuals; that of the %s domain is used"
        logger.warning(words, machine, replaced, used)
    return inverses


AUTOENCODER = Backend(
    description="{method}",
    settings=AutoencoderSettings,
    table="autoencoder",
    fit=fit_autoencoder,
    is_fitted=is_fitted,
    leaves_out=False,
    exact_leave_one_out=lambda settings: False,
    per_machine=True,
    source="slaney",
    domain_generalisation=lambda settings: settings.domain_words,
    fit_identity=lambda settings: {
        key: value for key, value in settings.identity().items() if key not in ("score", "textbook")
    },
)
