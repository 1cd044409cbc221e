"""Plain references that the benchmarks compare with: the same results, computed the way EAT's own code does.

Attention is written out with its (tokens x tokens) matrix, linear layers are torch's, and the front end works on
one clip at a time and makes its window and filters anew for each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.eat import EAT, Attention


def plain_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What torch.nn.Linear does."""
    return F.linear(x, layer.weight, layer.bias)


def plain_attention(attention: Attention, x: Tensor) -> Tensor:
    """Self-attention of (B, N, D) through an explicit softmax over (B, heads, N, N)."""
    batch, tokens, dim = x.shape
    size = dim // attention.num_heads
    qkv = (
        plain_linear(attention.qkv, x).reshape(batch, tokens, 3, attention.num_heads, size).permute(2, 0, 3, 1, 4)
    )
    q, k, v = qkv[0] * size**-0.5, qkv[1], qkv[2]
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    return plain_linear(attention.proj, (weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


def plain_encoder(encoder: EAT, fbank: Tensor) -> Tensor:
    """What ``encoder(fbank)`` returns, with its weights, torch's linear layers and plain attention."""
    x = encoder.local_encoder.proj(fbank).flatten(2).transpose(1, 2)
    x = x + encoder.fixed_positional_encoder.positions[:, : x.shape[1]]
    x = encoder.pre_norm(torch.cat([encoder.extra_tokens.expand(len(x), -1, -1), x], dim=1))
    for block in encoder.blocks:
        x = block.norm1(x + plain_attention(block.attn, x))
        x = block.norm2(x + plain_linear(block.mlp.fc2, F.gelu(plain_linear(block.mlp.fc1, x))))
    return x


def plain_fbank(waveform: Tensor, mean: float = -4.268, std: float = 4.569) -> Tensor:
    """Normalised log-mel of one clip, (samples,) to (frames, 128), step by step as Kaldi describes it."""
    waveform = waveform - waveform.mean()
    frames = waveform.unfold(0, 400, 160).clone()
    frames = frames - frames.mean(dim=1, keepdim=True)
    shifted = F.pad(frames.unsqueeze(0), (1, 0), mode="replicate").squeeze(0)
    frames = frames - 0.97 * shifted[:, :-1]
    frames = frames * torch.hann_window(400, periodic=False)
    frames = F.pad(frames, (0, 112))
    power = torch.fft.rfft(frames).abs().pow(2.0)
    low, high = 1127.0 * math.log(1.0 + 20.0 / 700.0), 1127.0 * math.log(1.0 + 8000.0 / 700.0)
    step = (high - low) / 129
    channel = torch.arange(128).unsqueeze(1)
    left, right = low + channel * step, low + (channel + 2) * step
    mel = (1127.0 * (1.0 + 31.25 * torch.arange(256) / 700.0).log()).unsqueeze(0)
    filters = torch.min((mel - left) / step, (right - mel) / step).clamp_min(0.0)
    energies = power @ F.pad(filters, (0, 1)).T
    return (energies.clamp_min(torch.finfo(torch.float32).eps).log() - mean) / (2.0 * std)


def interleaved(
    works: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each of several rounds, after one round that does not count.

    Taking turns spreads other work on the machine over all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            if turn:
                seconds[name].append(clock() - start)
    return seconds
