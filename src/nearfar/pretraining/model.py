"""Masks, student, teacher and losses of EAT's pre-training.

A student encodes the visible fifth of the patches of a clip, and a decoder predicts from it the output of a
teacher, a slow average of the student's encoder, for all patches. Chen et al., "EAT: Self-Supervised Pre-Training
with Efficient Audio Transformer", IJCAI 2024.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.eat import EAT, Block
from nearfar.encoders.linear import Linear

_NORM_EPS = 1e-5

# --- masks ------------------------------------------------------------------------------------------------------


def visible_count(cells: int, mask_ratio: float) -> int:
    """Number of visible cells of a mask: 102 of 512 at EAT's ratio of 0.8."""
    return int(cells * (1.0 - mask_ratio))


def inverse_block_masks(
    random: np.random.Generator,
    views: int,
    columns: int,
    bands: int,
    *,
    mask_ratio: float = 0.8,
    adjust: float = 0.07,
    block: int = 5,
) -> NDArray[np.bool_]:
    """Draw masks over a grid of patches that leave a few square blocks visible (inverse block masking).

    ``int(cells * (1 - mask_ratio + adjust) / block^2)`` centres are drawn with replacement; the ``block x block``
    cells around each, cut at the grid's edges, are visible. Random visible cells are then masked, or random masked
    cells made visible, until exactly :func:`visible_count` are visible. Baevski et al., "Efficient Self-supervised
    Learning with Contextualized Target Representations", ICML 2023, section 3.3; EAT, section 3.2.

    Args:
        views: number of masks.
        columns, bands: the grid; cell ``t * bands + f`` is column t, band f, as the encoder's tokens are.
        mask_ratio: fraction of masked cells.
        adjust: fraction of cells by which the blocks together are larger, since they overlap.
        block: side of a block in cells, odd.

    Returns:
        (views, columns * bands) bool, True = masked: hidden from the student and to be predicted.
    """
    cells = columns * bands
    centres = random.integers(cells, size=(views, int(cells * (1.0 - mask_ratio + adjust) / block**2)))
    reach = np.arange(-(block // 2), block // 2 + 1)
    column = np.clip(centres[..., None, None] // bands + reach[:, None], 0, columns - 1)
    band = np.clip(centres[..., None, None] % bands + reach, 0, bands - 1)
    in_block = np.zeros((views, cells), dtype=np.bool_)
    np.put_along_axis(in_block, (column * bands + band).reshape(views, -1), values=True, axis=1)
    # First the cells of blocks in random order, then all others in random order.
    order = np.argsort(random.random((views, cells)) - in_block, axis=1)
    masked = np.ones((views, cells), dtype=np.bool_)
    np.put_along_axis(masked, order[:, : visible_count(cells, mask_ratio)], values=False, axis=1)
    return masked


def visible_cells(masked: Tensor) -> Tensor:
    """Indices of the visible cells (False) of masks (views, cells) in rising order, (views, visible) int64.

    Raises:
        ValueError: if the numbers of visible cells differ.
    """
    counts = (~masked).sum(dim=1)
    if not bool((counts == counts[0]).all()):
        raise ValueError(f"expected masks with equally many visible cells, got {sorted(set(counts.tolist()))}")
    return torch.nonzero(~masked)[:, 1].view(len(masked), int(counts[0]))


# --- decoder ----------------------------------------------------------------------------------------------------


class DecoderBlock(nn.Module):
    """``x + GELU(LayerNorm(Conv(x)))`` over a grid of tokens; the norm is over channels and has no weights."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (views, columns, bands, D), channels innermost. Returns the same shape."""
        # Permuted to (views, D, columns, bands) this is the channels-last layout, so nothing is moved in memory.
        mixed = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + F.gelu(F.layer_norm(mixed, mixed.shape[-1:], eps=_NORM_EPS))


class Decoder(nn.Module):
    """EAT's convolutional decoder (section 3.2): from visible tokens to a prediction for every cell of the grid.

    ``dim`` is D, the encoder's width, ``bands`` the number of cells along frequency; the defaults are EAT-base's.

    Raises:
        ValueError: if the groups of the convolutions do not divide the width.
    """

    def __init__(self, dim: int, bands: int, layers: int = 6, kernel: int = 3, groups: int = 16) -> None:
        super().__init__()
        self.bands = bands
        self.blocks = nn.ModuleList(DecoderBlock(dim, kernel, groups) for _ in range(layers))
        self.proj = Linear(dim, dim)
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, cells: Tensor) -> Tensor:
        """cells: (views, columns * bands, D), see :func:`fill_grid`. Returns the same shape."""
        x = cells.view(len(cells), -1, self.bands, cells.shape[-1])
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.proj(x.flatten(1, 2)))


def fill_grid(visible: Tensor, cells: Tensor, noise: Tensor) -> Tensor:
    """The decoder's input, (views, cells, D): visible tokens in their cells of the grid, noise in the masked ones.

    Shapes: visible (views, visible, D), their cells (views, visible) int64, noise (views, cells, D).
    """
    index = cells[..., None].expand(-1, -1, visible.shape[-1])
    return torch.scatter(noise.to(visible.dtype), 1, index, visible)


# --- student and teacher ----------------------------------------------------------------------------------------


class MaskedPredictor(nn.Module):
    """The student of pre-training: an encoder of the visible patches and a decoder.

    Patches are embedded once per clip; only the visible ones pass the blocks, so a view costs about a fifth of a
    whole clip.
    """

    def __init__(self, encoder: EAT, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, fbank: Tensor, masked: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the teacher's targets from every view.

        Args:
            fbank: (clips, 1, frames, 128) normalised log-mel.
            masked: (clips * clones, cells) bool, the views of a clip consecutively; see
                :func:`inverse_block_masks`.
            noise: (clips * clones, cells, D), the decoder's input at masked cells.

        Returns:
            The decoder's prediction for every cell, (clips * clones, cells, D), and the CLS token of the encoder's
            last block, (clips * clones, D), as prediction for the whole clip.

        Raises:
            ValueError: if the views have different numbers of visible cells.
        """
        visible = visible_cells(masked)
        encoded = self.encode(fbank, visible)
        return self.decoder(fill_grid(encoded[:, 1:], visible, noise)), encoded[:, 0]

    def encode(self, fbank: Tensor, visible: Tensor) -> Tensor:
        """Encode the visible cells of each view: (views, 1 + visible, D), CLS first."""
        patches = self.encoder.patches(fbank)
        clones = len(visible) // len(patches)
        rows = torch.arange(len(visible), device=visible.device)[:, None] // clones
        x = self.encoder.with_cls(patches[rows, visible])
        for block in self.encoder.blocks:
            x = block(x)
        return x


def decay_after(update: int, start: float, end: float, anneal_updates: int) -> float:
    """The teacher's decay at update number ``update``, counted from 1: linear from start to end, then constant."""
    if update >= anneal_updates:
        return end
    return end - (end - start) * (1.0 - update / anneal_updates)


class Teacher:
    """An exponential moving average (float32) of the student's encoder, applied to whole clips (EAT, section 3.1).

    It starts as a copy of ``student``.
    """

    def __init__(self, student: EAT) -> None:
        self.encoder = deepcopy(student).float().eval().requires_grad_(False)

    @torch.no_grad()
    def targets(self, fbank: Tensor) -> Tensor:
        """The student's targets, see :func:`layer_targets`: (clips, 1, T, 128) to (clips, cells, D).

        One pass per clip serves all its masked views.
        """
        x = self.encoder.embed(fbank)
        mlp_outputs = []
        for block in self.encoder.blocks:
            assert isinstance(block, Block)
            x, output = block.forward_with_mlp(x)
            mlp_outputs.append(output[:, 1:])
        return layer_targets(mlp_outputs)

    @torch.no_grad()
    def follow(self, student: EAT, decay: float) -> None:
        """``teacher = decay * teacher + (1 - decay) * student``, parameter by parameter."""
        for average, current in zip(self.encoder.parameters(), student.parameters(), strict=True):
            average.mul_(decay).add_(current.to(average.dtype), alpha=1.0 - decay)


def layer_targets(mlp_outputs: list[Tensor]) -> Tensor:
    """Targets (clips, cells, D) float32 from the MLP outputs of each block, before residual and norm2, no CLS.

    Each block's output is normalised to mean 0 and deviation 1 over the cells of each channel (instance norm), and
    the mean over blocks over the channels of each cell (layer norm). Baevski et al., "data2vec", ICML 2022,
    section 3.3.
    """
    with torch.autocast(mlp_outputs[0].device.type, enabled=False):
        total = torch.zeros_like(mlp_outputs[0], dtype=torch.float32)
        for output in mlp_outputs:
            variance, mean = torch.var_mean(output.float(), dim=1, correction=0, keepdim=True)
            total += (output.float() - mean) * torch.rsqrt(variance + _NORM_EPS)
        mean_of_layers = total / len(mlp_outputs)
        return F.layer_norm(mean_of_layers, mean_of_layers.shape[-1:], eps=_NORM_EPS)


# --- losses: equations 2 to 4, in the weighting of the published code -------------------------------------------


def frame_loss(cells: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """Squared error at masked cells: summed over channels, divided by sqrt(D), mean over the masked cells.

    Shapes: predictions and masks (clips * clones, cells, D) and (clips * clones, cells) bool, targets (clips,
    cells, D). Returns a float32 scalar.
    """
    view, cell = torch.nonzero(masked, as_tuple=True)
    clones = len(masked) // len(targets)
    difference = cells[view, cell].float() - targets[view // clones, cell].float()
    return difference.square().sum() / (len(view) * math.sqrt(cells.shape[-1]))


def utterance_loss(utterance: Tensor, targets: Tensor) -> Tensor:
    """Squared error of CLS against a clip's mean target: summed over channels, over sqrt(D), mean over views.

    Upstream multiplies the *sum* over a process's views with the number of masked cells and divides the whole by
    that number, so its weight beside :func:`frame_loss` is the number of views in a process's batch (192 in EAT's
    setting of 12 clips with 16 masks), not 1.

    Shapes: the student's CLS (clips * clones, D), targets (clips, cells, D). Returns a float32 scalar.
    """
    mean_target = targets.float().mean(dim=1).repeat_interleave(len(utterance) // len(targets), dim=0)
    difference = utterance.float() - mean_target
    return difference.square().sum() / (len(utterance) * math.sqrt(utterance.shape[-1]))


def spread(rows: Tensor) -> Tensor:
    """Standard deviation over all vectors (..., D), mean over channels; it approaches 0 when a model collapses."""
    return rows.detach().float().flatten(0, -2).std(dim=0, correction=0).mean()
