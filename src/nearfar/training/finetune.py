"""Fine-tuning of a recipe's network on composite labels.

Section 2.3 of the report: AdamW, all parameters (full) or adapters, pooling and head (LoRA), ArcFace on composite
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn

from nearfar.checkpoint import CHECKPOINT_FILE, Identity
from nearfar.config import Recipe
from nearfar.encoders import stochastic_depth
from nearfar.errors import NearfarError
from nearfar.models import EmbedderWithLoss, build_model, save_model
from nearfar.progress import StepProgress
from nearfar.training.batches import Batch, Batches, depth_generator
from nearfar.training.engine import (
    Step,
    denormals_as_zero,
    learning_rate,
    logged_total,
    make_accelerator,
    parameter_groups,
    train,
)
from nearfar.training.labels import LabelledSamples


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A line of ``log.jsonl``; see :class:`nearfar.training.engine.Step`."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@denormals_as_zero()
def finetune(
    recipe: Recipe,
    labelled: LabelledSamples,
    folder: Path,
    *,
    data_key: str,
    progress: StepProgress | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> bool:
    """Train the network of a recipe into a model folder, from the start or from its last checkpoint.

    Args:
        recipe: resolved, so ``audio.clip_seconds`` is a number.
        labelled: training samples and classes.
        folder: the model folder; holds ``checkpoint.safetensors`` and ``log.jsonl`` while training and the model
            (see :mod:`nearfar.models.folder`) at the end.
        data_key: hash of the training data; a checkpoint of other data is refused.
        progress: called after each step, on the main process.
        on_step: called with each step's record, on the main process.

    Returns:
        Whether this is the main process of a distributed launch; the others should stop.

    Raises:
        TrainingError: if the loss or its gradient is not finite, with the step and the files of the batch.
        InputError: if a recording cannot be used, or the folder holds another training's checkpoint.
        NearfarError: if a checkpoint or the model cannot be written.
    """
    accelerator = make_accelerator(recipe.training)
    network = build_model(recipe, len(labelled.classes)).train()
    task = _FineTuning(recipe, accelerator, network.to(accelerator.device), _batches(recipe, labelled))
    groups = parameter_groups(network, recipe.training.weight_decay)
    train(
        task,
        recipe.training,
        accelerator,
        torch.optim.AdamW(groups, lr=recipe.training.learning_rate, betas=recipe.training.betas),
        folder,
        Identity(recipe.model_key(), data_key, network.base_hash),
        progress=progress,
        on_step=on_step if accelerator.is_main_process else None,
        checkpoint_at_end=False,
    )
    if accelerator.is_main_process:
        facts = {"data_key": data_key, "processes": accelerator.num_processes}
        _save(folder, network.cpu(), recipe, labelled, facts)
    # Once this returns, every process finds the whole model in the folder.
    accelerator.wait_for_everyone()
    return bool(accelerator.is_main_process)


def _save(
    folder: Path, network: EmbedderWithLoss, recipe: Recipe, labelled: LabelledSamples, facts: dict[str, Any]
) -> None:
    facts |= {"seconds": logged_total(folder, "seconds"), "steps": recipe.training.steps}
    facts["samples"] = len(labelled.samples)
    try:
        save_model(folder, network, recipe, labelled.classes, facts)
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{folder}: cannot write the trained model ({error}); its last checkpoint is kept. "
            "Free some space and run the same command again; it continues from there."
        ) from None
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _batches(recipe: Recipe, labelled: LabelledSamples) -> Batches:
    assert not isinstance(recipe.audio.clip_seconds, str), "audio.clip_seconds must be resolved to a number"
    return Batches(
        labelled,
        recipe.augmentation,
        padded_samples=round(recipe.audio.clip_seconds * recipe.audio.sample_rate_hz),
        batch_size=recipe.training.batch_size,
        seed=recipe.seed,
        audio=recipe.audio,
        view_settings=recipe.view_settings(),
        target_share=recipe.training.target_share,
    )


@dataclass(frozen=True)
class _FineTuning:
    """The :class:`nearfar.training.engine.Task` of fine-tuning."""

    recipe: Recipe
    accelerator: Accelerator
    module: EmbedderWithLoss
    batches: Batches
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.recipe.seed

    def batch(self, step: int, first: int, last: int) -> Batch:
        batch = self.batches.rows(step, first, last)
        # Drawn for the rows of all processes, so that the factors do not depend on the number of processes.
        branch_keep = stochastic_depth(
            self.recipe.encoder.drop_path,
            self.module.embedder.encoder.depth,
            self.recipe.training.batch_size,
            depth_generator(self.recipe.seed, step),
        )
        return replace(batch, branch_keep=None if branch_keep is None else branch_keep[:, :, first:last])

    def rate(self, step: int) -> float:
        return learning_rate(step, self.recipe.training)

    def loss(self, module: nn.Module, part: Batch, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(self.accelerator.device)

        with self.accelerator.autocast():
            losses = module(
                moved(part.waveform),
                moved(part.samples),
                moved(part.labels),
                other_labels=moved(part.other_labels),
                mixup_lambda=moved(part.mixup_lambda),
                spec_mask=moved(part.spec_mask),
                branch_keep=moved(part.branch_keep),
            )
        loss = losses.sum() / rows
        return loss, {"loss": loss}

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""

    def record(self, step: Step) -> StepRecord:
        return StepRecord(step.step, step.means["loss"], step.learning_rate, step.gradient_norm, step.seconds)
