"""Contributions of single dimensions of the features to a score, which add up to it.

A cosine distance is ``|u - v|² / 2`` of directions and the square of a standardised distance is a sum over
dimensions, so every dimension has its square as a weight. The score of a part, after its rescaling by a density,
is divided among the part's dimensions in proportion to these weights; a score that is a mean over parts is
divided among the parts as they enter the mean. A part that is nearer to normal clips than these are to one
another may contribute less than 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nearfar.scoring.backends import Features


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """The parts of the scores of some clips.

    Attributes:
        shares: (clips, parts, dim) float64, which add up to the score of each clip.
        difference: (clips, parts, dim) float64, the features minus those that the clip was compared with, in the
            unit of the features.
        reference: what it was compared with, in words.
    """

    shares: Tensor
    difference: Tensor
    reference: str = "the nearest normal recordings"


@runtime_checkable
class ExplainingScorer(Protocol):
    """A :class:`nearfar.scoring.backends.Scorer` that divides its scores among the dimensions of the features."""

    def contributions(self, features: Features) -> Contributions:
        """The contributions of every dimension to the scores of clips, (clips, parts, dim) float32."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewContributions:
    """The contribution of one view to fused scores.

    Attributes:
        shares: (clips, parts, dim) float64, after the weight of the view; (clips, 1, 1) of back-ends that do not
            divide their scores.
        difference: as in :class:`Contributions`; None of back-ends that do not divide their scores.
        constant: what the fusion adds for this view to every score. All shares and constants of all views add up
            to the fused scores.
        reference: as in :class:`Contributions`.
    """

    shares: Tensor
    difference: Tensor | None
    constant: float = 0.0
    reference: str = ""


def divided(total: Tensor, weights: Tensor) -> Tensor:
    """Divide numbers in proportion to weights, evenly where all weights are 0.

    Args:
        total: (...,) float64.
        weights: (..., n) float64, at least 0.

    Returns:
        (..., n) float64, with the sum ``total`` over the last axis.
    """
    whole = weights.sum(dim=-1, keepdim=True)
    even = torch.full_like(weights, 1.0 / weights.shape[-1])
    return total.unsqueeze(-1) * torch.where(whole > 0, weights / torch.where(whole > 0, whole, 1.0), even)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of positive semi-definite matrices, (..., dim, dim) float64.

    With the root R of an inverse covariance, the squares of ``R x`` add up to the squared Mahalanobis distance
    of x, and each stands for one dimension of x (Garthwaite and Koch, "Evaluating the contributions of individual
    variables to a quadratic form", Australian & New Zealand Journal of Statistics 58, 2016).
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)) @ vectors.mT
    return root
