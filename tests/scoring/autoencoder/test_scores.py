"""Scores of residuals against the official computation written out, with its whole N×N matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.scoring.autoencoder.scores import mean_square_score, precisions, selective_score


def covariance(seed: int, scale: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((600, 128)) * np.linspace(0.5, 3.0, 128)
    mixing = np.eye(128) + 0.02 * random.standard_normal((128, 128))  # mild, for a float32 inverse to be exact
    return scale * np.cov(rows @ mixing, rowvar=False)


def covariances(source: float = 1.0, target: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.stack([covariance(1, source), covariance(2, target)])).float()


def residuals(frames: int = 45, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(0.3 + 2.0 * random.standard_normal((frames, 128))).float()


def whole_matrix(residual: torch.Tensor, covariance: torch.Tensor) -> np.ndarray:
    """Δ Σ⁻¹ Δᵀ, every pair of frames."""
    delta, inverse = residual.double().numpy(), np.linalg.inv(covariance.double().numpy())
    matrix = np.empty((len(delta), len(delta)))
    for i, left in enumerate(delta):
        for j, right in enumerate(delta):
            matrix[i, j] = left @ inverse @ right
    return matrix


@pytest.mark.parametrize(("source", "target"), [(1.0, 1.0), (5.0, 0.2), (0.2, 5.0)])
def test_the_published_score_is_the_mean_of_the_whole_matrix(source: float, target: float) -> None:
    both, residual = covariances(source, target), residuals()
    means = [whole_matrix(residual, matrix).mean() for matrix in both]
    assert selective_score(residual, precisions(both)[0]) == pytest.approx(min(means), rel=1e-4)
    assert min(means) < 0.99 * max(means), "the choice must matter"


def test_the_textbook_score_is_the_mean_of_its_diagonal() -> None:
    both, residual = covariances(1.0, 3.0), residuals()
    means = [np.diag(whole_matrix(residual, matrix)).mean() for matrix in both]
    assert selective_score(residual, precisions(both)[0], textbook=True) == pytest.approx(min(means), rel=1e-4)


def test_deviations_that_change_sign_count_in_the_textbook_score_alone() -> None:
    frame = residuals(1)
    residual = torch.cat([frame, -frame] * 10)
    inverses, _ = precisions(covariances())
    assert selective_score(residual, inverses) == pytest.approx(0.0, abs=1e-9)
    alone = selective_score(frame, inverses, textbook=True)
    assert alone > 100
    assert selective_score(residual, inverses, textbook=True) == pytest.approx(alone)


def test_frames_of_the_covariance_itself_score_their_dimension() -> None:
    matrix = torch.from_numpy(covariance(1)).float()
    factor = torch.linalg.cholesky(matrix.double())
    residual = torch.randn(20_000, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ factor.T
    inverses, _ = precisions(torch.stack([matrix, matrix]))
    assert selective_score(residual.float(), inverses, textbook=True) == pytest.approx(128, rel=0.02)


def test_precisions_are_inverses_and_keep_the_domains_apart() -> None:
    both = covariances(1.0, 4.0)
    inverses, _ = precisions(both)
    torch.testing.assert_close(torch.stack(inverses) @ both, torch.eye(128).expand(2, -1, -1), rtol=0, atol=1e-3)


def few_frames() -> torch.Tensor:
    """A covariance of 64 different frames, as two short clips give it: of rank 63 but for rounding."""
    rows = np.random.default_rng(4).standard_normal((64, 128)).astype(np.float32)
    return torch.from_numpy(np.cov(rows, rowvar=False).astype(np.float32))


SINGULAR = [torch.zeros(128, 128), torch.full((128, 128), float("nan")), few_frames()]


@pytest.mark.parametrize("singular", SINGULAR, ids=["zero", "nan", "few frames"])
def test_a_domain_without_an_inverse_takes_the_others(singular: torch.Tensor) -> None:
    good = covariances()[0]
    expected, none_replaced = precisions(torch.stack([good, good]))
    assert none_replaced is None
    for both, domain in (([singular, good], "source"), ([good, singular], "target")):
        inverses, replaced = precisions(torch.stack(both))
        assert replaced == domain
        assert all(map(torch.equal, inverses, expected))


def test_what_single_precision_makes_of_a_singular_covariance_would_be_negative() -> None:
    inverse = torch.linalg.inv(few_frames())
    assert float(torch.linalg.eigvalsh(inverse.double())[0]) < -1e3


@pytest.mark.parametrize("singular", SINGULAR, ids=["zero", "nan", "few frames"])
def test_two_singular_covariances_are_refused(singular: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the covariances of the residuals are singular"):
        precisions(torch.stack([singular, singular]))


def test_the_mean_square_is_over_all_values() -> None:
    residual = torch.tensor([[1.0, -2.0], [0.0, 5.0], [3.0, 3.0]])
    assert mean_square_score(residual) == pytest.approx((1 + 4 + 0 + 25 + 9 + 9) / 6)


def test_one_domains_precision_suffices_to_lower_a_score() -> None:
    residual, eye = residuals(), torch.eye(128)
    low = selective_score(residual, (eye, 0.1 * eye))
    assert low == selective_score(residual, (0.1 * eye, eye))
    assert low == pytest.approx(0.1 * selective_score(residual, (eye, eye)))
