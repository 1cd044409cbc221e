"""Every scorer against loops written from its definition; leave-one-out against banks that lack the clip."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors as SklearnNeighbours

from nearfar.scoring import (
    BACKENDS,
    BEAM,
    LocalDensity,
    NearestNeighbours,
    VarMin,
    density,
    distances,
)
from nearfar.scoring.settings import NearestSettings


def fitted(bank: torch.Tensor, target: torch.Tensor, seed: int = 0, **settings: object) -> NearestNeighbours:
    return NearestNeighbours(seed=seed, **settings).fit(bank, target)


def features(clips: int, parts: int = 1, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, (clips, parts, dim)).astype(np.float32))


def targets(clips: int, of_target: int) -> torch.Tensor:
    return torch.arange(clips) >= clips - of_target


# --- the definitions, in loops ------------------------------------------------------------------------------


@dataclass
class Entry:
    """An entry of a bank: (parts, dim) scaled, its domain, and the clips that it is made of."""

    vector: np.ndarray
    target: bool
    parents: set[int]


class Naive:
    """The scorer's definition on the clips of one machine, with nothing kept from one bank to the next."""

    def __init__(self, bank: torch.Tensor, target: torch.Tensor, scoring: NearestSettings, seed: int = 0) -> None:
        self.clips, self.target, self.scoring, self.seed = bank.double().numpy(), target.numpy(), scoring, seed
        self.mean, self.deviation = self.clips.mean(axis=0), self.clips.std(axis=0)
        self.vectors = [self.scaled(clip) for clip in self.clips]

    def scaled(self, clip: np.ndarray) -> np.ndarray:
        if self.scoring.distance == "cosine":
            return clip / np.linalg.norm(clip, axis=1, keepdims=True)
        return (clip - self.mean) / self.deviation / np.sqrt(clip.shape[1])

    def distances(self, x: np.ndarray, bank: list[np.ndarray], parts: list[int]) -> np.ndarray:
        """From (parts, dim) scaled to each of a bank, averaged over some parts."""
        a, b = x[parts], np.stack(bank)[:, parts]
        if self.scoring.distance == "cosine":
            cosines = (a * b).sum(axis=2) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=2)
            return (1 - cosines).mean(axis=1)
        return np.sqrt(((a - b) ** 2).sum(axis=2)).mean(axis=1)

    def nearest(self, clip: int, others: list[int]) -> list[int]:
        if not others:
            return []
        parts = list(range(self.clips.shape[1]))
        order = np.argsort(
            self.distances(self.vectors[clip], [self.vectors[o] for o in others], parts), kind="stable"
        )
        return [others[place] for place in order]

    def bank(self, left_out: int | None) -> list[Entry]:
        """The entries of a bank that a clip is left out of."""
        s, clips = self.scoring, [i for i in range(len(self.clips)) if i != left_out]
        real = self.prototypes(left_out) if s.prototypes else clips
        entries = [Entry(self.vectors[i], bool(self.target[i]), {i}) for i in real]
        made: list[tuple[int, int, float]] = []
        if s.enrichment == "memmix":
            sources = [i for i in clips if not self.target[i]]
            for t in (i for i in clips if self.target[i]):
                made += [(t, o, 1 - s.memmix_lambda) for o in self.nearest(t, sources)[: s.memmix_sources]]
        elif s.enrichment == "smote":
            made = [draw for draw in self.smote() if left_out not in draw[:2]]
        for first, second, share in made:
            mixed = (1 - share) * self.vectors[first] + share * self.vectors[second]
            entries.append(Entry(mixed, True, {first, second}))
        return entries

    def smote(self) -> list[tuple[int, int, float]]:
        """The draws of all clips."""
        s, own = self.scoring, np.flatnonzero(self.target)
        missing = round(s.smote_ratio * int((~self.target).sum())) - len(own)
        random = np.random.default_rng(self.seed)
        near = [self.nearest(t, [o for o in own if o != t])[: s.smote_neighbours] for t in own]
        first = random.integers(len(own), size=missing)
        which = random.integers(min(s.smote_neighbours, len(own) - 1), size=missing)
        share = random.random(missing)
        return [(int(own[f]), int(near[f][w]), float(u)) for f, w, u in zip(first, which, share, strict=True)]

    def prototypes(self, left_out: int | None) -> list[int]:
        """The clips nearest to the centres that all source clips have, without the one that is left out."""
        source = [i for i in range(len(self.clips)) if not self.target[i]]
        kept = [i for i in range(len(self.clips)) if self.target[i] and i != left_out]
        flat = np.stack([self.vectors[i].ravel() for i in source])
        means = KMeans(self.scoring.prototypes, n_init=1, random_state=self.seed).fit(flat)
        for cluster, centre in enumerate(means.cluster_centers_):
            members = [i for i, c in zip(source, means.labels_, strict=True) if c == cluster and i != left_out]
            if members:
                off = {i: round(float(np.linalg.norm(self.vectors[i].ravel() - centre)), 6) for i in members}
                kept.append(min(members, key=lambda i: (off[i], i)))
        return kept

    def of_entries(self, x: np.ndarray, entries: list[Entry], k: int) -> float:
        """The score of scaled x by the entries of one domain."""
        every = list(range(len(x)))
        together = [every] if self.scoring.shared_neighbour else [[part] for part in every]
        scores = np.array([self.of_part(x, [e.vector for e in entries], k, parts) for parts in together])
        if self.scoring.over_parts == "max":
            return float(scores.max())
        if self.scoring.over_parts == "softmax" and scores.std() > 0:
            weights = np.exp((scores - scores.mean()) / scores.std())
            return float((weights * scores).sum() / weights.sum())
        return float(np.mean(scores))

    def of_part(self, x: np.ndarray, bank: list[np.ndarray], k: int, parts: list[int]) -> float:
        return float(np.mean(sorted(self.rescaled(x, bank, k, parts))[: self.scoring.neighbours]))

    def rescaled(self, x: np.ndarray, bank: list[np.ndarray], k: int, parts: list[int]) -> list[float]:
        plain = self.distances(x, bank, parts).tolist()
        how = self.scoring.normalisation
        if how == "none" or len(bank) == 1:
            return plain
        others = [np.sort(np.delete(self.distances(y, bank, parts), i)) for i, y in enumerate(bank)]
        b = [float(np.mean(near[:k])) for near in others]
        if how == "ratio":
            return [p / q for p, q in zip(plain, b, strict=True)]
        d = [near[0] for near in others]
        alpha = (
            1.0 if how == "difference" else np.cov(d, b, bias=True)[0, 1] / np.var(b) if np.var(b) > 1e-12 else 0
        )
        scale = 1.0 if how == "difference" else self.scoring.varmin_scale
        return [p - scale * alpha * q for p, q in zip(plain, b, strict=True)]

    def score(self, clip: np.ndarray, left_out: int | None = None) -> float:
        """Of (parts, dim) features."""
        s, entries, x = self.scoring, self.bank(left_out), self.scaled(clip)
        if s.domains == "pooled":
            return self.of_entries(x, entries, s.density_neighbours)
        scores, medians = [], []
        for domain, k in ((False, s.density_neighbours), (True, s.target_density_neighbours)):
            own = [entry for entry in entries if entry.target == domain]
            if own:
                scores.append(self.of_entries(x, own, k))
                medians.append(self.median(domain, own, left_out) if s.domains == "standardised" else 1.0)
        known = [m for m in medians if m is not None] or [1.0]
        return min(v / (m if m is not None else known[0]) for v, m in zip(scores, medians, strict=True))

    def median(self, domain: bool, own: list[Entry], left_out: int | None) -> float | None:
        """Of the scores of the domain's clips by those entries that they are no part of."""
        alone = []
        for j, vector in enumerate(self.vectors):
            others = [entry for entry in own if j not in entry.parents]
            if self.target[j] == domain and j != left_out and others:
                alone.append(self.of_entries(vector, others, 0))
        return float(np.median(alone)) if alone else None


def agrees(bank: torch.Tensor, target: torch.Tensor, scoring: NearestSettings, rtol: float = 1e-5) -> None:
    """Scores of new clips and leave-one-out scores are those of the definition."""
    queries = features(5, bank.shape[1], bank.shape[2], seed=1)
    scorer, naive = NearestNeighbours(scoring).fit(bank, target), Naive(bank, target, scoring)
    expected = [naive.score(query) for query in queries.double().numpy()]
    np.testing.assert_allclose(scorer.score(queries), expected, atol=1e-6, rtol=rtol)
    alone = [naive.score(clip, left_out) for left_out, clip in enumerate(naive.clips)]
    np.testing.assert_allclose(scorer.leave_one_out(), alone, atol=1e-6, rtol=rtol)


BACK_ENDS = [
    {"normalisation": normalisation, "domains": domains, "neighbours": neighbours}
    for normalisation, domains, neighbours in itertools.product(
        ("none", "ratio", "difference", "varmin"), ("pooled", "separate"), (1, 3)
    )
] + [
    {"domains": "standardised"},
    {"domains": "standardised", "neighbours": 2},
    {"normalisation": "varmin", "varmin_scale": 0.4},
    {"normalisation": "varmin", "varmin_scale": 0.0, "domains": "separate"},
    *({"normalisation": "varmin", "over_parts": how, "neighbours": 2} for how in ("max", "softmax")),
    *({"domains": "standardised", "over_parts": how} for how in ("max", "softmax")),
]
BANKS = [
    {"enrichment": "memmix"},
    {"enrichment": "memmix", "memmix_sources": 3},
    {"enrichment": "smote", "smote_ratio": 0.9},
    {"prototypes": 4},
    {"prototypes": 4, "enrichment": "memmix", "memmix_sources": 3},
    {"prototypes": 3, "enrichment": "smote", "smote_ratio": 0.9},
]


def named(settings: dict[str, object]) -> str:
    return "-".join(map(str, settings.values()))


@pytest.fixture(params=[(1 << 21, 8), (40, 0)], ids=["whole", "in pieces"])
def pieces(request, monkeypatch):
    """With lists of neighbours so short that they run out, and a few clips at a time, nothing changes."""
    monkeypatch.setattr(distances, "ELEMENTS", request.param[0])
    monkeypatch.setattr(density, "SPARE", request.param[1])


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("settings", BACK_ENDS, ids=named)
def test_scores_and_leave_one_out_are_those_of_the_definition(settings):
    agrees(features(14, 2), targets(14, 5), NearestSettings(target_density_neighbours=3, **settings))


@pytest.mark.parametrize("settings", BACK_ENDS, ids=named)
@pytest.mark.parametrize(("clips", "of_target"), [(9, 0), (7, 1), (7, 2), (5, 5), (2, 0), (2, 1), (3, 1)])
def test_domains_of_few_clips(settings, clips, of_target):
    agrees(features(clips, 1), targets(clips, of_target), NearestSettings(**settings))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("bank", BANKS, ids=named)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"neighbours": 3, "domains": "standardised"},
        {"normalisation": "ratio", "domains": "separate", "neighbours": 2},
        {"normalisation": "varmin"},
    ],
    ids=named,
)
def test_banks_of_made_up_and_selected_clips(bank, settings):
    agrees(features(11, 2), targets(11, 3), NearestSettings(density_neighbours=3, **bank, **settings))


@pytest.mark.parametrize("distance", ["cosine", "standardised"])
@pytest.mark.parametrize("settings", [*BACK_ENDS[::3], {"domains": "standardised", "neighbours": 2}], ids=named)
def test_parts_that_choose_together(distance, settings):
    scoring = NearestSettings(distance=distance, shared_neighbour=True, **settings)
    agrees(features(10, 3), targets(10, 4), scoring)


@pytest.mark.parametrize("settings", [*BACK_ENDS[::3], *BANKS], ids=named)
def test_the_standardised_distance(settings):
    agrees(features(10, 2), targets(10, 3), NearestSettings(distance="standardised", **settings))


@pytest.mark.parametrize("normalisation", ["none", "ratio", "difference"])
def test_embeddings_that_point_much_the_same_way_differ(normalisation):
    """Cosine distances of 1e-6: in single precision, 1 - u @ v is no better than a tenth of that."""
    bank = torch.ones(12, 1, 64) + 1e-3 * features(12, dim=64)
    scoring, none = NearestSettings(normalisation=normalisation), targets(12, 0)
    naive = Naive(bank, none, scoring)
    alone = [naive.score(clip, left_out) for left_out, clip in enumerate(naive.clips)]
    scale = 1.0 if normalisation == "ratio" else 1e-6
    np.testing.assert_allclose(
        NearestNeighbours(scoring).fit(bank, none).leave_one_out(), alone, rtol=1e-3, atol=1e-3 * scale
    )
    queries = bank + 2e-4 * features(12, dim=64, seed=3)
    expected = [naive.score(query) for query in queries.double().numpy()]
    np.testing.assert_allclose(
        NearestNeighbours(scoring).fit(bank, none).score(queries), expected, rtol=1e-3, atol=1e-3 * scale
    )


def test_the_report_s_score_is_one_minus_the_highest_cosine():
    bank, queries = features(40), features(9, seed=2)
    scores, which = fitted(bank, targets(40, 4)).score_and_nearest(queries)
    similarity = torch.nn.functional.cosine_similarity(queries, bank[:, 0], dim=2)
    np.testing.assert_allclose(scores, 1 - similarity.amax(dim=1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(which, similarity.argmax(dim=1).numpy())


@pytest.mark.parametrize("neighbours", [1, 4])
def test_scores_are_scikit_learn_s_mean_distance_to_the_nearest(neighbours):
    bank, queries = features(40, dim=8), features(9, dim=8, seed=2)
    oracle = SklearnNeighbours(n_neighbors=neighbours, metric="cosine").fit(bank[:, 0].double().numpy())
    expected = oracle.kneighbors(queries[:, 0].double().numpy())[0].mean(axis=1)
    scorer = NearestNeighbours(neighbours=neighbours).fit(bank)
    np.testing.assert_allclose(scorer.score(queries), expected, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(  # without a query, scikit-learn leaves every point itself out
        scorer.leave_one_out(), oracle.kneighbors()[0].mean(axis=1), atol=1e-6, rtol=1e-5
    )


NAMED = {
    "VarMin": (VarMin(3), {"normalisation": "varmin", "density_neighbours": 3}),
    "VarMin by default": (VarMin(), {"normalisation": "varmin", "density_neighbours": 4}),
    "LocalDensity": (LocalDensity(2), {"normalisation": "ratio", "density_neighbours": 2}),
    "LocalDensity by difference": (
        LocalDensity(5, kind="difference", neighbours=2),
        {"normalisation": "difference", "density_neighbours": 5, "neighbours": 2},
    ),
    "BEAM": (BEAM(), {"shared_neighbour": False}),
    "BEAM of two domains": (BEAM(domains="separate", neighbours=2), {"domains": "separate", "neighbours": 2}),
    "VarMin of two domains": (
        VarMin(3, domains="separate", target_density_neighbours=2),
        {
            "normalisation": "varmin",
            "domains": "separate",
            "density_neighbours": 3,
            "target_density_neighbours": 2,
        },
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_back_ends_are_their_definitions(name):
    scorer, settings = NAMED[name]
    bank, target, queries = features(14, 3), targets(14, 5), features(5, 3, seed=1)
    naive = Naive(bank, target, NearestSettings(**settings))
    scorer.fit(bank, target)
    expected = [naive.score(query) for query in queries.double().numpy()]
    np.testing.assert_allclose(scorer.score(queries), expected, atol=1e-6, rtol=1e-5)
    alone = [naive.score(clip, left_out) for left_out, clip in enumerate(naive.clips)]
    np.testing.assert_allclose(scorer.leave_one_out(), alone, atol=1e-6, rtol=1e-5)


def test_beam_s_parts_choose_their_nearest_clips_alone():
    bank, queries = features(14, 3), features(5, 3, seed=1)
    together = NearestNeighbours(shared_neighbour=True).fit(bank).score(queries)
    assert (BEAM().fit(bank).score(queries) < together).any()
    assert (BEAM().fit(bank).score(queries) <= together + 1e-6).all()


def test_arrays_of_one_part_and_domains_in_words_are_read():
    bank, target, queries = features(14), targets(14, 5), features(5, seed=1)
    expected = fitted(bank, target, domains="separate")
    words = ["target" if value else "source" for value in target.tolist()]
    for domains in (words, np.array(words), target.numpy(), target.tolist()):
        scorer = NearestNeighbours(domains="separate").fit(bank[:, 0].numpy(), domains)
        np.testing.assert_array_equal(scorer.score(queries[:, 0].tolist()), expected.score(queries))
        np.testing.assert_array_equal(scorer.leave_one_out(), expected.leave_one_out())
    pooled = NearestNeighbours(domains="separate").fit(bank)
    np.testing.assert_array_equal(pooled.score(queries), fitted(bank, targets(14, 0)).score(queries))
    with pytest.raises(ValueError, match="expected the domains source and target, got 'Target'"):
        NearestNeighbours().fit(bank, ["source"] * 13 + ["Target"])
    with pytest.raises(ValueError, match="expected a domain for each of 14 clips"):
        NearestNeighbours().fit(bank, words[1:])


@pytest.mark.parametrize(
    ("settings", "only_lowers"),
    [({}, True), ({"domains": "separate", "neighbours": 3}, True), *(({**each}, False) for each in BANKS)],
    ids=str,
)
def test_a_back_end_that_only_lowers_does(settings, only_lowers):
    """Where it is promised, a bank with more clips never gives a higher score."""
    backend, chosen = BACKENDS["nearest-neighbours"], NearestSettings(**settings)
    assert backend.only_lowers(chosen) == only_lowers
    if only_lowers:
        bank, target, queries = features(14, 2), targets(14, 5), features(20, 2, seed=1)
        fewer = backend.fit(bank[2:-2], target[2:-2], chosen, 0, None).score(queries)
        assert (backend.fit(bank, target, chosen, 0, None).score(queries) <= fewer + 1e-6).all()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_lengths_of_embeddings_do_not_matter(scale):
    bank, none = features(6), targets(6, 0)
    scores, which = fitted(scale * bank, none).score_and_nearest(bank)
    np.testing.assert_allclose(scores, 0, atol=1e-6)
    assert which.tolist() == list(range(6))
    opposite = fitted(bank[:1], none[:1]).score(-3 * bank[:1])
    assert opposite == pytest.approx([2.0])


def test_parts_choose_for_themselves_or_together():
    bank = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    query = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    none = torch.zeros(2, dtype=torch.bool)
    assert fitted(bank, none).score(query) == pytest.approx([0.0])
    assert fitted(bank, none, shared_neighbour=True).score(query) == pytest.approx([0.5])


def test_the_standardised_distance_by_hand():
    bank = torch.tensor([[[0.0, 0.0, 7.0]], [[2.0, 20.0, 7.0]]])  # deviations 1, 10 and none
    query = torch.tensor([[[3.0, 20.0, 9.0]]])
    scorer = fitted(bank, torch.zeros(2, dtype=torch.bool), distance="standardised")
    scores, which = scorer.score_and_nearest(query)
    assert scores == pytest.approx([np.sqrt(1.0 / 3.0)])
    assert which.tolist() == [1]
    assert scorer.leave_one_out() == pytest.approx([np.sqrt(8 / 3)] * 2)


def test_memmix_by_hand():
    bank = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    scoring = NearestSettings(enrichment="memmix", memmix_lambda=0.6)
    scorer = NearestNeighbours(scoring).fit(bank, torch.tensor([False, True]))
    mixed = torch.tensor([[[0.4, 0.6]]])
    scores, which = scorer.score_and_nearest(mixed)
    assert scores == pytest.approx([0.0], abs=1e-6)
    assert which.tolist() == [1]  # the target clip that it was made from
    assert fitted(bank, torch.tensor([False, True])).score(mixed)[0] > 0.1


def test_smote_lies_between_target_clips_and_reaches_the_ratio():
    bank, target = features(30, 1), targets(30, 4)
    scoring = NearestSettings(enrichment="smote", smote_ratio=0.5, distance="standardised")
    made = NearestNeighbours(scoring).fit(bank, target).bank
    assert len(made.entries) == 26 + 13
    first, second = (made.entries[made.parents[30:, side]] for side in (0, 1))
    assert bool(made.target[made.parents[30:]].all())
    way = (first - second).norm(dim=2)
    torch.testing.assert_close(
        (made.entries[30:] - first).norm(dim=2) + (made.entries[30:] - second).norm(dim=2), way
    )
    assert torch.equal(NearestNeighbours(scoring).fit(bank, target).bank.entries, made.entries)
    assert not torch.equal(NearestNeighbours(scoring, seed=1).fit(bank, target).bank.entries, made.entries)


@pytest.mark.parametrize("of_target", [0, 1, 6])
def test_smote_makes_none_up_of_fewer_than_two_or_where_there_are_enough(of_target):
    bank, target = features(16), targets(16, of_target)
    plain, smote = fitted(bank, target), fitted(bank, target, enrichment="smote")
    np.testing.assert_array_equal(smote.leave_one_out(), plain.leave_one_out())
    assert len(smote.bank.entries) == 16


def test_prototypes_are_real_clips_and_keep_the_target_domain():
    bank, target = features(30, 1), targets(30, 4)
    made = fitted(bank, target, prototypes=5).bank
    kept = made.entries[made.active]
    assert len(kept) == 5 + 4
    found, which = fitted(bank, target).score_and_nearest(kept)
    assert found == pytest.approx(np.zeros(9), abs=1e-6)
    assert set(range(26, 30)) <= set(which.tolist())


def test_more_prototypes_than_source_clips_keep_all_of_them():
    bank, target = features(12), targets(12, 4)
    plain, all_kept = fitted(bank, target), fitted(bank, target, prototypes=8)
    np.testing.assert_array_equal(all_kept.leave_one_out(), plain.leave_one_out())


TWINS = [*BACK_ENDS, *BANKS, {"distance": "standardised"}, {"distance": "standardised", "normalisation": "ratio"}]


@pytest.mark.parametrize("settings", TWINS, ids=named)
def test_scores_of_banks_of_twins_are_finite(settings):
    bank = features(6).repeat(2, 1, 1)
    scorer = fitted(bank, targets(12, 6), density_neighbours=1, **settings)
    assert np.isfinite(scorer.leave_one_out()).all()
    assert np.isfinite(scorer.score(features(3, seed=3))).all()


@pytest.mark.parametrize("distance", ["cosine", "standardised"])
def test_a_clip_is_at_no_distance_from_its_twin(distance):
    bank = 3.0 + features(6, 2, 300).repeat(2, 1, 1)
    scorer = fitted(bank, targets(12, 0), distance=distance)
    np.testing.assert_array_equal(scorer.leave_one_out(), 0.0)
    np.testing.assert_array_equal(scorer.score(bank), 0.0)


@pytest.mark.parametrize("settings", TWINS, ids=named)
@pytest.mark.parametrize("of_target", [0, 1])
def test_a_bank_of_one_clip_scores_plain_distances(settings, of_target):
    bank, queries = features(1, 2), features(4, 2, seed=1)
    scoring = NearestSettings(**settings)
    plain = NearestSettings(distance=scoring.distance, over_parts=scoring.over_parts)
    expected = NearestNeighbours(plain).fit(bank, targets(1, of_target)).score(queries)
    scores, which = NearestNeighbours(scoring).fit(bank, targets(1, of_target)).score_and_nearest(queries)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert which.tolist() == [0] * 4


@pytest.mark.parametrize("settings", [*BACK_ENDS[::3], *BANKS], ids=named)
def test_matrices_of_distances_keep_to_the_bound(settings, monkeypatch):
    made: list[int] = []
    pairwise_distance = distances.pairwise_distance

    def watched(*arguments):
        found = pairwise_distance(*arguments)
        made.append(found.numel())
        return found

    monkeypatch.setattr(distances, "ELEMENTS", 600)
    monkeypatch.setattr(distances, "pairwise_distance", watched)
    scorer = fitted(features(60, 2), targets(60, 10), **settings)
    scorer.leave_one_out()
    scorer.score(features(90, 2, seed=1))
    assert 100 < max(made) <= max(600, len(scorer.bank.entries))  # one row at least


def test_no_clips_have_no_scores():
    scores, which = fitted(features(3), targets(3, 1)).score_and_nearest(features(0))
    assert (scores.shape, scores.dtype, which.shape, which.dtype) == ((0,), np.float64, (0,), np.int64)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="normals >= 1"):
        fitted(features(0), targets(0, 0))
    with pytest.raises(ValueError, match="no direction"):
        fitted(torch.zeros(3, 1, 2), targets(3, 0))
    with pytest.raises(ValueError, match="not finite"):
        fitted(torch.full((3, 1, 2), torch.nan), targets(3, 0), distance="standardised")
    scorer = fitted(features(3), targets(3, 0))
    with pytest.raises(ValueError, match=r"expected features of \(clips, 1, 5\)"):
        scorer.score(features(3, dim=4))
    with pytest.raises(ValueError, match="two normal clips or more"):
        fitted(features(1), targets(1, 0)).leave_one_out()
