"""The Mahalanobis back-end against numpy and scikit-learn; leave-one-out against fits without the clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.covariance import ShrunkCovariance

from nearfar.scoring import BACKENDS, Mahalanobis

Array = NDArray[np.float64]


def features(clips: int, parts: int = 2, dim: int = 5, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(parts, dim, dim))
    values = np.einsum("cpd,pde->cpe", random.normal(size=(clips, parts, dim)), mixing) + random.normal(size=dim)
    return torch.from_numpy(values.astype(np.float32))


class Naive:
    """The definition, part by part and clip by clip, with the ridge given or that of these clips."""

    def __init__(
        self, normals: Array, target: NDArray[np.bool_], shrinkage: float, ridge: list[Array] | None = None
    ) -> None:
        self.normals, self.parts = normals, range(normals.shape[1])
        groups = [normals[target == domain] for domain in (False, True) if (target == domain).any()]
        self.means = [[group[:, part].mean(axis=0) for group in groups] for part in self.parts]
        degrees = max(len(normals) - len(groups), 1)
        covariances = []
        for part in self.parts:
            total = np.zeros((normals.shape[2], normals.shape[2]))
            for group, mean in zip(groups, self.means[part], strict=True):
                for clip in group[:, part]:
                    total += np.outer(clip - mean, clip - mean)
            covariances.append(total / degrees)
        eye = np.eye(normals.shape[2])
        self.ridge = ridge or [shrinkage * max(np.trace(each) / len(each), 1e-12) * eye for each in covariances]
        self.inverses = [np.linalg.inv(each + add) for each, add in zip(covariances, self.ridge, strict=True)]

    def score(self, clip: Array) -> float:
        of_domains = []
        for domain in range(len(self.means[0])):
            offsets = [clip[part] - self.means[part][domain] for part in self.parts]
            distances = [np.sqrt(off @ inv @ off) for off, inv in zip(offsets, self.inverses, strict=True)]
            of_domains.append(np.mean(distances))
        return float(min(of_domains))


SIZES = [(12, 0), (12, 12), (12, 4), (9, 1), (9, 8), (5, 4), (4, 2), (3, 0), (3, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
@pytest.mark.parametrize(("parts", "dim"), [(1, 3), (2, 5), (3, 20)])
@pytest.mark.parametrize(("clips", "of_target"), SIZES)
def test_scores_and_leave_one_out_are_those_of_the_definition(
    clips: int, of_target: int, parts: int, dim: int, shrinkage: float
) -> None:
    normals, queries = features(clips, parts, dim), features(6, parts, dim, seed=1)
    target = np.arange(clips) >= clips - of_target
    scorer = Mahalanobis(shrinkage=shrinkage).fit(normals, target)
    values = normals.double().numpy()
    naive = Naive(values, target, shrinkage)
    expected = [naive.score(query) for query in queries.double().numpy()]
    np.testing.assert_allclose(scorer.score(queries), expected, rtol=1e-9)
    without = [
        Naive(np.delete(values, i, axis=0), np.delete(target, i), shrinkage, naive.ridge).score(values[i])
        for i in range(clips)
    ]
    if clips > 2 or of_target == 1:
        assert min(without) > 0
    np.testing.assert_allclose(scorer.leave_one_out(), without, rtol=1e-8)


def test_the_distance_of_one_domain_is_scikit_learn_s() -> None:
    normals, queries = features(30, 1, 6), features(9, 1, 6, seed=3)
    shrinkage = 0.25
    fitted = ShrunkCovariance(shrinkage=shrinkage / (1 + shrinkage)).fit(normals[:, 0].double().numpy())
    # Its covariance is divided by 30 and not 29, and (1 - a) S + a m I is (S + shrinkage m I) / (1 + shrinkage).
    squares = fitted.mahalanobis(queries[:, 0].double().numpy()) * 29 / 30 / (1 + shrinkage)
    np.testing.assert_allclose(Mahalanobis(shrinkage=shrinkage).fit(normals).score(queries), np.sqrt(squares))


def test_a_distance_by_hand() -> None:
    normals = [[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]]  # covariance diag(2/3, 8/3), mean 5/3
    scorer = Mahalanobis(shrinkage=0.6).fit(normals)
    expected = [np.sqrt(9 / (2 / 3 + 1)), np.sqrt(9 / (8 / 3 + 1)), 0.0]
    np.testing.assert_allclose(scorer.score([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), expected)


def test_the_nearer_domain_counts() -> None:
    source = torch.randn(40, 1, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randn(8, 1, 4, generator=torch.Generator().manual_seed(1)) + 30.0
    both = torch.cat([source, target])
    domains = ["source"] * 40 + ["target"] * 8
    near_target = torch.full((1, 1, 4), 30.0)
    apart = Mahalanobis().fit(both, domains)
    assert apart.score(near_target)[0] < 2 < Mahalanobis().fit(source).score(near_target)[0]
    np.testing.assert_array_equal(
        apart.score(near_target), Mahalanobis().fit(both, torch.arange(48) >= 40).score(near_target)
    )
    assert apart.leave_one_out().shape == (48,)


def test_the_back_end_of_recipes_is_this_one() -> None:
    normals, target = features(10), torch.arange(10) >= 7
    backend = BACKENDS["mahalanobis"]
    fitted = backend.fit(normals, target, backend.settings(shrinkage=0.5), 0, None)
    np.testing.assert_array_equal(
        fitted.leave_one_out(), Mahalanobis(shrinkage=0.5).fit(normals, target).leave_one_out()
    )
    assert not backend.only_lowers(backend.settings())


def test_what_cannot_be_fitted_or_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="two normal clips or more"):
        Mahalanobis().fit(features(1))
    with pytest.raises(ValueError, match="not finite"):
        Mahalanobis().fit(torch.full((3, 1, 2), torch.nan))
    with pytest.raises(ValueError, match="expected a domain for each of 4 clips"):
        Mahalanobis().fit(features(4), ["source"] * 3)
    with pytest.raises(ValueError, match="expected the domains source and target, got 'sauce'"):
        Mahalanobis().fit(features(4), ["source"] * 3 + ["sauce"])
    with pytest.raises(ValueError, match=r"expected features of \(clips, 2, 5\)"):
        Mahalanobis().fit(features(4)).score(features(4, dim=4))
    with pytest.raises(ValidationError, match="shrinkage"):
        Mahalanobis(shrinkage=0.0)
