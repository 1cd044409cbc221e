"""The Mahalanobis back-end: Mahalanobis distance to the mean of the normal clips."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.backends import Domains, Features, Scores, as_features, as_target
from nearfar.scoring.contributions import Contributions, divided, symmetric_root
from nearfar.settings import PositiveFloat, Settings


class MahalanobisSettings(Settings):
    """``shrinkage``: the covariance S becomes S + shrinkage * (trace(S) / dim) I, so that it can be inverted."""

    shrinkage: PositiveFloat = 0.1


class Mahalanobis:
    """Mahalanobis distance to the nearer domain, as mean over parts.

    Every domain has its own mean vector. Both share the covariance of all clips about the mean of their domain,
    since the ten clips of a target domain are too few for one. (Lee et al., "A Simple Unified Framework for
    Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018.)
    """

    def __init__(self, settings: MahalanobisSettings | None = None, **changes: Any) -> None:
        given = (settings or MahalanobisSettings()).model_dump()
        self.settings = MahalanobisSettings.model_validate(given | changes)

    def fit(self, normals: Features, domains: Domains = None) -> Self:
        """Fit on normal clips.

        Args:
            normals: (normals, parts, dim) or (normals, dim) float32.
            domains: ``"source"`` or ``"target"`` per clip, or bool; None: all source.

        Raises:
            ValueError: if there are fewer than two normal clips, or a feature is not finite.
        """
        self.features = as_features(normals)
        target = as_target(domains, len(self.features))
        if len(self.features) < 2:
            raise ValueError("a covariance needs two normal clips or more")
        if not bool(torch.isfinite(self.features).all()):
            raise ValueError("a feature is not finite")
        self._group = torch.unique(target.long(), return_inverse=True)[1]
        self._count = torch.bincount(self._group).double()
        # Parts are the first axis: everything below is batched over them.
        self._values = self.features.double().transpose(0, 1)
        members = torch.nn.functional.one_hot(self._group).double().T
        self._means = (members @ self._values) / self._count[:, None]
        residual = self._values - self._means[:, self._group]
        scatter = residual.transpose(1, 2) @ residual
        self._residual, self._scatter = residual, scatter
        self._degrees = max(len(self.features) - len(self._count), 1)
        covariance = scatter / self._degrees
        scale = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
        self._ridge = self.settings.shrinkage * scale[:, None, None] * torch.eye(covariance.shape[-1]).double()
        self._precision = torch.linalg.inv(covariance + self._ridge)
        self.__dict__.pop("_root", None)
        return self

    def score(self, features: Features) -> Scores:
        """Score clips, (clips, parts, dim) or (clips, dim) float32: (clips,) float64, higher is more anomalous."""
        values = as_features(features, like=self.features).double().transpose(0, 1)
        offsets = values[:, :, None] - self._means[:, None]  # (parts, clips, domains, dim)
        squares = ((offsets @ self._precision[:, None]) * offsets).sum(dim=-1)
        return _scores(squares)

    @property
    def means(self) -> Tensor:
        """(parts, domains, dim) float64."""
        return self._means

    @property
    def precision(self) -> Tensor:
        """(parts, dim, dim) float64."""
        inverse: Tensor = self._precision
        return inverse

    @cached_property
    def _root(self) -> Tensor:
        """(parts, dim, dim) float64, computed on first use."""
        return symmetric_root(self._precision)

    def contributions(self, features: Features) -> Contributions:
        """What the scores of clips are made of: (clips, parts, dim) or (clips, dim) float32.

        The distance of a part is divided in proportion to the squares of its whitened dimensions, see
        :func:`nearfar.scoring.contributions.symmetric_root`; differences are from the mean of the nearer domain.
        """
        values = as_features(features, like=self.features).double().transpose(0, 1)
        offsets = values[:, :, None] - self._means[:, None]  # (parts, clips, domains, dim)
        squares = (offsets @ self._root[:, None]).square()
        domain = squares.sum(dim=-1).sqrt().mean(dim=0).argmin(dim=-1)
        clips = torch.arange(len(domain))
        squares, offsets = squares[:, clips, domain], offsets[:, clips, domain]
        shares = divided(squares.sum(dim=-1).sqrt() / len(squares), squares)
        return Contributions(shares.transpose(0, 1), offsets.transpose(0, 1), "the mean of normal recordings")

    def leave_one_out(self) -> Scores:
        """The score of every normal clip by a fit without it, (normals,) float64.

        Exact except for the ridge, which stays that of all clips: without clip i of a domain of n, with residual
        r, the domain's mean moves by -r / (n - 1) and the scatter decreases by n / (n - 1) r r^T, and the inverse
        follows by the Sherman-Morrison formula. A domain whose only clip is left out is ignored.
        """
        own = self._count[self._group]
        rest = max(float(self._degrees) - 1.0, 1.0)
        loss = torch.where(own > 1, own / (own - 1.0).clamp_min(1.0), 0.0) / rest
        # Without the clip the covariance is scatter / rest - loss r r^T, plus the same ridge.
        base = torch.linalg.inv(self._scatter / rest + self._ridge)
        pulled = self._residual @ base  # (parts, normals, dim)
        inside = 1.0 - loss * (pulled * self._residual).sum(dim=-1)
        moved = self._residual * torch.where(own > 1, 1.0 / (own - 1.0).clamp_min(1.0), 0.0)[:, None]
        columns = []
        for domain in range(len(self._count)):
            member = self._group == domain
            mean = self._means[:, domain, None].expand_as(self._values)
            offset = self._values - torch.where(member[:, None], mean - moved, mean)
            plain = ((offset @ base) * offset).sum(dim=-1)
            along = (pulled * offset).sum(dim=-1)
            squares = plain + loss * along.square() / inside.clamp_min(1e-12)
            # Without the only clip of a domain there is also one mean less, so the covariance does not change.
            unchanged = ((offset @ self._precision) * offset).sum(dim=-1)
            squares = torch.where(own == 1, unchanged, squares)
            columns.append(squares.masked_fill(member & (own == 1), torch.inf))
        return _scores(torch.stack(columns, dim=-1))


def _scores(squares: Tensor) -> Scores:
    """From (parts, clips, domains) squared distances to (clips,): mean over parts, then the lower domain's."""
    distance = squares.clamp_min(0.0).sqrt().mean(dim=0).amin(dim=-1)
    return np.asarray(distance.numpy(), dtype=np.float64)
