"""EAT, the Efficient Audio Transformer: a post-norm ViT over 16 x 16 patches of a log-mel spectrogram.

Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024. Parameter names are
those of the released Hugging Face files without their ``model.`` prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nearfar.encoders.base import Encoder, Tokens
from nearfar.encoders.linear import Linear
from nearfar.frontends.kaldi import FRAME_SAMPLES, FRAME_SHIFT


@dataclass(frozen=True, slots=True)
class EATConfig:
    """Sizes of an EAT encoder; the defaults are EAT-base."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    patch_size: int = 16
    mel_bins: int = 128
    max_length: int = 768
    """Time columns in the table of positions: 768 columns of 16 frames are 122.88 s."""

    @property
    def bands(self) -> int:
        """Patches along frequency in one time column; token ``t * bands + f`` is column t, band f."""
        return self.mel_bins // self.patch_size


def encoder_flops(config: EATConfig, frames: int) -> int:
    """Floating-point operations of the matrix products alone: patches, linear layers and attention."""
    patches = frames // config.patch_size * config.bands
    tokens, dim, hidden = patches + 1, config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    linear = 2 * tokens * dim * (3 * dim + dim + 2 * hidden)
    attention = 2 * 2 * tokens * tokens * dim
    return config.depth * (linear + attention) + 2 * patches * config.patch_size**2 * dim


EAT_BASE, EAT_LARGE = EATConfig(), EATConfig(embed_dim=1024, depth=24, num_heads=16)
SIZES = {"base": EAT_BASE, "large": EAT_LARGE, "tiny": EATConfig(embed_dim=192, depth=4, num_heads=3)}

SIZE_KEYS = {key: type(getattr(EAT_BASE, key)) for key in EATConfig.__dataclass_fields__}
FIXED_BY_EAT = {"in_chans": 1, "qkv_bias": True, "layer_norm_first": False, "norm_affine": True}
"""Settings of the published configuration that are the same in every release and not supported otherwise."""


def sincos_positions(columns: int, bands: int, dim: int) -> Tensor:
    """EAT's fixed positions, (1, columns * bands, dim) float32.

    The first half of the channels encodes the frequency band, the second half the time column; each half is
    ``[sin(p w_k), cos(p w_k)]`` with ``w_k = 10000^(-k / (dim / 4))``.
    """
    # On the "meta" device, on which encoders are built before they are filled with weights, arange imports torch's
    # compiler, which takes a second.
    arange = partial(torch.arange, dtype=torch.float64, device="cpu")
    omega = 1.0 / 10_000.0 ** (arange(dim // 4) / (dim / 4))

    def encode(count: int) -> Tensor:
        angle = arange(count)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    band, column = encode(bands).repeat(columns, 1), encode(columns).repeat_interleave(bands, dim=0)
    return torch.cat([band, column], dim=1).float().unsqueeze(0)


class Positions(nn.Module):
    """The table of fixed positions; derived from the sizes, so it is not part of the state."""

    positions: Tensor

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        table = sincos_positions(config.max_length, config.bands, config.embed_dim)
        self.register_buffer("positions", table, persistent=False)


class PatchEmbed(nn.Module):
    """A (16 x 16) convolution of stride 16: (B, 1, T, mel) to (B, T // 16 * bands, D), frequency innermost."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, fbank: Tensor) -> Tensor:
        patches: Tensor = self.proj(fbank)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one qkv projection; q, k, v order, scale d^-0.5, no relative bias."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, key_keep: Tensor | None) -> Tensor:
        """x: (B, N, D); key_keep: (B, 1, 1, N) bool, True = attend, or None. Returns (B, N, D)."""
        return self.forward_with_keys(x, key_keep)[0]

    def forward_with_keys(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same, and the keys (B, heads, N, D / heads); a mask of numbers is added before the softmax."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))), k


class Mlp(nn.Module):
    """fc1, exact (erf) GELU, fc2."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = Linear(config.embed_dim, hidden)
        self.fc2 = Linear(hidden, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """A post-norm block: ``h = norm1(h + Attn(h)); h = norm2(h + MLP(h))``."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, key_keep: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x: (B, N, D); keep: (2, B) factors of the attention and MLP branch (stochastic depth), or None."""
        return self.forward_with_mlp(x, key_keep, keep)[0]

    def forward_with_mlp(
        self, x: Tensor, key_keep: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The block's output and, of the same shape, the MLP's output before the residual and norm2."""
        attended = self.attn(x, key_keep)
        x = self.norm1(x + (attended if keep is None else attended * keep[0, :, None, None]))
        mlp: Tensor = self.mlp(x)
        return self.norm2(x + (mlp if keep is None else mlp * keep[1, :, None, None])), mlp


class EAT(Encoder):
    """The encoder: normalised log-mel to tokens.

    Weights start as EAT's pre-training starts: N(0, 0.02) linear weights, zero biases, Xavier patch weights over
    the flattened patch, N(0, 1) CLS.
    """

    config: EATConfig
    longest_samples: int
    no_weight_decay: ClassVar[frozenset[str]] = frozenset({"extra_tokens"})

    def __init__(self, config: EATConfig = EAT_BASE) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.depth, self.bands = config.embed_dim, config.depth, config.bands
        self.patch_frames = config.patch_size
        self.longest_samples = FRAME_SAMPLES + (config.max_length * config.patch_size - 1) * FRAME_SHIFT
        self.extra_tokens = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.local_encoder = PatchEmbed(config)
        self.fixed_positional_encoder = Positions(config)
        self.pre_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        if self.extra_tokens.is_meta:  # to be filled with weights; drawing none saves torch's compiler, a second
            return
        nn.init.normal_(self.extra_tokens)
        patch = self.local_encoder.proj
        nn.init.xavier_uniform_(patch.weight.view(patch.weight.shape[0], -1))
        nn.init.zeros_(patch.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def patches(self, fbank: Tensor) -> Tensor:
        """Patches with positions, (B, 1, T, mel) to (B, N, D); raises as :meth:`forward`."""
        config = self.config
        shape = tuple(fbank.shape)
        if len(shape) != 4 or (shape[1], shape[3]) != (1, config.mel_bins):
            raise ValueError(f"expected a fbank of (batch, 1, frames, {config.mel_bins}), got {shape}")
        columns = fbank.shape[2] // config.patch_size
        if not 1 <= columns <= config.max_length:
            most = config.patch_size * config.max_length
            raise ValueError(f"expected {config.patch_size} to {most} frames, got {fbank.shape[2]}")
        tokens: Tensor = self.local_encoder(fbank)
        return tokens + self.fixed_positional_encoder.positions[:, : tokens.shape[1]]

    def with_cls(self, patches: Tensor) -> Tensor:
        """The input of the blocks, normalised, with CLS in front of some patches: (B, N, D) to (B, 1 + N, D)."""
        cls = self.extra_tokens.expand(patches.shape[0], -1, -1)  # not len, which an export would hold constant
        return cast(Tensor, self.pre_norm(torch.cat([cls, patches], dim=1)))

    def embed(self, fbank: Tensor) -> Tensor:
        """Patches with positions, CLS in front, normalised: (B, 1, T, mel) to (B, 1 + N, D)."""
        return self.with_cls(self.patches(fbank))

    def forward(
        self, fbank: Tensor, *, token_keep: Tensor | None = None, branch_keep: Tensor | None = None
    ) -> Tensor:
        """Encode a batch of spectrograms.

        Args:
            fbank: (batch, 1, frames, 128) float, the output of :class:`nearfar.frontends.KaldiFbank`. Frames
                beyond the last whole patch of 16 are ignored, as in the published code.
            token_keep, branch_keep: as in :meth:`Encoder.encode`. In the published code padding is attended to.

        Returns:
            (batch, 1 + N, D): CLS, then patch tokens with ``N = frames // 16 * 8`` and index ``t * 8 + f``.

        Raises:
            ValueError: if the spectrogram has another shape, or no frames, or more than the table of positions.
        """
        return self._blocks(fbank, (self.depth,), token_keep, branch_keep)[0]

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """As :meth:`Encoder.encode`; blocks above the highest of ``layers`` are not computed."""
        layers = (self.depth,) if layers is None else layers
        outputs = self._blocks(spectrogram, layers, token_keep, branch_keep)
        return [Tokens(output[:, 1:], output[:, 0]) for output in outputs]

    def _blocks(
        self, fbank: Tensor, layers: Sequence[int], token_keep: Tensor | None, branch_keep: Tensor | None
    ) -> list[Tensor]:
        if not layers or any(not 1 <= layer <= self.depth for layer in layers):
            raise ValueError(f"expected layers from 1 to {self.depth}, got {list(layers)}")
        key_keep = None if token_keep is None else F.pad(token_keep, (1, 0), value=True)[:, None, None, :]
        x = self.embed(fbank)
        outputs = {}
        for index, block in enumerate(self.blocks[: max(layers)]):
            keep = None if branch_keep is None else branch_keep[index].to(x.dtype)
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, key_keep, keep, use_reentrant=False)
            else:
                x = block(x, key_keep, keep)
            if index + 1 in layers:
                outputs[index + 1] = x
        return [outputs[layer] for layer in layers]

    def sizes(self) -> dict[str, Any]:
        """The content of ``config.json`` in the published Hugging Face layout."""
        config = self.config
        return {
            "model_type": "eat",
            "model_variant": "pretrain",
            **{key: getattr(config, key) for key in SIZE_KEYS},
            **FIXED_BY_EAT,
            "stride": config.patch_size,
            "img_size": [64 * config.patch_size, config.mel_bins],
            "num_classes": 527,
        }


def build_encoder(size: str | EATConfig, seed: int = 0) -> EAT:
    """An encoder with a random start.

    Args:
        size: ``tiny`` (192 wide, 4 blocks, 1.8 M parameters), ``base``, ``large`` or a configuration.
        seed: decides the weights; torch's global random state is left as it was.

    Raises:
        ValueError: if there is no such size.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"expected one of {', '.join(SIZES)}, got {size!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EAT(SIZES[size] if isinstance(size, str) else size)
