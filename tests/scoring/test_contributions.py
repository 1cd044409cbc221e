"""Contributions of dimensions to scores: by hand, and their sums for every combination of settings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nearfar.scoring import FUSIONS, MachineScorer, Mahalanobis, NearestNeighbours, ScoringPlan
from nearfar.scoring.autoencoder.network import Autoencoder, TrainedAutoencoder
from nearfar.scoring.autoencoder.scores import (
    by_frame,
    mean_square_score,
    mean_square_shares,
    precisions,
    selective_score,
    selective_shares,
)
from nearfar.scoring.contributions import ExplainingScorer, divided, symmetric_root
from nearfar.scoring.settings import NearestSettings
from nearfar.scoring.tolerant import TolerantNeighbours, TolerantSettings


def features(clips: int, parts: int = 3, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, (clips, parts, dim)).astype(np.float32))


def test_a_number_is_divided_in_proportion_or_evenly() -> None:
    total = torch.tensor([6.0, -4.0], dtype=torch.float64)
    weights = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[2.0, 4.0, 0.0], [-4 / 3, -4 / 3, -4 / 3]], dtype=torch.float64)
    torch.testing.assert_close(divided(total, weights), expected)


def test_standardised_distances_by_hand() -> None:
    # Two clips, one part of two dimensions: means 1 and 20, deviations 1 and 10.
    scorer = NearestNeighbours(distance="standardised").fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    # From the second clip: (5 - 2) / 1 = 3 and (70 - 30) / 10 = 4 deviations, over sqrt(2): distance 5 / sqrt(2).
    found = scorer.contributions(torch.tensor([[5.0, 70.0]]))
    distance = 5 / np.sqrt(2)
    np.testing.assert_allclose(found.shares, [[[distance * 9 / 25, distance * 16 / 25]]])
    np.testing.assert_allclose(found.difference, [[[3.0, 40.0]]])
    assert scorer.score(torch.tensor([[5.0, 70.0]])) == pytest.approx(distance)


def test_each_part_has_a_nearest_clip_of_its_own() -> None:
    bank = torch.tensor([[[0.0], [0.0]], [[10.0], [10.0]]])
    # In units of the deviation 5: the first part is 1 / 5 from clip 0, the second 2 / 5 from clip 1.
    found = NearestNeighbours(distance="standardised").fit(bank).contributions(torch.tensor([[[1.0], [8.0]]]))
    np.testing.assert_allclose(found.shares[0, :, 0], [0.1, 0.2])
    np.testing.assert_allclose(found.difference[0, :, 0], [1.0, -2.0])


def test_cosine_distances_by_hand() -> None:
    # 1 - cos = |u - v|^2 / 2 of directions (1, 0) and (0.6, 0.8): (0.16 + 0.64) / 2.
    found = NearestNeighbours().fit(torch.tensor([[2.0, 0.0]])).contributions(torch.tensor([[3.0, 4.0]]))
    np.testing.assert_allclose(found.shares, [[[0.08, 0.32]]], rtol=1e-6)
    np.testing.assert_allclose(found.difference, [[[1.0, 4.0]]])


def test_a_part_nearer_than_normal_clips_are_contributes_less_than_nothing() -> None:
    bank, like = features(30), features(30)[:1]
    found = NearestNeighbours(distance="standardised", normalisation="difference").fit(bank).contributions(like)
    assert bool((found.shares <= 0).all())
    assert float(found.shares.sum()) < 0


SETTINGS = [
    {"distance": d, "neighbours": k, "shared_neighbour": s, "normalisation": n, "domains": o, "enrichment": e}
    for d, k, s, n, o, e in itertools.product(
        ("cosine", "standardised"),
        (1, 3, 100),
        (False, True),
        ("none", "ratio", "varmin"),
        ("pooled", "separate", "standardised"),
        ("none", "memmix"),
    )
    if (o, n) != ("standardised", "ratio") and (o, n) != ("standardised", "varmin")
] + [
    {"distance": d, "neighbours": k, "normalisation": n, "over_parts": how, "varmin_scale": 0.5}
    for d, k, n, how in itertools.product(
        ("cosine", "standardised"), (1, 3), ("none", "varmin"), ("max", "softmax")
    )
]


@pytest.mark.parametrize("distance", ["cosine", "standardised"])
def test_contributions_add_up_to_the_score(distance: str) -> None:
    bank, target, queries = features(24), torch.arange(24) >= 18, features(7, seed=1)
    for settings in (each for each in SETTINGS if each["distance"] == distance):
        scorer = NearestNeighbours(NearestSettings(**settings)).fit(bank, target)
        found = scorer.contributions(queries)
        np.testing.assert_allclose(
            found.shares.sum(dim=(1, 2)), scorer.score(queries), rtol=1e-6, err_msg=str(settings)
        )
        assert found.shares.shape == found.difference.shape == queries.shape


def test_dimensions_that_differ_most_contribute_most() -> None:
    bank, query = features(40), features(40)[:1].clone()
    query[0, 1, 2] += 20.0
    for scorer in (NearestNeighbours(distance="standardised"), Mahalanobis()):
        found = scorer.fit(bank).contributions(query)
        assert int(found.shares[0].argmax()) == 1 * 4 + 2, type(scorer)
        assert float(found.difference[0, 1, 2]) > 10


def test_mahalanobis_distances_add_up_and_are_whole_without_correlation() -> None:
    bank, target, queries = features(40), torch.arange(40) >= 30, features(7, seed=1)
    scorer = Mahalanobis().fit(bank, target)
    found = scorer.contributions(queries)
    np.testing.assert_allclose(found.shares.sum(dim=(1, 2)), scorer.score(queries), rtol=1e-9)
    assert bool((found.shares >= 0).all())
    # Uncorrelated dimensions of variances 2 and 8 over 3 degrees of freedom: shares as the squared scores.
    corners = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])
    plain = Mahalanobis(shrinkage=1e-9).fit(corners).contributions(torch.tensor([[2.0, 2.0]]))
    squares = np.array([4 / (4 / 3), 4 / (16 / 3)])
    np.testing.assert_allclose(plain.shares[0, 0], squares / np.sqrt(squares.sum()), rtol=1e-6)


def test_the_root_of_a_matrix_is_symmetric_and_its_square_is_the_matrix() -> None:
    matrix = torch.tensor([[5.0, 4.0], [4.0, 5.0]], dtype=torch.float64)  # eigenvalues 9 and 1
    torch.testing.assert_close(symmetric_root(matrix), torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64))


def test_residuals_of_an_autoencoder_add_up_by_frame_and_mel_bin() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(5 * 7, 128, generator=random)
    assert float(mean_square_shares(rows).sum()) == pytest.approx(mean_square_score(rows), rel=1e-9)
    normal = torch.randn(2, 1000, 128, generator=random)
    inverses, _ = precisions(torch.stack([torch.cov(normal[0].T), torch.cov(2 * normal[1].T)]))
    for textbook in (False, True):
        shares = selective_shares(rows, inverses, textbook=textbook)
        score = selective_score(rows, inverses, textbook=textbook)
        assert float(shares.sum()) == pytest.approx(score, rel=1e-6)
        assert float(shares.sum(dim=0).min()) >= -1e-12


def test_frames_that_are_in_several_vectors_are_summed() -> None:
    ones = by_frame(torch.ones(5 * 3, 2))
    assert ones.tolist() == [[n, n] for n in (1, 2, 3, 3, 3, 2, 1)]


def test_an_autoencoders_contributions_are_in_the_loud_mel_bin() -> None:
    from nearfar.scoring.autoencoder.backend import AutoencoderScorer
    from nearfar.scoring.autoencoder.settings import AutoencoderSettings

    torch.manual_seed(0)
    network = Autoencoder().eval()
    eye = torch.stack([torch.eye(128), torch.eye(128)])
    frames = torch.zeros(1, 20, 128)
    frames[0, 6, 40] = 30.0
    scorer = AutoencoderScorer(TrainedAutoencoder(network, eye, eye), AutoencoderSettings(), frames, "m", 0.0)
    found = scorer.contributions(frames)
    assert found.shares.shape == frames.shape
    assert divmod(int(found.shares[0].argmax()), 128) == (6, 40)
    assert float(found.shares.sum()) == pytest.approx(float(scorer.score(frames)[0]), rel=1e-6)
    assert float(found.difference[0, 6, 40]) == pytest.approx(30.0, abs=1.0), "the input minus its reconstruction"


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_views_add_up_to_the_fused_score(fusion: str) -> None:
    plan = ScoringPlan("nearest-neighbours", NearestSettings(distance="standardised"), fusion)
    banks = {"near": features(20), "far": 3.0 * features(20, seed=5)}
    queries = {"near": features(4, seed=6), "far": features(4, seed=7)}
    scorer = MachineScorer(banks, torch.zeros(20, dtype=torch.bool), plan)
    found = scorer.contributions(queries)
    assert found is not None
    total = sum(view.shares.sum(dim=(1, 2)) + view.constant for view in found.values())
    np.testing.assert_allclose(total, scorer.score(queries).fused, rtol=1e-9)
    assert all(view.reference == "the nearest normal recordings" for view in found.values())
    assert any(view.constant for view in found.values()) == (fusion == "standardised")


def test_a_scorer_without_contributions_gives_its_score_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Level:
        def score(self, values: torch.Tensor) -> np.ndarray:
            return np.asarray(values.double().mean(dim=(1, 2)))

        def leave_one_out(self) -> np.ndarray:
            return np.zeros(3)

    from nearfar.scoring import BACKENDS, Backend

    monkeypatch.setitem(BACKENDS, "level", Backend(fit=lambda *_: Level(), description="level"))
    assert not isinstance(Level(), ExplainingScorer)
    plan = ScoringPlan("level", NearestSettings(), "mean")
    scorer = MachineScorer({"near": features(3)}, torch.zeros(3, dtype=torch.bool), plan)
    queries = features(2, seed=1)
    found = scorer.contributions({"near": queries})
    assert found is not None
    assert found["near"].difference is None
    np.testing.assert_allclose(found["near"].shares[:, 0, 0], queries.double().mean(dim=(1, 2)))


def test_a_fusion_that_is_no_sum_has_no_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfar.scoring import Fusion

    highest = Fusion(
        fuse=lambda scores, normals: np.max(np.stack(list(scores.values())), axis=0),
        uses_normals=False,
        description="max",
    )
    monkeypatch.setitem(FUSIONS, "highest", highest)
    plan = ScoringPlan("nearest-neighbours", NearestSettings(), "highest")
    scorer = MachineScorer({"near": features(5)}, torch.zeros(5, dtype=torch.bool), plan)
    assert scorer.contributions({"near": features(2)}) is None


def test_contributions_need_no_second_search_with_the_scores_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(1)
    normals, others = ({"near": torch.randn(count, 3, 128, generator=random)} for count in (30, 4))
    plan = ScoringPlan("tolerant-neighbours", TolerantSettings(), "mean")
    scorer = MachineScorer(normals, torch.zeros(30, dtype=torch.bool), plan)
    expected = scorer.contributions(others)
    scored = scorer.score(others)
    monkeypatch.setattr(TolerantNeighbours, "match", None)  # fails when called
    found = [
        scorer.contributions({"near": others["near"][row : row + 1]}, scored.rows(slice(row, row + 1)))
        for row in range(4)
    ]
    assert expected is not None
    for row, own in enumerate(found):
        assert own is not None
        torch.testing.assert_close(own["near"].shares[0], expected["near"].shares[row], rtol=1e-6, atol=1e-9)
