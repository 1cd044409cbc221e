"""The autoencoder of the challenge's two baselines, untrained and trained.

Harada et al., "First-shot anomaly sound detection for machine condition monitoring: a domain generalization
baseline", EUSIPCO 2023 (arXiv 2303.00455).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.encoders.linear import Linear
from nearfar.errors import InputError
from nearfar.files import whole_file
from nearfar.frontends.slaney import MEL_BINS

STACKED_FRAMES = 5
VECTOR_DIM = STACKED_FRAMES * MEL_BINS
HIDDEN_DIM, BOTTLENECK_DIM = 128, 8

_COVARIANCES = ("published.source", "published.target", "textbook.source", "textbook.target")


class Autoencoder(nn.Module):
    """640-128-128-128-128-8-128-128-128-128-640; every layer but the last with batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_layers(VECTOR_DIM, *[HIDDEN_DIM] * 4, BOTTLENECK_DIM))
        self.decoder = nn.Sequential(*_layers(BOTTLENECK_DIM, *[HIDDEN_DIM] * 4))
        self.decoder.append(Linear(HIDDEN_DIM, VECTOR_DIM))

    def forward(self, vectors: Tensor) -> Tensor:
        """Reconstruct (vectors, 640) float32, in dB as :func:`nearfar.frontends.slaney_log_mel` returns."""
        reconstruction: Tensor = self.decoder(self.encoder(vectors))
        return reconstruction


def _layers(*widths: int) -> Iterator[nn.Module]:
    for inputs, outputs in pairwise(widths):
        yield Linear(inputs, outputs)
        yield nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01)
        yield nn.ReLU()


@dataclass(frozen=True, eq=False)
class TrainedAutoencoder:
    """One machine's autoencoder and the covariances of its residuals on normal training frames.

    The covariances are (2, 128, 128) float32, in dB², of the source and the target domain; see
    :func:`nearfar.scoring.autoencoder.training.residual_covariances`.

    Attributes:
        network: in evaluation mode.
        published: covariances as the official code computes them.
        textbook: covariances by their usual definition.
    """

    network: Autoencoder
    published: Tensor
    textbook: Tensor


def stacked(log_mel: Tensor) -> Tensor:
    """Five consecutive frames concatenated, from every frame of (frames, 128): (frames - 4, 640).

    Raises:
        ValueError: if there are fewer than five frames.
    """
    if log_mel.dim() != 2 or log_mel.shape[1] != MEL_BINS or len(log_mel) < STACKED_FRAMES:
        raise ValueError(f"expected (frames >= {STACKED_FRAMES}, {MEL_BINS}), got {tuple(log_mel.shape)}")
    return log_mel.reshape(-1).unfold(0, VECTOR_DIM, MEL_BINS)


@torch.inference_mode()
def residual_frames(network: Autoencoder, log_mel: Tensor) -> Tensor:
    """Reconstruction minus input of a clip's log-mel (frames, 128) float32, in dB: (5 (frames - 4), 128).

    A frame is repeated for every vector that contains it.

    Raises:
        ValueError: if there are fewer than five frames.
    """
    vectors = stacked(log_mel)
    residual: Tensor = network(vectors) - vectors
    return residual.reshape(-1, MEL_BINS)


def save_autoencoder(path: Path, model: TrainedAutoencoder) -> None:
    """Write weights and covariances as safetensors, whole or not at all; the folder is made if needed.

    Raises:
        OSError, SafetensorError: if it cannot be written.
    """
    tensors = {f"network.{key}": value for key, value in model.network.state_dict().items()}
    tensors |= dict(zip(_COVARIANCES, (*model.published, *model.textbook), strict=True))
    tensors = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    with whole_file(path) as partial:
        save_file(tensors, partial)


def load_autoencoder(path: Path) -> TrainedAutoencoder:
    """Read a file of :func:`save_autoencoder`.

    Raises:
        InputError: if the file is missing, cannot be read, or its tensors are not those of an autoencoder.
    """
    network = Autoencoder()
    try:
        tensors = load_file(path)
        matrices = [tensors.pop(key) for key in _COVARIANCES]
        if any(matrix.shape != (MEL_BINS, MEL_BINS) for matrix in matrices):
            raise RuntimeError(f"covariances of the shapes {[tuple(matrix.shape) for matrix in matrices]}")
        network.load_state_dict({key.removeprefix("network."): value for key, value in tensors.items()})
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise InputError(
            path,
            found=f"no autoencoder that can be loaded ({str(error).splitlines()[-1].strip()})",
            expected="the weights and covariances of one machine's autoencoder",
            remedy="Remove the file and its .json, and train again",
        ) from None
    network.eval().requires_grad_(False)
    return TrainedAutoencoder(network, torch.stack(matrices[:2]), torch.stack(matrices[2:]))
