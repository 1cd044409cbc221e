"""Attentive statistics pooling: many tokens to one vector.

Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018, in the form with one
attention weight per channel (Desplanques et al., "ECAPA-TDNN", Interspeech 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VARIANCE_FLOOR = 1e-10


def attentive_statistics(tokens: Tensor, attention: Tensor) -> Tensor:
    """Weighted mean and standard deviation over the token axis.

    With weights a_t that sum to one over t: mu = sum_t a_t h_t and sigma = sqrt(sum_t a_t (h_t - mu)^2), the
    variance floored at 1e-10 so that constant tokens have a gradient. The centred form is stable in float32.

    Args:
        tokens: (batch, tokens, channels) float32.
        attention: (batch, tokens, channels) or (batch, tokens, 1) float32, summing to one over the tokens.

    Returns:
        (batch, 2 * channels): mean, then standard deviation.
    """
    mean = (attention * tokens).sum(dim=1)
    variance = (attention * (tokens - mean.unsqueeze(1)).square()).sum(dim=1)
    return torch.cat([mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()], dim=1)


class AttentiveStatisticsPooling(nn.Module):
    """Attentive statistics pooling: weighted mean and deviation, with a learnt weight per token and channel.

    The weights are the softmax over tokens of ``e = W2 tanh(W1 h + b1) + b2``.

    Args:
        channels: D, the width of a token.
        attention_dim: width of the bottleneck W1.
        global_context: append the mean and deviation of the clip's tokens to every input of W1, so that the
            attention depends on the whole clip (ECAPA-TDNN, section 2.2).

    Attributes:
        out_features: 2 * channels.
    """

    def __init__(self, channels: int, attention_dim: int = 128, global_context: bool = False) -> None:
        super().__init__()
        self.out_features = 2 * channels
        self.global_context = global_context
        self.linear1 = nn.Linear(3 * channels if global_context else channels, attention_dim)
        self.linear2 = nn.Linear(attention_dim, channels)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pool over the token axis, in float32 for any type of input.

        Args:
            tokens: (batch, tokens, channels); patch tokens only, without CLS.
            keep: (batch, tokens) bool, False for tokens to mask, or None.

        Returns:
            (batch, 2 * channels) float32: weighted mean, then weighted standard deviation.

        Raises:
            ValueError: if the mask has another shape, or masks all tokens of a clip.
        """
        if keep is not None and (keep.shape != tokens.shape[:2] or not bool(keep.any(dim=1).all())):
            raise ValueError(
                f"expected a mask of {tuple(tokens.shape[:2])} that keeps a token of every clip, "
                f"got {tuple(keep.shape)}"
            )
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            read = with_context(tokens, keep) if self.global_context else tokens
            scores = self.linear2(self.linear1(read).tanh())
            if keep is not None:
                scores = scores.masked_fill(~keep.unsqueeze(2), float("-inf"))
            return attentive_statistics(tokens, scores.softmax(dim=1))


def with_context(tokens: Tensor, keep: Tensor | None = None) -> Tensor:
    """Tokens (batch, tokens, D) with the mean and sample deviation of their clip: (batch, tokens, 3 D)."""
    counted = tokens.new_ones(tokens.shape[:2]) if keep is None else keep.to(tokens.dtype)
    counted = counted.unsqueeze(2)
    count = counted.sum(dim=1, keepdim=True)
    mean = (counted * tokens).sum(dim=1, keepdim=True) / count
    squares = (counted * (tokens - mean).square()).sum(dim=1, keepdim=True)
    deviation = (squares / (count - 1).clamp_min(1)).clamp_min(VARIANCE_FLOOR).sqrt()
    return torch.cat([tokens, mean.expand_as(tokens), deviation.expand_as(tokens)], dim=2)
