"""Training of one machine's autoencoder, and the covariances of its residuals.

The frames of all clips are in one tensor. An epoch is one permutation of vector indices, and a batch is one
``index_select``, so no Python code runs per vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.checkpoint import Identity, load_checkpoint, save_checkpoint
from nearfar.errors import TrainingError
from nearfar.frontends.slaney import MEL_BINS
from nearfar.progress import StepProgress
from nearfar.scoring.autoencoder.network import (
    STACKED_FRAMES,
    VECTOR_DIM,
    Autoencoder,
    Covariances,
    TrainedAutoencoder,
)
from nearfar.scoring.autoencoder.settings import AutoencoderSettings

CHECKPOINT_EVERY = 10
"""Epochs between checkpoints."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """All vectors of a machine's training clips; a vector is five consecutive frames of a clip.

    Attributes:
        frames: (frames, 128) float32, the concatenated log-mel frames of all clips.
        starts: (vectors,) int64, index in ``frames`` of the first frame of each vector.
        is_target: (vectors,) bool, whether the clip is of the target domain.
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
        """The same on a device."""
        return Vectors(self.frames.to(device), self.starts.to(device), self.is_target.to(device))

    def key(self) -> str:
        """Sixteen hex digits of the content."""
        digest = hashlib.sha256()
        for tensor in (self.frames, self.starts, self.is_target):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Mean loss of an epoch's batches and, after it, of the held-out vectors; None where none are held out."""

    epoch: int
    loss: float
    validation_loss: float | None
    seconds: float


def gather_vectors(clips: Iterable[tuple[Tensor, bool]]) -> Vectors:
    """The vectors of the clips of a machine.

    Args:
        clips: log-mel of each clip, (frames, 128) float32, and whether it is of the target domain. A clip of fewer
            than five frames gives no vector.

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
    """Random indices of the training and of the validation vectors; vectors, not clips, as published."""
    order = torch.randperm(vectors, generator=generator)
    held_out = int(fraction * vectors)
    return order[held_out:], order[:held_out]


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

    Args:
        vectors: of one machine.
        settings: epochs, batch size, learning rate and validation fraction are read.
        seed: of the initial weights, the held-out vectors and the order of the others.
        device: to train on; None is the CPU.
        checkpoint: folder of a checkpoint, from which an interrupted training resumes with the same result as an
            uninterrupted one. The caller removes it once the result is saved.
        progress, on_epoch: called after each epoch; not again for epochs before an interruption.

    Raises:
        TrainingError: if a loss is not finite.
        InputError: if the checkpoint is of other settings or vectors.
        NearfarError: if a checkpoint cannot be written.
        ValueError: if fewer than two vectors are left to train on.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    training, validation = hold_out(len(vectors), settings.validation_fraction, generator)
    if len(training) < 2:
        raise ValueError(f"expected at least two vectors to train on, got {len(training)}")
    network = _initial(seed).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    state = _State(network, optimizer, generator, settings.epochs)
    identity = None if checkpoint is None else Identity(_settings_key(settings, seed), vectors.key())
    start = 0 if checkpoint is None or identity is None else state.load(checkpoint, identity)
    vectors = vectors.to(device)
    for epoch in range(start, settings.epochs):
        began = time.perf_counter()
        order = training[torch.randperm(len(training), generator=generator)].to(device)
        loss = _train_epoch(network, optimizer, vectors, order, settings.batch_size)
        validation_loss = _mean_loss(network, vectors, validation.to(device), settings.batch_size)
        if not math.isfinite(loss):
            raise TrainingError(f"epoch {epoch}: the loss is {loss}. Lower autoencoder.learning_rate.")
        record = EpochRecord(epoch, loss, validation_loss, time.perf_counter() - began)
        state.add(record)
        if checkpoint is not None and identity is not None and (epoch + 1) % CHECKPOINT_EVERY == 0:
            state.save(checkpoint, identity, epoch + 1)
        if on_epoch is not None:
            on_epoch(record)
        if progress is not None:
            progress(epoch + 1, settings.epochs)
    network.eval()
    order = training[torch.randperm(len(training), generator=generator)].to(device)
    published, textbook = residual_covariances(network, vectors, torch.split(order, settings.batch_size))
    return TrainedAutoencoder(network.cpu().requires_grad_(False), published, textbook), state.records()


def _settings_key(settings: AutoencoderSettings, seed: int) -> str:
    read = (settings.epochs, settings.batch_size, settings.learning_rate, settings.validation_fraction, seed)
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16]


class _State:
    """The state of a training between two epochs: weights, optimiser, random generator and records."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, epochs: int
    ) -> None:
        self.optimizer, self.generator = optimizer, generator
        self.parameters = dict(network.named_parameters())
        self.history = torch.full((epochs, 3), math.nan, dtype=torch.float64)  # loss, validation loss, seconds
        self.buffers = dict(network.named_buffers()) | {"history": self.history}

    def add(self, record: EpochRecord) -> None:
        validation = math.nan if record.validation_loss is None else record.validation_loss
        self.history[record.epoch] = torch.tensor([record.loss, validation, record.seconds], dtype=torch.float64)

    def records(self) -> tuple[EpochRecord, ...]:
        rows = self.history.tolist()
        return tuple(
            EpochRecord(epoch, loss, None if math.isnan(validation) else validation, seconds)
            for epoch, (loss, validation, seconds) in enumerate(rows)
        )

    def save(self, folder: Path, identity: Identity, epoch: int) -> None:
        buffers = self.buffers | {"generator": self.generator.get_state()}
        save_checkpoint(folder, self.parameters, self.optimizer, epoch, identity, buffers)

    def load(self, folder: Path, identity: Identity) -> int:
        """Restore the folder's checkpoint and return the number of finished epochs; 0 without one."""
        drawn = self.generator.get_state()
        epoch = load_checkpoint(
            folder, self.parameters, self.optimizer, identity, self.buffers | {"generator": drawn}
        )
        self.generator.set_state(drawn)
        return epoch


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
def _mean_loss(network: nn.Module, vectors: Vectors, indices: Tensor, batch_size: int) -> float | None:
    if len(indices) == 0:
        return None
    network.eval()
    batches = (vectors.rows(index) for index in torch.split(indices, batch_size))
    return float(torch.stack([F.mse_loss(network(batch), batch) for batch in batches]).mean())


@torch.no_grad()
def residual_covariances(
    network: nn.Module, vectors: Vectors, batches: Iterable[Tensor]
) -> tuple[Covariances, Covariances]:
    """Covariances of the residuals of the training vectors per domain, in one more pass.

    The published form follows the official code, in which (for the consequences see
    :func:`nearfar.scoring.autoencoder.scores.selective_score`)

    * in each batch, the mean of *that batch's* residual frames of a domain is subtracted, not the domain's mean;
    * the sum of products runs over residual frames, five per vector, but is divided by the number of *vectors* of
      the domain less one;
    * a domain without vectors takes the other's covariance.

    The textbook form subtracts the domain's mean and divides by its residual frames less one; a domain without
    vectors takes the other's there, too.

    Raises:
        ValueError: if there are fewer than two vectors.
    """
    sums = {False: _DomainSums(), True: _DomainSums()}
    for residual, is_target in _residuals(network, vectors, batches):
        for domain, sum_ in sums.items():
            sum_.add(residual[is_target == domain])
    usable = [domain for domain, sum_ in sums.items() if sum_.vectors > 1]
    if not usable:
        raise ValueError("expected at least two vectors of one domain")
    chosen = {domain: sums[domain if domain in usable else usable[0]] for domain in sums}
    published = {domain: sum_.within_batches / (sum_.vectors - 1) for domain, sum_ in chosen.items()}
    textbook = {domain: sum_.scatter() / (STACKED_FRAMES * sum_.vectors - 1) for domain, sum_ in chosen.items()}
    return (
        Covariances(published[False].float().cpu(), published[True].float().cpu()),
        Covariances(textbook[False].float().cpu(), textbook[True].float().cpu()),
    )


def _residuals(network: nn.Module, vectors: Vectors, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Residual frames of each batch, (batch, 5, 128) float64, and whether each vector is of the target domain."""
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
        """Add a batch's residuals of the domain, (vectors, 5, 128) float64."""
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
