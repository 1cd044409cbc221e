"""The small convolutional decoder of EAT's pre-training; thrown away afterwards.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.linear import Linear

_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of a decoder; the defaults are EAT-base's."""

    layers: int = 6
    kernel: int = 3
    groups: int = 16
    """Of the convolutions; they divide the encoder's width."""


class DecoderBlock(nn.Module):
    """``x + GELU(LayerNorm(Conv(x)))`` over a grid of tokens; the norm is over channels and has no weights."""

    def __init__(self, dim: int, config: DecoderConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, config.kernel, padding=config.kernel // 2, groups=config.groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (views, columns, bands, D), channels innermost. Returns the same shape."""
        # Seen as (views, D, columns, bands) this is the channels-last layout, so nothing is moved in memory.
        mixed = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + F.gelu(F.layer_norm(mixed, mixed.shape[-1:], eps=_NORM_EPS))


class Decoder(nn.Module):
    """From the student's visible tokens to a prediction for every cell of the grid.

    Args:
        dim: D, the encoder's width.
        bands: cells along frequency.
        config: sizes.

    Raises:
        ValueError: if the width cannot be divided by the groups.
    """

    def __init__(self, dim: int, bands: int, config: DecoderConfig | None = None) -> None:
        super().__init__()
        config = config or DecoderConfig()
        self.bands = bands
        self.blocks = nn.ModuleList(DecoderBlock(dim, config) for _ in range(config.layers))
        self.proj = Linear(dim, dim)
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, cells: Tensor) -> Tensor:
        """cells: (views, columns * bands, D), see :func:`fill_grid`. Returns the same shape."""
        x = cells.view(len(cells), -1, self.bands, cells.shape[-1])
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.proj(x.flatten(1, 2))
        return out


def fill_grid(visible: Tensor, cells: Tensor, noise: Tensor) -> Tensor:
    """Put each view's visible tokens at their cells of the grid, over noise that stands at the masked ones.

    Args:
        visible: (views, kept, D).
        cells: (views, kept) int64, the cell of each visible token.
        noise: (views, cells, D); what it holds at visible cells is not used.

    Returns:
        (views, cells, D).
    """
    index = cells[..., None].expand(-1, -1, visible.shape[-1])
    return torch.scatter(noise.to(visible.dtype), 1, index, visible)
