"""BEATs: a post-norm transformer over 16 x 16 patches of a log-mel spectrogram, with relative positions.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023. Parameter names are those of the
released checkpoints (iter3 and iter3+). There is no token of the whole clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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
from nearfar.encoders.linear import Linear
from nearfar.errors import InputError
from nearfar.frontends.kaldi import MEL_BINS

CLASSIFIER = "predictor."
"""Parameters of a fine-tuned checkpoint's classifier, which are skipped."""


@dataclass(frozen=True, slots=True)
class BEATsConfig:
    """Sizes, by the names of the checkpoints' own configuration; the defaults are those of the released models."""

    input_patch_size: int = 16
    embed_dim: int = 512
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800

    @property
    def bands(self) -> int:
        """Patches along frequency."""
        return MEL_BINS // self.input_patch_size


TINY = BEATsConfig(
    embed_dim=96, encoder_layers=4, encoder_embed_dim=192, encoder_ffn_embed_dim=768, encoder_attention_heads=3
)
SIZES = {"base": BEATsConfig(), "tiny": TINY}

FIXED: dict[str, Any] = {
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
"""Settings that are the same in every released model and not supported otherwise."""


def position_buckets(tokens: int, buckets: int, most: int) -> Tensor:
    """Bucket of every pair of a query and a key, (tokens, tokens) int64.

    Raffel et al., "Exploring the Limits of Transfer Learning", 2020: half of the buckets are for keys behind the
    query; of each half, the first half is for one distance each, the others grow logarithmically up to ``most``.
    """
    half, exact = buckets // 2, buckets // 4
    positions = torch.arange(tokens)
    distance = positions[None] - positions[:, None]
    far = distance.abs().clamp_min(1)
    logarithmic = (far.float() / exact).log() / math.log(most / exact) * (half - exact)
    large = (exact + logarithmic.to(torch.int64)).clamp_max(half - 1)
    return torch.where(distance.abs() < exact, distance.abs(), large) + (distance > 0) * half


class PositionConvolution(nn.Module):
    """A grouped convolution over tokens whose weights have a norm for every position of the kernel."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        dim, self.groups, self.kernel = config.encoder_embed_dim, config.conv_pos_groups, config.conv_pos
        self.bias = nn.Parameter(torch.zeros(dim))
        self.weight_g = nn.Parameter(torch.empty(1, 1, self.kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // self.groups, self.kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, tokens); without the last output of an even kernel there are as many tokens."""
        norm = self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
        weight = self.weight_v * (self.weight_g / norm)
        out = F.conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return out[:, :, :-1] if self.kernel % 2 == 0 else out


class GatedAttention(nn.Module):
    """Multi-head attention with gated relative positions (Chi et al., "XLM-E", ACL 2022, equation 8)."""

    def __init__(self, config: BEATsConfig, positions: nn.Embedding) -> None:
        super().__init__()
        dim, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.relative_attention_bias = positions
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (Linear(dim, dim) for _ in range(4))
        self.grep_linear = nn.Linear(dim // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, positions: Tensor, key_keep: Tensor | None) -> Tensor:
        """x: (B, N, D); positions: (heads, N, N); key_keep: (B, 1, 1, N) bool or None. Returns (B, N, D)."""
        batch, tokens, dim = x.shape
        shape = (batch, tokens, self.heads, dim // self.heads)
        q, k, v = (project(x).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        gates = self.grep_linear(q).view(batch, self.heads, tokens, 2, 4).sum(dim=-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1.0) + 2.0
        bias = gate * positions
        if key_keep is not None:
            bias = bias.masked_fill(~key_keep, -torch.inf)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return cast(Tensor, self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, dim)))


class DeepNormLayer(nn.Module):
    """A block with deep norm (Wang et al., "DeepNet", 2022): ``x = norm(alpha x + branch(x))``."""

    def __init__(self, config: BEATsConfig, positions: nn.Embedding) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.self_attn = GatedAttention(config, positions)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, config.encoder_ffn_embed_dim)
        self.fc2 = Linear(config.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.alpha = (2.0 * config.encoder_layers) ** 0.25

    def forward(self, x: Tensor, positions: Tensor, key_keep: Tensor | None, keep: Tensor | None) -> Tensor:
        """x: (B, N, D); keep: (2, B) factors of the two branches (stochastic depth), or None."""
        attended = self.self_attn(x, positions, key_keep)
        x = self.self_attn_layer_norm(self.alpha * x + _scaled(attended, keep, 0))
        mlp = self.fc2(F.gelu(self.fc1(x)))
        return cast(Tensor, self.final_layer_norm(self.alpha * x + _scaled(mlp, keep, 1)))


def _scaled(branch: Tensor, keep: Tensor | None, index: int) -> Tensor:
    return branch if keep is None else branch * keep[index, :, None, None]


class BEATsBlocks(nn.Module):
    """The blocks with the convolution and the norm before them; all blocks share the relative positions."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(PositionConvolution(config))
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        bias = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        self.layers = nn.ModuleList(DeepNormLayer(config, bias) for _ in range(config.encoder_layers))

    def start(self, x: Tensor) -> Tensor:
        """The input of the first block, from projected patches (batch, tokens, D)."""
        return cast(Tensor, self.layer_norm(x + F.gelu(self.pos_conv(x.transpose(1, 2))).transpose(1, 2)))


class BEATs(Encoder):
    """The encoder: normalised log-mel to tokens.

    The initial weights are random as torch's modules draw them; the released ones replace them.
    """

    config: BEATsConfig

    def __init__(self, config: BEATsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BEATsConfig()
        self.embed_dim, self.depth, self.bands = config.encoder_embed_dim, config.encoder_layers, config.bands
        self.patch_frames, self.longest_samples = config.input_patch_size, None
        size = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, size, size, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = BEATsBlocks(config)
        convolution: Any = self.encoder.pos_conv[0]
        deviation = math.sqrt(4.0 / (config.conv_pos * config.encoder_embed_dim))
        nn.init.normal_(convolution.weight_v, std=deviation)
        with torch.no_grad():
            convolution.weight_g.copy_(convolution.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt())

    def patches(self, spectrogram: Tensor) -> Tensor:
        """Normalised patches, (batch, 1, frames, 128) to (batch, tokens, embed_dim).

        Raises:
            ValueError: if the spectrogram has another shape, or fewer frames than a patch.
        """
        shape = tuple(spectrogram.shape)
        if len(shape) != 4 or (shape[1], shape[3]) != (1, MEL_BINS) or shape[2] < self.patch_frames:
            raise ValueError(
                f"expected a spectrogram of (batch, 1, frames >= {self.patch_frames}, {MEL_BINS}), got {shape}"
            )
        return cast(Tensor, self.layer_norm(self.patch_embedding(spectrogram).flatten(2).transpose(1, 2)))

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """As :meth:`Encoder.encode`; frames beyond the last whole patch are ignored, as in the published code."""
        layers = (self.depth,) if layers is None else layers
        if not layers or any(not 1 <= layer <= self.depth for layer in layers):
            raise ValueError(f"expected layers from 1 to {self.depth}, got {list(layers)}")
        x, key_keep = self.post_extract_proj(self.patches(spectrogram)), None
        if token_keep is not None:
            # Padding is zero before the convolution over tokens, as in the published code.
            x, key_keep = x.masked_fill(~token_keep[:, :, None], 0.0), token_keep[:, None, None, :]
        x = self.encoder.start(x)
        positions, found = self._positions(x.shape[1], x.device), {}
        for number, block in enumerate(self.encoder.layers[: max(layers)], start=1):
            keep = None if branch_keep is None else branch_keep[number - 1].to(x.dtype)
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, positions, key_keep, keep, use_reentrant=False)
            else:
                x = block(x, positions, key_keep, keep)
            if number in layers:
                found[number] = x
        return [Tokens(found[layer], None) for layer in layers]

    def _positions(self, tokens: int, device: torch.device) -> Tensor:
        config = self.config
        buckets = position_buckets(tokens, config.num_buckets, config.max_distance).to(device)
        first: Any = self.encoder.layers[0]
        return cast(Tensor, first.self_attn.relative_attention_bias(buckets).permute(2, 0, 1))


# --- files ------------------------------------------------------------------------------------------------------


def load_beats(name: str, revision: str | None = None) -> BEATs:
    """Load BEATs in evaluation mode, float32, on the CPU.

    Args:
        name: a released checkpoint (``BEATs_iter3.pt``, pre-trained or fine-tuned; nothing in it is executed), a
            folder that :func:`save_beats` wrote, or ``random:tiny`` or ``random:base``, optionally with ``:seed``.
        revision: not used; the released models are not on the hub.

    Raises:
        InputError: if there is no such file, or it does not hold exactly the tensors of such a model.
    """
    if name.startswith("random:"):
        return random_start(name, {size: partial(BEATs, config) for size, config in SIZES.items()})
    path = find_weights(name, example="BEATs_iter3.pt", source="github.com/microsoft/unilm, folder beats,")
    tensors, given = read_checkpoint(path, "cfg", _not_beats)
    return _filled(_config(given, path), tensors, path)


def save_beats(encoder: BEATs, folder: Path) -> None:
    """Write an encoder; :func:`load_beats` reads it back bit for bit.

    Raises:
        InputError: if the folder cannot be written.
    """
    save_folder(encoder, {"model_type": "beats", **asdict(encoder.config), **FIXED}, folder)


def _config(given: dict[str, Any], path: Path) -> BEATsConfig:
    for key, value in FIXED.items():
        if given.get(key, value) != value:
            raise _not_beats(path, f"{key} = {given[key]!r} instead of {value!r}")
    sizes = {key: given[key] for key in BEATsConfig.__dataclass_fields__ if key in given}
    if wrong := [key for key, value in sizes.items() if type(value) is not int or value < 1]:
        raise _not_beats(path, f"{wrong[0]} = {sizes[wrong[0]]!r}")
    return BEATsConfig(**sizes)


def _filled(config: BEATsConfig, tensors: dict[str, Any], path: Path) -> BEATs:
    found = {name: value for name, value in tensors.items() if not name.startswith(CLASSIFIER)}
    encoder = BEATs(config)
    wrong = differences(encoder, found)
    shared = [value for name, value in found.items() if name.endswith("relative_attention_bias.weight")]
    if not wrong and any(not torch.equal(value, shared[0]) for value in shared):
        wrong.append("relative positions that differ from block to block")
    if wrong:
        raise _not_beats(path, first_of(wrong))
    encoder.load_state_dict(found)
    return encoder.float().eval()


def _not_beats(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="exactly the tensors and settings of a released BEATs model (iter3, iter3+)",
        remedy="Check that the file is a BEATs checkpoint, or get it again",
    )
