"""Training of one machine's autoencoder, and the covariances of its residuals.

The frames of all clips are in one tensor. An epoch is one permutation of vector indices, and a batch is one
``index_select``, so there is no Python loop over vectors.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.checkpoint import Identity, load_checkpoint, save_checkpoint
from nearfar.errors import TrainingError
from nearfar.frontends.slaney import MEL_BINS
from nearfar.progress import StepProgress
from nearfar.scoring.autoencoder.gradients import LossGradients
from nearfar.scoring.autoencoder.network import STACKED_FRAMES, VECTOR_DIM, Autoencoder, TrainedAutoencoder
from nearfar.scoring.autoencoder.settings import AutoencoderSettings
from nearfar.threads import one_thread

CHECKPOINT_EVERY = 10
"""Epochs between checkpoints."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of a machine's training clips; a vector is five consecutive frames of a clip.

    Attributes:
        frames: (frames, 128) float32, the concatenated log-mel frames of all clips.
        starts: (vectors,) int64, index in ``frames`` of the first frame of each vector.
        is_target: (vectors,) bool, true for vectors of the target domain.
    """

    frames: Tensor
    starts: Tensor
    is_target: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, index: Tensor) -> Tensor:
        """The vectors of the indices ``index``, (len(index), 640) float32."""
        frames = self.starts.index_select(0, index)[:, None] + torch.arange(STACKED_FRAMES, device=index.device)
        return self.frames.index_select(0, frames.reshape(-1)).reshape(-1, VECTOR_DIM)

    def to(self, device: torch.device) -> Vectors:
        """A copy on a device."""
        return Vectors(self.frames.to(device), self.starts.to(device), self.is_target.to(device))

    def key(self) -> str:
        """Sixteen hex digits of a hash of the content."""
        digest = hashlib.sha256()
        for tensor in (self.frames, self.starts, self.is_target):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Mean loss of an epoch's batches, and of the held-out vectors after it; None if none are held out."""

    epoch: int
    loss: float
    validation_loss: float | None
    seconds: float


def gather_vectors(clips: Iterable[tuple[Tensor, bool]]) -> Vectors:
    """The vectors of the clips of a machine.

    Args:
        clips: log-mel of each clip, (frames, 128) float32, and true for clips of the target domain. A clip of
            fewer than five frames gives no vector.

    Raises:
        ValueError: if there are no clips.
    """
    frames, starts, is_target, first = [], [], [], 0
    for log_mel, target in clips:
        vectors = max(0, len(log_mel) - STACKED_FRAMES + 1)
        frames.append(log_mel)
        starts.append(torch.arange(first, first + vectors))
        is_target.append(torch.full((vectors,), target))
        first += len(log_mel)
    if not frames:
        raise ValueError("expected at least one clip")
    return Vectors(torch.cat(frames), torch.cat(starts), torch.cat(is_target))


def hold_out(vectors: int, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random indices of the training and the validation vectors; single vectors, not clips, as published."""
    order = torch.randperm(vectors, generator=generator)
    held_out = int(fraction * vectors)
    return order[held_out:], order[:held_out]


@one_thread()
def train_autoencoder(
    vectors: Vectors,
    settings: AutoencoderSettings,
    seed: int,
    *,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    progress: StepProgress | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[TrainedAutoencoder, tuple[EpochRecord, ...]]:
    """Train for a fixed number of epochs; returns the autoencoder, on the CPU, and the records of all epochs.

    On a CPU one thread is used: the products of a batch are too small for several, and one seed has one result
    whatever the number of cores.

    Args:
        vectors: vectors of one machine.
        settings: epochs, batch size, learning rate and validation fraction are used.
        seed: seed of the initial weights, the held-out vectors and the order of the others.
        device: device to train on; None is the CPU.
        checkpoint: folder of a checkpoint, from which an interrupted training resumes with the same result as an
            uninterrupted one. The caller removes it after saving the result.
        progress, on_epoch: called after each epoch; not again for epochs before an interruption.

    Raises:
        TrainingError: if a loss is not finite.
        InputError: if the checkpoint is of other settings or vectors.
        NearfarError: if a checkpoint cannot be written.
        ValueError: if there are fewer than two training vectors.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    training, validation = hold_out(len(vectors), settings.validation_fraction, generator)
    if len(training) < 2:
        raise ValueError(f"expected at least two vectors to train on, got {len(training)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder().to(device)
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True)
    history = torch.full((settings.epochs, 3), math.nan, dtype=torch.float64)  # loss, validation loss, seconds
    read = (settings.epochs, settings.batch_size, settings.learning_rate, settings.validation_fraction, seed)
    identity = Identity(hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16], vectors.key())

    def buffers() -> dict[str, Tensor]:
        return dict(network.named_buffers()) | {"history": history, "generator": generator.get_state()}

    start = 0
    if checkpoint is not None:
        restored = buffers()
        start = load_checkpoint(checkpoint, parameters, optimizer, identity, restored)
        generator.set_state(restored["generator"])
    vectors = vectors.to(device)
    for epoch in range(start, settings.epochs):
        began = time.perf_counter()
        order = training[torch.randperm(len(training), generator=generator)].to(device)
        loss = _train_epoch(network, optimizer, vectors, order, settings.batch_size)
        validation_loss = _mean_loss(network, vectors, validation.to(device), settings.batch_size)
        if not math.isfinite(loss):
            raise TrainingError(f"epoch {epoch}: the loss is {loss}. Lower autoencoder.learning_rate.")
        history[epoch] = torch.tensor([loss, validation_loss, time.perf_counter() - began], dtype=torch.float64)
        if checkpoint is not None and (epoch + 1) % CHECKPOINT_EVERY == 0:
            save_checkpoint(checkpoint, parameters, optimizer, epoch + 1, identity, buffers())
        if on_epoch is not None:
            on_epoch(_record(epoch, history))
        if progress is not None:
            progress(epoch + 1, settings.epochs)
    network.eval()
    order = training[torch.randperm(len(training), generator=generator)].to(device)
    covariances = residual_covariances(network, vectors, torch.split(order, settings.batch_size))
    records = tuple(_record(epoch, history) for epoch in range(settings.epochs))
    return TrainedAutoencoder(network.cpu().requires_grad_(False), *covariances), records


def _record(epoch: int, history: Tensor) -> EpochRecord:
    loss, validation_loss, seconds = history[epoch].tolist()
    return EpochRecord(epoch, loss, None if math.isnan(validation_loss) else validation_loss, seconds)


def _train_epoch(
    network: Autoencoder, optimizer: torch.optim.Optimizer, vectors: Vectors, order: Tensor, batch_size: int
) -> float:
    network.train()
    losses, gradients_of = [], LossGradients(network)
    for index in torch.split(order, batch_size):
        if len(index) == 1:  # batch norm has no variance of a single sample
            continue
        losses.append(gradients_of(vectors.rows(index)))
        optimizer.step()
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _mean_loss(network: nn.Module, vectors: Vectors, indices: Tensor, batch_size: int) -> float:
    """The mean over batches; NaN without vectors."""
    if len(indices) == 0:
        return math.nan
    network.eval()
    batches = (vectors.rows(index) for index in torch.split(indices, batch_size))
    return float(torch.stack([F.mse_loss(network(batch), batch) for batch in batches]).mean())


@torch.no_grad()
def residual_covariances(network: nn.Module, vectors: Vectors, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Published and textbook covariances of the residuals of the training vectors, computed in one pass.

    Each is (2, 128, 128) float32, in dB², of the source and the target domain.

    The published form follows the official code, in which (for the consequences see
    :func:`nearfar.scoring.autoencoder.scores.selective_score`)

    * in each batch, the mean of *that batch's* residual frames of a domain is subtracted, not the domain's mean;
    * the sum of products runs over residual frames, five per vector, but is divided by the number of *vectors* of
      the domain less one;
    * a domain with fewer than two vectors takes the other's covariance.

    The textbook form subtracts the domain's mean and divides by its residual frames less one; a domain with fewer
    than two vectors again takes the other's.

    Raises:
        ValueError: if neither domain has two vectors.
    """
    # Sums over the residual frames of each domain: squares about batch means, squares, and the frames themselves.
    within_batches, squares = torch.zeros(2, 2, MEL_BINS, MEL_BINS, dtype=torch.float64)
    total, counts = torch.zeros(2, MEL_BINS, dtype=torch.float64), torch.zeros(2, 1, 1, dtype=torch.int64)
    for index in batches:
        batch = vectors.rows(index)
        residual = (batch - network(batch)).double().reshape(-1, STACKED_FRAMES, MEL_BINS)
        is_target = vectors.is_target.index_select(0, index)
        for domain, members in enumerate((residual[~is_target], residual[is_target])):
            if len(members):
                rows = members.reshape(-1, MEL_BINS).cpu()
                centred = rows - rows.mean(dim=0)
                within_batches[domain] += centred.T @ centred
                squares[domain] += rows.T @ rows
                total[domain] += rows.sum(dim=0)
                counts[domain] += len(members)
    usable = [domain for domain in range(2) if int(counts[domain]) > 1]
    if not usable:
        raise ValueError("expected at least two vectors of one domain")
    published = within_batches / (counts - 1)
    frames = STACKED_FRAMES * counts
    textbook = (squares - total[:, :, None] * total[:, None] / frames) / (frames - 1)
    chosen = [domain if domain in usable else usable[0] for domain in range(2)]
    return published[chosen].float(), textbook[chosen].float()
