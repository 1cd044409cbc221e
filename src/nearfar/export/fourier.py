"""Fourier transforms of real signals as two matrix products each, after Cooley and Tukey (1965).

ONNX Runtime's own transform takes several times as long on a CPU. With N = N1 N2, n = a N2 + b and k = k1 + N1 k2,

    X_k = sum_b exp(-2 pi i b k2 / N2) exp(-2 pi i b k1 / N) sum_a exp(-2 pi i a k1 / N1) x_n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _turns(rows: int, columns: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 pi r c / size, (rows, columns) float32."""
    product = torch.outer(torch.arange(rows), torch.arange(columns)) % size
    angle = 2 * math.pi * product.double() / size
    return angle.cos().float(), angle.sin().float()


class RealDFT(nn.Module):
    """Spectra of real signals of an even length, and back.

    Args:
        size: number of samples N.

    Raises:
        ValueError: if it is odd.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2:
            raise ValueError(f"expected an even length, got {size}")
        self.size = size
        self.second = min(
            (d for d in range(2, size + 1, 2) if size % d == 0), key=lambda d: abs(d * d - 1.5 * size)
        )
        self.first = size // self.second
        half = self.second // 2
        pairs = {
            "first": _turns(self.first, self.first, self.first),
            "twiddle": _turns(self.first, self.second, size),
            "second": _turns(self.second, half + 1, self.second),
        }
        for name, (cosine, sine) in pairs.items():
            self.register_buffer(f"{name}_cosine", cosine)
            self.register_buffer(f"{name}_sine", sine)
        weight = torch.full((size // 2 + 1, 1), 2.0 / size)
        weight[0] = weight[-1] = 1.0 / size
        self.register_buffer("weight", weight)
        self.register_buffer("alternating", 1.0 - 2.0 * (torch.arange(size) % 2).float())

    first_cosine: Tensor
    first_sine: Tensor
    twiddle_cosine: Tensor
    twiddle_sine: Tensor
    second_cosine: Tensor
    second_sine: Tensor
    weight: Tensor
    alternating: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(signals, N) float32 to (signals, N / 2 + 1, 2), real and imaginary parts."""
        grid = x.reshape(-1, self.first, self.second)
        real, imaginary = self.first_cosine @ grid, -(self.first_sine @ grid)
        real, imaginary = (
            real * self.twiddle_cosine + imaginary * self.twiddle_sine,
            imaginary * self.twiddle_cosine - real * self.twiddle_sine,
        )
        spectra = torch.stack(
            [
                real @ self.second_cosine + imaginary @ self.second_sine,
                imaginary @ self.second_cosine - real @ self.second_sine,
            ],
            dim=-1,
        )
        return spectra.transpose(1, 2).flatten(1, 2)[:, : self.size // 2 + 1]

    def inverse(self, spectra: Tensor) -> Tensor:
        """(signals, N / 2 + 1, 2) to (signals, N)."""
        weighted = spectra * self.weight
        last = weighted[:, -1:, 0] * self.alternating
        grid = weighted[:, :-1].reshape(-1, self.second // 2, self.first, 2).transpose(1, 2)
        real, imaginary = grid[..., 0], grid[..., 1]  # (signals, k1, k2)
        cosine, sine = self.second_cosine[:, :-1].T, self.second_sine[:, :-1].T  # (k2, b)
        real, imaginary = real @ cosine - imaginary @ sine, real @ sine + imaginary @ cosine
        real, imaginary = (
            real * self.twiddle_cosine - imaginary * self.twiddle_sine,
            imaginary * self.twiddle_cosine + real * self.twiddle_sine,
        )
        return (self.first_cosine @ real - self.first_sine @ imaginary).flatten(1) + last
