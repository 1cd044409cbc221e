"""Dasheng: a pre-norm transformer over columns of 4 frames of a mel spectrogram, with learned positions.

Dinkel et al., "Scaling up masked audio encoder learning for general audio classification", Interspeech 2024.
Parameter names are those of the released checkpoints. A token is a whole column, so there is one band; there is no
token of the whole clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nearfar.encoders.base import Encoder, Tokens
from nearfar.encoders.checkpoints import (
    differences,
    find_weights,
    first_of,
    random_start,
    read_checkpoint,
    save_folder,
)
from nearfar.encoders.eat import Attention, EATConfig, Mlp
from nearfar.errors import InputError
from nearfar.frontends.dasheng import MEL_BINS, PATCH_FRAMES

NORM_EPS, BATCH_NORM_EPS = 1e-6, 1e-5
NOT_ENCODER = ("front_end.", "outputlayer.")
"""Filters of the front end, which follow from its constants, and a fine-tuned model's classifier; skipped."""


@dataclass(frozen=True, slots=True)
class DashengConfig:
    """Sizes; the defaults are those of Dasheng-base."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    columns: int = 252
    """Columns that positions are known for (10.08 s). Longer clips are encoded in parts of this length."""


SIZES = {
    "base": DashengConfig(),
    "0.6b": DashengConfig(embed_dim=1280, depth=32, num_heads=16),
    "1.2b": DashengConfig(embed_dim=1536, depth=40, num_heads=24),
    "tiny": DashengConfig(embed_dim=192, depth=4, num_heads=3),
}
HEADS_OF_WIDTH = {config.embed_dim: config.num_heads for config in SIZES.values()}

FIXED: dict[str, Any] = {
    "n_mels": MEL_BINS,
    "n_fft": 512,
    "hop_size": 160,
    "win_size": 512,
    "f_min": 0,
    "f_max": 8000,
    "center": True,
    "top_db": 120,
    "pooling": "mean",
    "qkv_bias": True,
    "patch_size": [MEL_BINS, PATCH_FRAMES],
    "patch_stride": [MEL_BINS, PATCH_FRAMES],
}
"""Settings that are the same in every released model and not supported otherwise."""


class MelNorm(nn.Module):
    """Batch normalisation of each mel bin by stored statistics, which training leaves as they are."""

    no_weight_decay: ClassVar[frozenset[str]] = frozenset({"weight"})
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(bins)), nn.Parameter(torch.zeros(bins))
        self.register_buffer("running_mean", torch.zeros(bins))
        self.register_buffer("running_var", torch.ones(bins))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(..., mel bins), the same shape."""
        scale = self.weight * (self.running_var + BATCH_NORM_EPS).rsqrt()
        return (spectrogram - self.running_mean) * scale + self.bias


class PreNormBlock(nn.Module):
    """``x = x + Attn(norm1(x)); x = x + MLP(norm2(x))``."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=NORM_EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=NORM_EPS)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, key_keep: Tensor | None, keep: Tensor | None) -> Tensor:
        """x: (B, N, D); keep: (2, B) factors of the two branches (stochastic depth), or None."""
        attended = self.attn(self.norm1(x), key_keep)
        x = x + (attended if keep is None else attended * keep[0, :, None, None])
        mlp = self.mlp(self.norm2(x))
        return cast(Tensor, x + (mlp if keep is None else mlp * keep[1, :, None, None]))


class ColumnEmbed(nn.Module):
    """A convolution over all mel bins of a column: (B, 1, frames, mel) to (B, columns, D)."""

    def __init__(self, config: DashengConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.embed_dim, (MEL_BINS, PATCH_FRAMES), (MEL_BINS, PATCH_FRAMES))

    def forward(self, spectrogram: Tensor) -> Tensor:
        return cast(Tensor, self.proj(spectrogram.transpose(2, 3))).flatten(2).transpose(1, 2)


class Dasheng(Encoder):
    """The encoder: mel spectrograms in decibels to one token every 40 ms.

    The initial weights are random: Xavier for linear layers, N(0, 0.02) for positions, and statistics of mel bins
    (mean -20 dB, deviation 20 dB) that suit recordings; the released ones replace them all.
    """

    config: DashengConfig
    no_weight_decay: ClassVar[frozenset[str]] = frozenset({"time_pos_embed", "freq_pos_embed"})

    def __init__(self, config: DashengConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DashengConfig()
        self.embed_dim, self.depth, self.bands = config.embed_dim, config.depth, 1
        self.patch_frames, self.longest_samples = PATCH_FRAMES, None
        self.time_pos_embed = nn.Parameter(0.02 * torch.randn(1, config.embed_dim, 1, config.columns))
        self.freq_pos_embed = nn.Parameter(0.02 * torch.randn(1, config.embed_dim, 1, 1))
        self.init_bn = nn.Sequential(nn.Identity(), MelNorm(MEL_BINS))
        self.patch_embed = ColumnEmbed(config)
        sizes = EATConfig(embed_dim=config.embed_dim, depth=config.depth, num_heads=config.num_heads)
        self.blocks = nn.ModuleList(PreNormBlock(sizes) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim, eps=NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        statistics: Any = self.init_bn[1]
        statistics.running_mean.fill_(-20.0)
        statistics.running_var.fill_(400.0)

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """As :meth:`Encoder.encode`. The last block's tokens are normalised, those of other blocks are not.

        Raises:
            ValueError: if the spectrogram is not (batch, 1, frames >= 4, 64), or a layer does not exist.
        """
        layers = (self.depth,) if layers is None else layers
        if not layers or any(not 1 <= layer <= self.depth for layer in layers):
            raise ValueError(f"expected layers from 1 to {self.depth}, got {list(layers)}")
        shape = tuple(spectrogram.shape)
        if len(shape) != 4 or (shape[1], shape[3]) != (1, MEL_BINS) or shape[2] < PATCH_FRAMES:
            raise ValueError(
                f"expected a spectrogram of (batch, 1, frames >= {PATCH_FRAMES}, {MEL_BINS}), got {shape}"
            )
        columns = self.patch_embed(self.init_bn(spectrogram))
        parts = []
        for first in range(0, columns.shape[1], self.config.columns):
            part = slice(first, first + self.config.columns)
            keep = None if token_keep is None else token_keep[:, part]
            parts.append(self._part(columns[:, part], layers, keep, branch_keep))
        return [Tokens(torch.cat(of_layer, dim=1), None) for of_layer in zip(*parts, strict=True)]

    def _part(
        self, columns: Tensor, layers: Sequence[int], token_keep: Tensor | None, branch_keep: Tensor | None
    ) -> list[Tensor]:
        """Tokens of each layer, from columns (batch, at most ``config.columns``, D) without positions."""
        positions = self.time_pos_embed[..., : columns.shape[1]] + self.freq_pos_embed
        x, key_keep, found = columns + positions.flatten(2).transpose(1, 2), None, {}
        if token_keep is not None:
            # A part that is all padding attends to all of it, as a softmax over nothing is not defined.
            key_keep = (token_keep | ~token_keep.any(dim=1, keepdim=True))[:, None, None, :]
        for number, block in enumerate(self.blocks[: max(layers)], start=1):
            keep = None if branch_keep is None else branch_keep[number - 1].to(x.dtype)
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, key_keep, keep, use_reentrant=False)
            else:
                x = block(x, key_keep, keep)
            if number in layers:
                found[number] = self.norm(x) if number == self.depth else x
        return [found[layer] for layer in layers]


# --- files ------------------------------------------------------------------------------------------------------


def load_dasheng(name: str, revision: str | None = None) -> Dasheng:
    """Load Dasheng in evaluation mode, float32, on the CPU.

    Args:
        name: a released checkpoint (``dasheng_base.pt``; nothing in it is executed), a folder that
            :func:`save_dasheng` wrote, or ``random:SIZE`` with one of :data:`SIZES`, optionally with ``:seed``.
        revision: not used; checkpoints are files.

    Raises:
        InputError: if there is no such file, or it does not hold exactly the tensors of such a model.
    """
    if name.startswith("random:"):
        return random_start(name, {size: partial(Dasheng, config) for size, config in SIZES.items()})
    path = find_weights(name, example="dasheng_base.pt", source="github.com/XiaoMi/dasheng")
    tensors, given = read_checkpoint(path, "config", _not_dasheng)
    found = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(NOT_ENCODER) and not name.endswith(".num_batches_tracked")
    }
    encoder = Dasheng(_config(found, given, path))
    if wrong := differences(encoder, found):
        raise _not_dasheng(path, first_of(wrong))
    encoder.load_state_dict(found)
    return encoder.float().eval()


def save_dasheng(encoder: Dasheng, folder: Path) -> None:
    """Write an encoder; :func:`load_dasheng` reads it back bit for bit.

    Raises:
        InputError: if the folder cannot be written.
    """
    save_folder(encoder, {"model_type": "dasheng", **asdict(encoder.config), **FIXED}, folder)


def _config(tensors: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> DashengConfig:
    """Sizes from shapes; the number of heads from the width, as published, or else from the configuration."""
    for key, value in FIXED.items():
        stated = given.get(key, value)
        if (list(stated) if isinstance(stated, tuple) else stated) != value:
            raise _not_dasheng(path, f"{key} = {stated!r} instead of {value!r}")
    positions = tensors.get("time_pos_embed")
    blocks = [int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))]
    if not blocks or not isinstance(positions, Tensor) or positions.dim() != 4:
        raise _not_dasheng(path, f"{len(tensors)} tensors without blocks or time_pos_embed")
    width = positions.shape[1]
    heads = HEADS_OF_WIDTH.get(width, given.get("num_heads"))
    if type(heads) is not int or heads < 1 or width % heads:
        raise _not_dasheng(path, f"width {width} and num_heads = {heads!r}")
    return DashengConfig(width, max(blocks) + 1, heads, positions.shape[3])


def _not_dasheng(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="exactly the tensors and settings of a released Dasheng encoder (base, 0.6B, 1.2B)",
        remedy="Check that the file is a Dasheng checkpoint, or get it again",
    )
