"""Training one machine's autoencoder, and the covariances of its residuals.

The frames of all clips lie in one tensor. An epoch is one permutation of vector positions, and a batch is one
``index_select``, so no Python code runs per vector.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import TrainingError
from nearfar.frontends.slaney import MEL_BINS
from nearfar.scoring.autoencoder.network import (
    STACKED_FRAMES,
    VECTOR_DIM,
    Autoencoder,
    Covariances,
    TrainedAutoencoder,
)
from nearfar.scoring.autoencoder.settings import AutoencoderSettings

Progress = Callable[[int, int], None]
"""Called with the number of finished and of all epochs."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """All vectors of a machine's training clips; five consecutive frames of one clip are a vector.

    Attributes:
        frames: (frames, 128) float32, the log-mel frames of all clips one after another.
        starts: (vectors,) int64, where in ``frames`` each vector begins.
        is_target: (vectors,) bool, whether the clip is of the target domain.
    """

    frames: Tensor
    starts: Tensor
    is_target: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, index: Tensor) -> Tensor:
        """The vectors at the positions ``index``, (len(index), 640) float32."""
        frames = self.starts.index_select(0, index)[:, None] + torch.arange(STACKED_FRAMES, device=index.device)
        return self.frames.index_select(0, frames.reshape(-1)).reshape(-1, VECTOR_DIM)

    def to(self, device: torch.device) -> Vectors:
        """The same on a device."""
        return Vectors(self.frames.to(device), self.starts.to(device), self.is_target.to(device))


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Mean loss of an epoch's batches and, after it, of the held-out vectors; None where none are held out."""

    epoch: int
    loss: float
    validation_loss: float | None
    seconds: float


def gather_vectors(clips: Iterable[tuple[Tensor, bool]]) -> Vectors:
    """Lay the clips of a machine end to end.

    Args:
        clips: per clip its log-mel, (frames, 128) float32, and whether it is of the target domain. A clip of
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
    """Positions of the training and of the validation vectors, at random; vectors, not clips, as published."""
    order = torch.randperm(vectors, generator=generator)
    held_out = int(fraction * vectors)
    return order[held_out:], order[:held_out]


def train_autoencoder(
    vectors: Vectors,
    settings: AutoencoderSettings,
    seed: int,
    *,
    device: torch.device | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[TrainedAutoencoder, tuple[EpochRecord, ...]]:
    """Train for all epochs and keep the last; validation is only watched.

    Args:
        vectors: of one machine.
        settings: epochs, batch size, learning rate and validation fraction are read.
        seed: of the initial weights, the held-out vectors and the order of the others.
        device: where to train; None is the CPU.
        progress: called after each epoch.
        on_epoch: called with the record of each epoch.

    Returns:
        the trained autoencoder on the CPU, and one record per epoch.

    Raises:
        TrainingError: if a loss is not finite.
        ValueError: if fewer than two vectors are left to train on.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    training, validation = hold_out(len(vectors), settings.validation_fraction, generator)
    if len(training) < 2:
        raise ValueError(f"expected at least two vectors to train on, got {len(training)}")
    vectors = vectors.to(device)
    network = _initial(seed).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    history = []
    for epoch in range(settings.epochs):
        began = time.perf_counter()
        order = training[torch.randperm(len(training), generator=generator)].to(device)
        loss = _train_epoch(network, optimizer, vectors, order, settings.batch_size)
        validation_loss = _mean_loss(network, vectors, validation.to(device), settings.batch_size)
        if not math.isfinite(loss):
            raise TrainingError(f"epoch {epoch}: the loss is {loss}. Lower autoencoder.learning_rate.")
        history.append(EpochRecord(epoch, loss, validation_loss, time.perf_counter() - began))
        if on_epoch is not None:
            on_epoch(history[-1])
        if progress is not None:
            progress(epoch + 1, settings.epochs)
    network.eval()
    order = training[torch.randperm(len(training), generator=generator)].to(device)
    published, textbook = residual_covariances(network, vectors, torch.split(order, settings.batch_size))
    return TrainedAutoencoder(network.cpu().requires_grad_(False), published, textbook), tuple(history)


def _initial(seed: int) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder()


def _train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, vectors: Vectors, order: Tensor, batch_size: int
) -> float:
    network.train()
    losses = []
    for index in torch.split(order, batch_size):
        if len(index) == 1:  # batch norm has no variance of a single sample
            continue
        batch = vectors.rows(index)
        loss = F.mse_loss(network(batch), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _mean_loss(network: nn.Module, vectors: Vectors, positions: Tensor, batch_size: int) -> float | None:
    if len(positions) == 0:
        return None
    network.eval()
    batches = (vectors.rows(index) for index in torch.split(positions, batch_size))
    return float(torch.stack([F.mse_loss(network(batch), batch) for batch in batches]).mean())


@torch.no_grad()
def residual_covariances(
    network: nn.Module, vectors: Vectors, batches: Iterable[Tensor]
) -> tuple[Covariances, Covariances]:
    """One more pass over the training vectors, for the covariances of their residuals per domain.

    The published form follows the official code, in which (see :func:`nearfar.scoring.autoencoder.scores.selective_score`
    for what comes of it)

    * in each batch, the mean of *that batch's* residual frames of a domain is taken off, not the domain's mean;
    * the sum of products runs over residual frames, five per vector, but is divided by the number of *vectors* of
      the domain less one;
    * a domain without vectors takes the other's covariance.

    The textbook form takes off the domain's mean and divides by its residual frames less one; a domain without
    vectors takes the other's there, too.

    Args:
        network: in evaluation mode.
        vectors: of one machine.
        batches: positions of the vectors, (batch,) int64 each, in the order of the pass.

    Returns:
        published and textbook covariances, on the CPU.

    Raises:
        ValueError: if there are fewer than two vectors.
    """
    sums = {False: _DomainSums(), True: _DomainSums()}
    for residual, is_target in _residuals(network, vectors, batches):
        for domain, sum_ in sums.items():
            sum_.add(residual[is_target == domain])
    known = [domain for domain, sum_ in sums.items() if sum_.vectors > 1]
    if not known:
        raise ValueError("expected at least two vectors of one domain")
    chosen = {domain: sums[domain if domain in known else known[0]] for domain in sums}
    published = {domain: sum_.within_batches / (sum_.vectors - 1) for domain, sum_ in chosen.items()}
    textbook = {domain: sum_.scatter() / (STACKED_FRAMES * sum_.vectors - 1) for domain, sum_ in chosen.items()}
    return (
        Covariances(published[False].float().cpu(), published[True].float().cpu()),
        Covariances(textbook[False].float().cpu(), textbook[True].float().cpu()),
    )


def _residuals(network: nn.Module, vectors: Vectors, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch the residual frames, (batch, 5, 128) float64, and whether each vector is of the target domain."""
    for index in batches:
        batch = vectors.rows(index)
        residual = (batch - network(batch)).double().reshape(-1, STACKED_FRAMES, MEL_BINS)
        yield residual, vectors.is_target.index_select(0, index)


class _DomainSums:
    """Running sums over one domain's residual frames; (128, 128) and (128,) float64."""

    def __init__(self) -> None:
        self.vectors = 0
        self.within_batches = torch.zeros(MEL_BINS, MEL_BINS, dtype=torch.float64)
        self.products = torch.zeros(MEL_BINS, MEL_BINS, dtype=torch.float64)
        self.total = torch.zeros(MEL_BINS, dtype=torch.float64)

    def add(self, residual: Tensor) -> None:
        """Take in a batch's residuals of the domain, (vectors, 5, 128) float64."""
        if len(residual) == 0:
            return
        rows = residual.reshape(-1, MEL_BINS).cpu()
        centred = rows - rows.mean(dim=0)
        self.vectors += len(residual)
        self.within_batches += centred.T @ centred
        self.products += rows.T @ rows
        self.total += rows.sum(dim=0)

    def scatter(self) -> Tensor:
        """Sum of products about the domain's mean."""
        return self.products - torch.outer(self.total, self.total) / (STACKED_FRAMES * self.vectors)
