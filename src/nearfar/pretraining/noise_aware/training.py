"""Training of noise-aware layers around a frozen encoder.

Loss: mean squared error between tokens of the noise-aware encoder on near and far in noise and tokens of the
frozen encoder on the wanted signal, over patch tokens plus over CLS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nearfar.checkpoint import Identity
from nearfar.encoders.noise_aware import NoiseAwareEAT
from nearfar.frontends import KaldiFbank
from nearfar.frontends.base import EachSignal
from nearfar.pretraining.noise_aware.batches import RoomBatch, RoomBatches
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe
from nearfar.progress import StepProgress
from nearfar.training import engine


class Losses(NamedTuple):
    """Mean squared errors of patch tokens and of CLS, scalars."""

    token: Tensor
    utterance: Tensor


def token_errors(outputs: list[Tensor], targets: list[Tensor]) -> Losses:
    """Means over blocks of the errors of tokens (batch, 1 + tokens, D), CLS first."""
    squares = torch.stack(
        [
            (one.float() - other.float()).square().mean(dim=(0, 2))
            for one, other in zip(outputs, targets, strict=True)
        ]
    )
    return Losses(squares[:, 1:].mean(), squares[:, 0].mean())


class NoiseAwareLearner(nn.Module):
    """The noise-aware encoder with its front end; only the layers are trained."""

    def __init__(self, encoder: NoiseAwareEAT, recipe: NoiseAwareRecipe) -> None:
        super().__init__()
        self.model = encoder
        self.frontend = EachSignal(KaldiFbank(recipe.fbank.mean, recipe.fbank.std))
        self.blocks = tuple(range(1, encoder.depth + 1)) if recipe.training.all_blocks else (encoder.depth,)
        encoder.encoder.requires_grad_(False)

    def forward(self, noisy: Tensor, wanted: Tensor) -> Losses:
        """noisy: (batch, 2, samples); wanted: (batch, samples)."""
        with torch.no_grad():
            spectrograms = self.frontend(torch.cat([noisy, wanted.unsqueeze(1)], dim=1))
            targets = self.frozen(spectrograms[:, 2:])
        return token_errors(self.model.all_tokens(spectrograms[:, :2], self.blocks), targets)

    def frozen(self, spectrogram: Tensor) -> list[Tensor]:
        """Tokens of the encoder without the layers, (batch, 1 + tokens, D) by block."""
        x, found = self.model.encoder.embed(spectrogram), {}
        for number, block in enumerate(self.model.encoder.blocks, start=1):
            x = block(x)
            found[number] = x
        return [found[number] for number in self.blocks]

    @torch.no_grad()
    def errors_without_layers(self, noisy: Tensor, wanted: Tensor) -> Losses:
        """The same errors for the encoder without layers on near alone."""
        near, clean = (self.frontend(one.unsqueeze(1)) for one in (noisy[:, 0], wanted))
        return token_errors(self.frozen(near), self.frozen(clean))


@dataclass(frozen=True, slots=True)
class NoiseAwareRecord:
    """A line of ``log.jsonl``; see :class:`nearfar.training.engine.Step`. ``loss`` is the sum of the others."""

    step: int
    loss: float
    token_loss: float
    utterance_loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    wait_seconds: float


@engine.denormals_as_zero()
def train_layers(
    recipe: NoiseAwareRecipe,
    learner: NoiseAwareLearner,
    batches: RoomBatches,
    folder: Path,
    *,
    identity: Identity,
    progress: StepProgress | None = None,
) -> NoiseAwareEAT | None:
    """Train the layers in a folder, from the start or from its last checkpoint.

    Args:
        folder: of ``checkpoint.safetensors`` and ``log.jsonl``.
        identity: of recipe, recordings and encoder; a checkpoint of another is refused.
        progress: called after each step, on the main process.

    Returns:
        The encoder, on the CPU in evaluation mode, with the moving average of the layers; None on processes that
        are not the main one.

    Raises:
        TrainingError: if loss or gradient is not finite; the checkpoint is kept.
        InputError: if a recording cannot be used, or the folder holds another training's checkpoint.
        NearfarError: if a checkpoint cannot be written.
    """
    training, accelerator = recipe.training, engine.make_accelerator(recipe.training)
    learner.to(accelerator.device).train()
    average = {name: value.detach().clone() for name, value in learner.model.layers.named_parameters()}
    task = _NoiseAware(accelerator, learner, batches, recipe.seed, NoiseAwareRecord, recipe, average)
    groups = engine.parameter_groups(learner, training.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas)
    engine.train(task, training, accelerator, optimizer, folder, identity, progress=progress)
    if not accelerator.is_main_process:
        return None
    learner.model.layers.load_state_dict(average)
    return learner.model.cpu().eval()


@dataclass(frozen=True)
class _NoiseAware(engine.Task[RoomBatch, NoiseAwareRecord]):
    module: NoiseAwareLearner
    recipe: NoiseAwareRecipe
    average: dict[str, Tensor]

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        return {f"average.{name}": value for name, value in self.average.items()}

    def rate(self, step: int) -> float:
        return self.recipe.training.learning_rate

    def loss(self, module: nn.Module, part: RoomBatch, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        fraction = len(part.files) / rows
        with self.accelerator.autocast():
            losses: Losses = module(**self.tensors(part))
        token, utterance = fraction * losses.token, fraction * losses.utterance
        loss = token + utterance
        return loss, {
            name: value.detach()
            for name, value in (("loss", loss), ("token_loss", token), ("utterance_loss", utterance))
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the average, whose decay grows to its final value over the first steps."""
        decay = min(self.recipe.training.average_decay, (1 + step) / (10 + step))
        for name, value in self.module.model.layers.named_parameters():
            self.average[name].lerp_(value.detach(), 1.0 - decay)
