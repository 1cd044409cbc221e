"""Fine-tuning of a recipe's network on composite labels.

Section 2.3 of the report: AdamW, all parameters (full) or adapters, pooling and head (LoRA), ArcFace on composite
labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nearfar.checkpoint import CHECKPOINT_FILE, Identity
from nearfar.config import Recipe
from nearfar.encoders import stochastic_depth
from nearfar.errors import NearfarError
from nearfar.models import EmbedderWithLoss, build_model, save_model
from nearfar.progress import StepProgress
from nearfar.training import engine
from nearfar.training.batches import Batch, Batches, depth_generator
from nearfar.training.labels import LabelledSamples
from nearfar.training.log import logged_total


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A line of ``log.jsonl``; see :class:`nearfar.training.engine.Step`."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@engine.denormals_as_zero()
def finetune(
    recipe: Recipe,
    labelled: LabelledSamples,
    folder: Path,
    *,
    data_key: str,
    progress: StepProgress | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> None:
    """Train the network of a recipe into a model folder, from the start or from its last checkpoint.

    Args:
        recipe: resolved, so ``audio.clip_seconds`` is a number.
        folder: the model folder, with ``checkpoint.safetensors`` and ``log.jsonl`` while training and the model
            (see :mod:`nearfar.models.folder`) at the end.
        data_key: hash of the training data; a checkpoint of other data is refused.
        progress: called after each step, on the main process.
        on_step: called with each step's record, on the main process.

    Raises:
        TrainingError: if the loss or its gradient is not finite, with the step and the files of the batch.
        InputError: if a recording cannot be used, or the folder holds another training's checkpoint.
        NearfarError: if a checkpoint or the model cannot be written.
    """
    training, accelerator = recipe.training, engine.make_accelerator(recipe.training)
    network = build_model(recipe, len(labelled.classes)).train().to(accelerator.device)
    groups = engine.parameter_groups(network, training.weight_decay)
    engine.train(
        _FineTuning(accelerator, network, Batches(labelled, recipe), recipe.seed, StepRecord, recipe),
        training,
        accelerator,
        torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas),
        folder,
        Identity(recipe.model_key(), data_key, network.base_hash),
        progress=progress,
        on_step=on_step if accelerator.is_main_process else None,
        checkpoint_at_end=False,
    )
    if accelerator.is_main_process:
        facts = {
            "data_key": data_key,
            "processes": accelerator.num_processes,
            "seconds": logged_total(folder, "seconds"),
            "steps": training.steps,
            "samples": len(labelled.samples),
        }
        try:
            save_model(folder, network.cpu(), recipe, labelled.classes, facts)
        except (OSError, SafetensorError) as error:
            raise NearfarError(
                f"{folder}: cannot write the trained model ({error}); its last checkpoint is kept. "
                "Free some space and run the same command again; it continues from there."
            ) from None
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    # No process returns before the model is written.
    accelerator.wait_for_everyone()


@dataclass(frozen=True)
class _FineTuning(engine.Task[Batch, StepRecord]):
    module: EmbedderWithLoss
    recipe: Recipe

    def batch(self, step: int, first: int, last: int) -> Batch:
        batch, recipe = super().batch(step, first, last), self.recipe
        # Drawn for the rows of all processes, so that the factors do not depend on the number of processes.
        depth, generator = self.module.embedder.encoder.depth, depth_generator(recipe.seed, step)
        branch_keep = stochastic_depth(recipe.encoder.drop_path, depth, recipe.training.batch_size, generator)
        return replace(batch, branch_keep=None if branch_keep is None else branch_keep[:, :, first:last])

    def rate(self, step: int) -> float:
        return engine.learning_rate(step, self.recipe.training)

    def loss(self, module: nn.Module, part: Batch, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.accelerator.autocast():
            loss = module(**self.tensors(part)).sum() / rows
        return loss, {"loss": loss}
