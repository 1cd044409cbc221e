"""Pooling without parameters: the tokens of a clip, or its log-mel spectrogram, to one vector or one per band."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-12


def mean_pooling(tokens: Tensor) -> Tensor:
    """Mean over the tokens: (..., tokens, dim) to (..., dim)."""
    return tokens.mean(dim=-2)


def mean_std_pooling(tokens: Tensor) -> Tensor:
    """Mean and population deviation over the tokens: (..., tokens, dim) to (..., 2 dim)."""
    return torch.cat([tokens.mean(dim=-2), tokens.std(dim=-2, correction=0)], dim=-1)


def relative_deviation_pooling(tokens: Tensor, gamma: float) -> Tensor:
    """Relative deviation pooling, RDP(gamma): the farther a token is from the mean, the larger its weight.

    With mu the mean token and d_t = ||x_t - mu|| / max_t ||x_t - mu|| (0 where the largest is below 1e-12), the
    weights are w_t = (1 + d_t)^gamma, divided by their sum, and the result is sum_t w_t x_t. Gamma 0 is the mean.

    Args:
        tokens: (..., tokens, dim) float32.
        gamma: at least 0.

    Returns:
        (..., dim) float32.
    """
    distances = (tokens - tokens.mean(dim=-2, keepdim=True)).norm(dim=-1)
    largest = distances.amax(dim=-1, keepdim=True)
    relative = torch.where(largest > EPSILON, distances / largest.clamp_min(EPSILON), torch.zeros_like(distances))
    weights = (1.0 + relative) ** gamma
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return (weights.unsqueeze(-1) * tokens).sum(dim=-2)


class MeanPooling(nn.Module):
    """:func:`mean_pooling` as a module."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., tokens, dim) to (..., dim)."""
        return mean_pooling(tokens)


class MeanStdPooling(nn.Module):
    """:func:`mean_std_pooling` as a module."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., tokens, dim) to (..., 2 dim)."""
        return mean_std_pooling(tokens)


class RelativeDeviationPooling(nn.Module):
    """:func:`relative_deviation_pooling` as a module.

    Args:
        gamma: at least 0; 0 is the mean.

    Raises:
        ValueError: if gamma is negative.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"expected gamma of at least 0, got {gamma}")
        self.gamma = gamma

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., tokens, dim) to (..., dim)."""
        return relative_deviation_pooling(tokens, self.gamma)


def log_mel_statistics(log_mel: Tensor, lags: Sequence[int], *, remove_level: bool) -> Tensor:
    """Mean of a log-mel spectrogram over time, and the deviation of its differences over time.

    For a band b the statistics are mean_t x_tb and, for every lag l, the population deviation over t of
    x_(t+l)b - x_tb; without lags, that of x_tb itself. Differences over a few frames are insensitive to slow
    changes of background noise. A lag as long as the clip gives zeros.

    Args:
        log_mel: (frames, bands) float32 of one clip, without padding.
        lags: frames between the two values of a difference.
        remove_level: subtract the mean over time and bands from the means, which makes them independent of the
            gain. A constant band is empty (as EAT's filter 3): it is ignored, and its mean is 0.

    Returns:
        (1 + max(1, lags), bands) float32.
    """
    mean = log_mel.mean(dim=0)
    rows = [_without_level(log_mel, mean) if remove_level else mean]
    rows += [_deviation(log_mel[lag:] - log_mel[:-lag]) for lag in lags]
    if not lags:
        rows.append(_deviation(log_mel - log_mel[:1]))  # exactly 0 of a constant band
    return torch.stack(rows)


def _deviation(rows: Tensor) -> Tensor:
    """The population deviation of every column, 0 of none: (rows, columns) to (columns,).

    ``torch.std`` takes 20 times as long over the first axis.
    """
    if not len(rows):
        return rows.new_zeros(rows.shape[1])
    return (rows - rows.mean(dim=0)).square_().mean(dim=0).sqrt()


def _without_level(log_mel: Tensor, mean: Tensor) -> Tensor:
    varies = (log_mel.amax(dim=0) - log_mel.amin(dim=0)) > 0
    level = mean[varies].mean() if bool(varies.any()) else mean.new_zeros(())
    return torch.where(varies, mean - level, torch.zeros_like(mean))
