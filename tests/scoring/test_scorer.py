"""Every scorer against loops written from its definition; leave-one-out against banks that lack the clip."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nearfar.config import Scoring
from nearfar.scoring import density
from nearfar.scoring.scorer import fit_scorer


def features(clips: int, parts: int = 1, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, (clips, parts, dim)).astype(np.float32))


def targets(clips: int, of_target: int) -> torch.Tensor:
    return torch.arange(clips) >= clips - of_target


# --- the definitions, in loops ------------------------------------------------------------------------------


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def nearest_others(i: int, bank: list[np.ndarray], count: int) -> list[float]:
    return sorted(cosine(bank[i], bank[j]) for j in range(len(bank)) if j != i)[:count]


def rescaled(x: np.ndarray, bank: list[np.ndarray], scoring: Scoring, k: int) -> list[float]:
    plain = [cosine(x, y) for y in bank]
    if scoring.normalisation == "none" or len(bank) == 1:
        return plain
    b = [float(np.mean(nearest_others(i, bank, k))) for i in range(len(bank))]
    if scoring.normalisation == "ratio":
        return [p / max(q, 1e-12) for p, q in zip(plain, b, strict=True)]
    if scoring.normalisation == "difference":
        return [p - q for p, q in zip(plain, b, strict=True)]
    d = [nearest_others(i, bank, 1)[0] for i in range(len(bank))]
    alpha = np.cov(d, b, bias=True)[0, 1] / np.var(b) if np.var(b) > 1e-12 else 0.0
    return [p - alpha * q for p, q in zip(plain, b, strict=True)]


def of_one_bank(x: np.ndarray, bank: np.ndarray, scoring: Scoring, k: int) -> float:
    """x: (parts, dim), bank: (normals, parts, dim)."""
    return float(
        np.mean(
            [
                np.mean(sorted(rescaled(x[part], list(bank[:, part]), scoring, k))[: scoring.neighbours])
                for part in range(len(x))
            ]
        )
    )


def left_out(bank: np.ndarray, scoring: Scoring, k: int) -> list[float]:
    rest = [np.delete(bank, i, axis=0) for i in range(len(bank))]
    return [of_one_bank(bank[i], rest[i], scoring, k) for i in range(len(bank))]


def naive(x: np.ndarray, bank: np.ndarray, target: np.ndarray, scoring: Scoring) -> float:
    if scoring.domains == "pooled":
        return of_one_bank(x, bank, scoring, scoring.density_neighbours)
    groups = [
        (bank[~target], scoring.density_neighbours),
        (bank[target], scoring.target_density_neighbours),
    ]
    scores, medians = [], []
    for group, k in groups:
        if len(group):
            scores.append(of_one_bank(x, group, scoring, k))
            medians.append(float(np.median(left_out(group, scoring, k))) if len(group) > 1 else None)
    if scoring.domains == "separate":
        return min(scores)
    known = [m for m in medians if m is not None] or [1.0]
    return min(s / (m if m is not None else known[0]) for s, m in zip(scores, medians, strict=True))


SETTINGS = [
    {"normalisation": normalisation, "domains": domains, "neighbours": neighbours}
    for normalisation, domains, neighbours in itertools.product(
        ("none", "ratio", "difference", "varmin"), ("pooled", "separate"), (1, 3)
    )
] + [{"domains": "standardised"}, {"domains": "standardised", "neighbours": 2}]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize(
    ("clips", "of_target", "parts"), [(14, 5, 2), (13, 0, 1), (7, 1, 1), (9, 3, 1), (2, 0, 1)]
)
def test_scores_and_leave_one_out_are_those_of_the_definition(settings, clips, of_target, parts, monkeypatch):
    monkeypatch.setattr(density, "CHUNK", 4)
    scoring = Scoring(density_neighbours=4, target_density_neighbours=3, **settings)
    bank, target = features(clips, parts), targets(clips, of_target)
    queries = features(6, parts, seed=1)
    scorer = fit_scorer(bank, target, scoring)
    wide, flags = bank.double().numpy(), target.numpy()
    expected = [naive(query, wide, flags, scoring) for query in queries.double().numpy()]
    np.testing.assert_allclose(scorer.score(queries)[0], expected, atol=2e-6, rtol=2e-5)
    alone = [naive(wide[i], np.delete(wide, i, axis=0), np.delete(flags, i), scoring) for i in range(clips)]
    np.testing.assert_allclose(scorer.leave_one_out(), alone, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"enrichment": "memmix", "memmix_sources": 3},
        {"enrichment": "smote", "smote_ratio": 0.8},
        {"prototypes": 4},
        {"prototypes": 4, "enrichment": "memmix", "domains": "separate", "normalisation": "ratio"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_leave_one_out_of_made_up_and_selected_banks_is_that_of_a_bank_without_the_clip(settings):
    scoring, bank, target = Scoring(**settings), features(12, 2), targets(12, 3)
    alone = []
    for i in range(12):
        rest = np.arange(12) != i
        alone.append(fit_scorer(bank[rest], target[rest], scoring).score(bank[i : i + 1])[0][0])
    np.testing.assert_allclose(fit_scorer(bank, target, scoring).leave_one_out(), alone, atol=1e-12)


def test_the_report_s_score_is_one_minus_the_highest_cosine():
    bank, queries = features(40), features(9, seed=2)
    scores, nearest = fit_scorer(bank, targets(40, 4), Scoring()).score(queries)
    similarity = torch.nn.functional.cosine_similarity(queries, bank[:, 0], dim=2)
    np.testing.assert_allclose(scores, 1 - similarity.amax(dim=1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(nearest, similarity.argmax(dim=1).numpy())


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_lengths_of_embeddings_do_not_matter(scale):
    bank, none = features(6), targets(6, 0)
    scores, nearest = fit_scorer(scale * bank, none, Scoring()).score(bank)
    np.testing.assert_allclose(scores, 0, atol=1e-6)
    assert nearest.tolist() == list(range(6))
    opposite = fit_scorer(bank[:1], none[:1], Scoring()).score(-3 * bank[:1])[0]
    assert opposite == pytest.approx([2.0])


def test_parts_choose_for_themselves_or_together():
    bank = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    query = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    none = torch.zeros(2, dtype=torch.bool)
    assert fit_scorer(bank, none, Scoring()).score(query)[0] == pytest.approx([0.0])
    assert fit_scorer(bank, none, Scoring(shared_neighbour=True)).score(query)[0] == pytest.approx([0.5])


def test_the_standardised_distance_by_hand():
    bank = torch.tensor([[[0.0, 0.0, 7.0]], [[2.0, 20.0, 7.0]]])  # deviations 1, 10 and none
    query = torch.tensor([[[3.0, 20.0, 9.0]]])
    scorer = fit_scorer(bank, torch.zeros(2, dtype=torch.bool), Scoring(distance="standardised"))
    scores, nearest = scorer.score(query)
    assert scores == pytest.approx([np.sqrt(1.0 / 3.0)])
    assert nearest.tolist() == [1]
    assert scorer.leave_one_out() == pytest.approx([np.sqrt(8 / 3)] * 2)


def test_memmix_by_hand():
    bank = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    scoring = Scoring(enrichment="memmix", memmix_lambda=0.6)
    scorer = fit_scorer(bank, torch.tensor([False, True]), scoring)
    mixed = torch.tensor([[[0.4, 0.6]]])
    scores, nearest = scorer.score(mixed)
    assert scores == pytest.approx([0.0], abs=1e-6)
    assert nearest.tolist() == [1]  # the target clip that it was made from
    assert fit_scorer(bank, torch.tensor([False, True]), Scoring()).score(mixed)[0][0] > 0.1


def test_smote_lies_between_target_clips_and_reaches_the_ratio():
    bank, target = features(30, 1), targets(30, 4)
    scorer = fit_scorer(bank, target, Scoring(enrichment="smote", smote_ratio=0.5))
    (domain,) = scorer._domains
    assert len(domain.normals) == 26 + 13
    again = fit_scorer(bank, target, Scoring(enrichment="smote", smote_ratio=0.5))
    assert torch.equal(again._domains[0].normals, domain.normals)
    other = fit_scorer(bank, target, Scoring(enrichment="smote", smote_ratio=0.5), seed=1)
    assert not torch.equal(other._domains[0].normals, domain.normals)


def test_prototypes_are_real_clips_and_keep_the_target_domain():
    bank, target = features(30, 1), targets(30, 4)
    scorer = fit_scorer(bank, target, Scoring(prototypes=5))
    kept = scorer._domains[0].normals
    assert len(kept) == 5 + 4
    distances, nearest = fit_scorer(bank, target, Scoring()).score(kept)
    assert distances == pytest.approx(np.zeros(9), abs=1e-6)
    assert set(range(26, 30)) <= set(nearest.tolist())


def test_twins_do_not_divide_by_nothing():
    bank = features(6).repeat(2, 1, 1)
    for settings in ({"normalisation": "ratio"}, {"normalisation": "varmin"}, {"domains": "standardised"}):
        scorer = fit_scorer(bank, targets(12, 6), Scoring(density_neighbours=1, **settings))
        assert np.isfinite(scorer.leave_one_out()).all()
        assert np.isfinite(scorer.score(features(3, seed=3))[0]).all()


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="normals >= 1"):
        fit_scorer(features(0), targets(0, 0), Scoring())
    with pytest.raises(ValueError, match="no direction"):
        fit_scorer(torch.zeros(3, 1, 2), targets(3, 0), Scoring())
    with pytest.raises(ValueError, match="not finite"):
        fit_scorer(torch.full((3, 1, 2), torch.nan), targets(3, 0), Scoring(distance="standardised"))
    scorer = fit_scorer(features(3), targets(3, 0), Scoring())
    with pytest.raises(ValueError, match=r"expected features of \(clips, 1, 5\)"):
        scorer.score(features(3, dim=4))
    with pytest.raises(ValueError, match="no others"):
        fit_scorer(features(1), targets(1, 0), Scoring()).leave_one_out()
