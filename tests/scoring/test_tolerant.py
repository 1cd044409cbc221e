"""Nearest neighbours that tolerate changes of speed and gain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.covariance import ShrunkCovariance
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from nearfar.frontends.kaldi import MEL_BINS, mel_centres_hz
from nearfar.scoring import BACKENDS, VarMin
from nearfar.scoring.banded import smoothing_matrix, speed_matrix, speeds
from nearfar.scoring.tolerant import (
    TYPICAL,
    TolerantNeighbours,
    TolerantSettings,
)

USED = torch.arange(MEL_BINS) < 120
DB = math.log(10) / 10


def clips(
    count: int, seed: int = 0, level_db: float = -30.0, spread_db: float = 0.5, speed: float = 1.0
) -> Tensor:
    """Features of a peaked spectrum with some noise, (count, 3, 128): level, means and deviations."""
    random = torch.manual_seed(seed)
    hz = mel_centres_hz() * speed
    means = 3.0 * torch.exp(-((torch.log(hz / 1000.0) / 0.1) ** 2)) - 1.0
    rows = torch.zeros(count, 3, MEL_BINS)
    rows[:, 0, 0] = (level_db + spread_db * torch.randn(count, generator=random)) * DB
    rows[:, 1] = means.float() + 0.1 * torch.randn(count, MEL_BINS, generator=random)
    rows[:, 2] = 1.0 + 0.1 * torch.randn(count, MEL_BINS, generator=random)
    rows[:, 1:, 120:] = 0.0
    return rows


def bands(features: Tensor) -> Tensor:
    """Statistics band by band, by indices: (clips, 8, statistics * 16)."""
    parts = [features[:, 1:, 16 * band : 16 * band + 16].flatten(1) for band in range(8)]
    return torch.stack(parts, dim=1)


def decorrelated(features: Tensor, normals: Tensor) -> Tensor:
    """Each band by the root of scikit-learn's shrunken precision, of standardised statistics that vary."""
    out = torch.zeros_like(features)
    for band in range(features.shape[1]):
        values = normals[:, band].double().numpy()
        varies = values.std(axis=0) > 1e-6
        scaler = StandardScaler().fit(values[:, varies])
        shrinkage = 1 - 0.5 * min(1, len(normals) / normals.shape[2])  # of few clips more
        estimate = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True)
        shrunk = estimate.fit(scaler.transform(values[:, varies]))
        root = np.real(sqrtm(shrunk.precision_))
        scaled = scaler.transform(features[:, band].double().numpy()[:, varies]) @ root
        out[:, band, torch.from_numpy(varies)] = torch.from_numpy(scaled).float()
    return out


def test_without_tolerances_it_is_varmin_of_bands_as_they_are_and_decorrelated() -> None:
    normals, others = clips(30), clips(5, seed=1, level_db=-36.0)
    fitted = TolerantNeighbours(speed_tolerance=0.0, mel_smoothing=0.0).fit(normals)

    def in_units(scores: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        low, middle, high = np.quantile(left_out, [0.25, 0.5, 0.75])
        return (scores - middle) / (high - low) * 1.349

    each, of_normals = [], []
    for of in (bands, lambda features: decorrelated(bands(features), bands(normals))):
        plain = VarMin(16, distance="standardised").fit(of(normals))
        left_out = plain.leave_one_out()
        each.append(in_units(plain.score(of(others)), left_out))
        of_normals.append(in_units(left_out, left_out))
    expected = TYPICAL + in_units(np.mean(each, axis=0), np.mean(of_normals, axis=0))
    np.testing.assert_allclose(fitted.score(others), expected, rtol=1e-5)
    np.testing.assert_allclose(np.median(fitted.leave_one_out()), TYPICAL, atol=0.2)
    np.testing.assert_array_equal(fitted.score_and_nearest(normals[4:7])[1], [4, 5, 6])
    assert np.abs(each[0] - each[1]).max() > 0.1  # the two ways differ


def test_a_change_against_the_correlation_of_normal_clips_is_farther_than_one_along_it() -> None:
    random = torch.Generator().manual_seed(3)
    normals = clips(60)
    normals[:, 1, 40:80] += 0.5 * torch.randn(60, 1, generator=random)  # as the noise of a room varies
    fitted = TolerantNeighbours(speed_tolerance=0.0).fit(normals)
    along, against = clips(1, seed=8).repeat(2, 1, 1)
    along[1, 40:80] += 0.5
    against[1, 40:80] += 0.5 * torch.where(torch.arange(40) < 20, 1.0, -1.0)
    scores = fitted.score(torch.stack([along, against]))
    assert scores[1] > scores[0] + 2.0


def test_the_variation_of_bins_is_that_of_source_clips() -> None:
    normals, domains = clips(20), ["source"] * 12 + ["target"] * 8
    expected = normals[:12, 1].double().numpy().std(axis=0)
    np.testing.assert_allclose(TolerantNeighbours().fit(normals, domains).variation, expected)
    few = TolerantNeighbours().fit(normals, ["source"] + ["target"] * 19)
    np.testing.assert_allclose(few.variation, normals[:, 1].double().numpy().std(axis=0))


def test_a_change_of_speed_within_the_tolerance_has_nearly_no_effect() -> None:
    normals, same, faster = clips(40), clips(10, seed=2), clips(10, seed=2, speed=1.05)
    tolerant, strict = TolerantNeighbours().fit(normals), TolerantNeighbours(speed_tolerance=0.0).fit(normals)
    assert strict.score(faster).min() > strict.score(same).max() + 2.0
    assert np.median(tolerant.score(faster)) < np.median(strict.score(faster)) - 2.0
    assert (tolerant.score(same) <= strict.score(same) + 1e-9).all()  # rounding differs with the number of clips
    far_off = clips(10, seed=2, speed=1.3)
    assert tolerant.score(far_off).min() > tolerant.score(same).max() + 2.0


def test_louder_clips_score_higher_beyond_the_tolerance_and_quieter_ones_do_not() -> None:
    normals = clips(50, level_db=-30.0, spread_db=0.3)
    fitted = TolerantNeighbours().fit(normals)
    highest = np.percentile(fitted.levels, 98)
    base, scores = clips(1, seed=5), []
    for change_db in (-20.0, -3.0, 0.0, 2.9, 4.0, 6.0):
        changed = base.clone()
        changed[:, 0, 0] = (highest + change_db) * DB
        scores.append(float(fitted.score(changed)[0]))
    np.testing.assert_allclose(scores[:4], scores[2], atol=1e-6)
    np.testing.assert_allclose([scores[4] - scores[2], scores[5] - scores[2]], [2.0, 6.0], atol=1e-3)
    assert "level used above" in fitted.reason


@pytest.mark.parametrize(("count", "spread_db", "words"), [(9, 0.1, "fewer than 10"), (60, 4.0, "more than 5 dB")])
def test_the_level_has_no_effect_if_it_varies_or_clips_are_few(count: int, spread_db: float, words: str) -> None:
    fitted = TolerantNeighbours().fit(clips(count, spread_db=spread_db))
    base, louder = clips(3, seed=6), clips(3, seed=6)
    louder[:, 0, 0] += 40.0 * DB
    np.testing.assert_array_equal(fitted.score(base), fitted.score(louder))
    assert "level not used" in fitted.reason
    assert words in fitted.reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_clips_give_finite_scores(count: int) -> None:
    fitted = TolerantNeighbours().fit(clips(count))
    assert np.isfinite(fitted.score(clips(4, seed=9))).all()
    if count == 1:
        assert fitted.score(clips(1))[0] == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(ValueError, match="two normal clips"):
            fitted.leave_one_out()
    else:
        assert np.isfinite(fitted.leave_one_out()).all()


def test_features_of_other_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected features of \(clips, 1 \+ statistics, 128\)"):
        TolerantNeighbours().fit(torch.zeros(3, 8, 64))


def test_speeds_cover_the_tolerance_in_steps_of_about_two_percent() -> None:
    np.testing.assert_allclose(speeds(0.06), [0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06])
    np.testing.assert_allclose(speeds(0.03), [0.97, 0.985, 1.0, 1.015, 1.03])
    assert speeds(0.0) == [1.0]


def test_the_speed_matrix_moves_a_smooth_spectrum_along_frequency() -> None:
    used = USED & (torch.arange(MEL_BINS) != 3)
    mel = torch.log1p(mel_centres_hz() / 700.0)
    inside = used & (torch.log1p(1.05 * mel_centres_hz() / 700.0) < mel[119])
    faster = torch.log1p(1.05 * mel_centres_hz() / 700.0)  # a line over mel is interpolated exactly
    moved = speed_matrix(used, 1.05) @ mel.float()
    torch.testing.assert_close(moved[inside], faster[inside].float(), rtol=0, atol=1e-4)
    assert bool((moved[~used] == 0).all())
    torch.testing.assert_close(speed_matrix(used, 1.0), torch.diag(used.float()))


def test_smoothing_is_a_mean_over_used_bins_alone() -> None:
    matrix = smoothing_matrix(USED, 0.85)
    torch.testing.assert_close(matrix.sum(dim=1), USED.float())
    assert bool((matrix[:, ~USED] == 0).all())
    assert float(matrix[60, 61] / matrix[60, 60]) == pytest.approx(math.exp(-0.5 / 0.85**2))
    torch.testing.assert_close(smoothing_matrix(USED, 0.0), torch.diag(USED.float()))


def test_the_table_s_entry_fits_it() -> None:
    entry, normals = BACKENDS["tolerant-neighbours"], clips(12)
    fitted = entry.fit(normals, torch.zeros(12, dtype=torch.bool), TolerantSettings(), 0, None)
    np.testing.assert_array_equal(fitted.score(normals), TolerantNeighbours().fit(normals).score(normals))


def test_contributions_add_up_to_the_score() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, 128, generator=random)
    features[:, 0] = 0
    features[:, 0, 0] = torch.linspace(-6.0, -5.8, 40)
    scorer = TolerantNeighbours().fit(features)
    others = 1.5 * torch.randn(10, 3, 128, generator=random)
    others[:, 0] = 0
    others[:, 0, 0] = torch.linspace(-6.0, -2.0, 10)
    found = scorer.contributions(others)
    assert found.shares.shape == others.shape
    np.testing.assert_allclose(found.shares.sum(dim=(1, 2)).numpy(), scorer.score(others), rtol=1e-9)
    assert float(found.shares[-1, 0, 0]) > 0  # louder than the tolerance allows
    assert float(found.shares[0, 0].abs().sum()) == 0


def test_contributions_are_the_same_with_the_choices_of_an_earlier_score() -> None:
    random = torch.Generator().manual_seed(0)
    normals, others = (torch.randn(count, 3, 128, generator=random) for count in (40, 10))
    scorer = TolerantNeighbours(speed_tolerance=0.06).fit(normals)
    found = scorer.match(others)
    assert len(set(found.choices.tolist())) > 1
    again, given = scorer.contributions(others), scorer.contributions(others, found.choices)
    torch.testing.assert_close(given.shares, again.shares, rtol=0, atol=0)
    torch.testing.assert_close(given.difference, again.difference, rtol=0, atol=0)
    fixed = scorer.contributions(others, np.full(10, 3))  # the middle of seven speeds
    changed = torch.from_numpy(found.choices != 3)
    assert bool((fixed.shares != again.shares).flatten(1).any(dim=1)[changed].all())
