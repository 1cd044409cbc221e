"""EAT with noise-aware layers: tokens of the near channel that attend to tokens of the far channel.

After every block of a frozen encoder stands a layer that starts as the identity: cross-attention from near tokens
to the far tokens of the same block, and a gated feed-forward network (Shazeer, "GLU Variants Improve Transformer",
2020), each behind an RMS norm and with a residual. The far channel passes through the encoder's own blocks alone.
Trained on simulated rooms, the output approaches the tokens of the near channel without the noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.base import Encoder, Tokens
from nearfar.encoders.eat import EAT
from nearfar.encoders.linear import Linear
from nearfar.encoders.weights import SHIPPED_FOLDER, load_encoder, save_encoder
from nearfar.errors import InputError
from nearfar.files import whole_file
from nearfar.settings import PositiveInt, Rate, Settings

LAYERS_CONFIG, LAYERS_WEIGHTS = "noise_aware.json", "noise_aware.safetensors"
"""The files of the layers, beside those of the encoder."""

SHIPPED: tuple[str, ...] = ()
"""Encoders with layers that come with the package, by the name of their folder."""


class LayerSizes(Settings):
    """Sizes of the noise-aware layers."""

    heads: PositiveInt = 8
    """Attention heads; they divide the encoder's width."""
    hidden_ratio: PositiveInt = 3
    """Width of the gated feed-forward network, in widths of the encoder."""
    dropout: Rate = 0.1
    """Of the output of the attention, in training."""
    seed: int = Field(0, ge=0)
    """Of the initial weights."""


class RmsNorm(nn.RMSNorm):
    """torch's RMS norm in operations that can be exported to ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.square().mean(dim=-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt()
        return x * scale * self.weight


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another; the output starts as zero."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, other: Tensor, key_keep: Tensor | None) -> Tensor:
        """x, other: (B, N, D); key_keep: (B, 1, 1, N) bool, True = attend, or None. Returns (B, N, D)."""
        batch, tokens, dim = x.shape
        shape = (batch, tokens, self.heads, dim // self.heads)
        query = self.query(x).view(shape).transpose(1, 2)
        key, value = (part.reshape(shape).transpose(1, 2) for part in self.key_value(other).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=key_keep)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim)))


class GatedMlp(nn.Module):
    """SwiGLU: ``W3 (silu(W1 x) * W2 x)``; the output starts as zero."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_value = Linear(dim, 2 * hidden)
        self.proj = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return cast(Tensor, self.proj(F.silu(gate) * value))


class NoiseAwareLayer(nn.Module):
    """``x = x + dropout(attention(norm(x), norm(far)))``, then ``x = x + mlp(norm(x))``."""

    def __init__(self, dim: int, sizes: LayerSizes) -> None:
        super().__init__()
        self.near_norm, self.far_norm, self.mlp_norm = RmsNorm(dim), RmsNorm(dim), RmsNorm(dim)
        self.attn = CrossAttention(dim, sizes.heads)
        self.mlp = GatedMlp(dim, sizes.hidden_ratio * dim)
        self.dropout = nn.Dropout(sizes.dropout)
        for projection in (self.attn.proj, self.mlp.proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, far: Tensor, key_keep: Tensor | None = None) -> Tensor:
        """x, far: (B, N, D). Returns (B, N, D)."""
        x = x + self.dropout(self.attn(self.near_norm(x), self.far_norm(far), key_keep))
        return x + cast(Tensor, self.mlp(self.mlp_norm(x)))


@dataclass(frozen=True)
class NoiseAwareConfig:
    """Sizes of the encoder, as in its ``config.json``, and of the layers."""

    encoder: dict[str, Any]
    layers: dict[str, Any]


class NoiseAwareEAT(Encoder):
    """An EAT with a noise-aware layer after each block; the input is a pair of spectrograms.

    Args:
        encoder: used, not copied.
        sizes: of the layers, whose initial weights depend on ``sizes.seed`` and make them the identity.

    Raises:
        InputError: if the heads do not divide the encoder's width.
    """

    def __init__(self, encoder: EAT, sizes: LayerSizes | None = None) -> None:
        super().__init__()
        self.sizes_of_layers = sizes = sizes or LayerSizes()
        if encoder.embed_dim % sizes.heads:
            raise InputError(
                "layers.heads",
                found=f"{sizes.heads} heads for an encoder of width {encoder.embed_dim}",
                expected="a divisor of the width",
                remedy="Change layers.heads",
            )
        self.encoder = encoder
        self.config = NoiseAwareConfig(encoder.sizes(), sizes.model_dump(mode="json"))
        self.embed_dim, self.depth, self.bands = encoder.embed_dim, encoder.depth, encoder.bands
        self.patch_frames, self.longest_samples = encoder.patch_frames, encoder.longest_samples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sizes.seed)
            self.layers = nn.ModuleList(NoiseAwareLayer(encoder.embed_dim, sizes) for _ in range(encoder.depth))

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """As :meth:`Encoder.encode`, from (batch, 2, frames, mel bins): near, then far.

        The tokens of a block are those after its noise-aware layer.
        """
        outputs = self.all_tokens(spectrogram, layers, token_keep=token_keep, branch_keep=branch_keep)
        return [Tokens(output[:, 1:], output[:, 0]) for output in outputs]

    def all_tokens(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tensor]:
        """As :meth:`encode`, (batch, 1 + columns * bands, D) with CLS first."""
        layers = (self.depth,) if layers is None else layers
        if not layers or any(not 1 <= layer <= self.depth for layer in layers):
            raise ValueError(f"expected layers from 1 to {self.depth}, got {list(layers)}")
        if spectrogram.dim() != 4 or spectrogram.shape[1] != 2:
            raise ValueError(f"expected pairs (batch, 2, frames, mel bins), got {tuple(spectrogram.shape)}")
        key_keep = None if token_keep is None else F.pad(token_keep, (1, 0), value=True)[:, None, None, :]
        near, far = self.encoder.embed(spectrogram[:, :1]), self.encoder.embed(spectrogram[:, 1:])
        found = {}
        pairs = zip(self.encoder.blocks, self.layers, strict=True)
        for number, (block, layer) in enumerate(list(pairs)[: max(layers)], start=1):
            keep = None if branch_keep is None else branch_keep[number - 1].to(near.dtype)
            far = block(far, key_keep)
            near = layer(block(near, key_keep, keep), far, key_keep)
            if number in layers:
                found[number] = near
        return [found[layer] for layer in layers]

    def sizes(self) -> dict[str, Any]:
        """The content of ``config``; the dropout and the seed of layers do not change the output."""
        layers = {key: self.config.layers[key] for key in ("heads", "hidden_ratio")}
        return {**self.config.encoder, "noise_aware": layers}


def load_noise_aware(name: str, revision: str | None = None) -> NoiseAwareEAT:
    """Load an EAT with noise-aware layers, in evaluation mode, float32, on the CPU.

    Args:
        name: a folder that :func:`save_noise_aware` wrote, or an encoder as in
            :func:`nearfar.encoders.weights.load_encoder`, whose layers are the identity.
        revision: as in :func:`nearfar.encoders.weights.load_encoder`.

    Raises:
        InputError: if there is no such encoder, or the layers cannot be read or do not fit it.
    """
    folder = SHIPPED_FOLDER / name if name in SHIPPED else Path(name)
    if not any((folder / file).exists() for file in (LAYERS_CONFIG, LAYERS_WEIGHTS)):
        return NoiseAwareEAT(load_encoder(name, revision=revision)).eval()
    try:
        sizes = LayerSizes.model_validate_json((folder / LAYERS_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / LAYERS_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:  # of pydantic and of decoding as well
        reason = " ".join(str(error).split())[:200]
        raise _unfit(folder, f"noise-aware layers that cannot be read ({reason})") from None
    encoder = NoiseAwareEAT(load_encoder(folder), sizes)
    expected = {key: tuple(tensor.shape) for key, tensor in encoder.layers.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wrong := sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)):
        raise _unfit(folder, f"{len(wrong)} tensors missing, left over or of another shape ({wrong[0]})")
    if infinite := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise _unfit(folder, f"values that are not finite in {infinite[0]}")
    encoder.layers.load_state_dict(tensors)
    return encoder.eval()


def save_noise_aware(encoder: NoiseAwareEAT, folder: Path, *, compact: bool = False) -> None:
    """Write an encoder with its layers; :func:`load_noise_aware` reads it back bit for bit.

    ``compact`` is float16, which rounds. Each file appears whole or not at all.

    Raises:
        InputError: if the folder cannot be written, for instance because the disk is full.
    """
    save_encoder(encoder.encoder, folder, compact=compact)
    dtype = torch.float16 if compact else torch.float32
    stored = {
        key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in encoder.layers.state_dict().items()
    }
    try:
        with whole_file(folder / LAYERS_WEIGHTS) as partial:
            save_file(stored, partial, metadata={"format": "pt"})
        with whole_file(folder / LAYERS_CONFIG) as partial:
            partial.write_text(json.dumps(encoder.config.layers, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            folder,
            found=f"a folder that cannot be written ({error})",
            expected=f"a writable folder with {sum(t.nbytes for t in stored.values()) / 1e6:.0f} MB free",
            remedy="Free some space or choose another folder",
        ) from None


def _unfit(folder: Path, found: str) -> InputError:
    return InputError(
        folder,
        found=found,
        expected=f"{LAYERS_CONFIG} and {LAYERS_WEIGHTS} of this encoder, as nearfar pretrain writes them",
        remedy="Restore the folder, or train the layers again",
    )
