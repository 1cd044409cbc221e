"""The memory bank against a naive loop and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nearfar.scoring.bank import MemoryBank


def random_embeddings(rows: int, dim: int = 6, seed: int = 0) -> Tensor:
    """Directions and lengths at random; lengths from a thousandth to a thousand."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 10 ** (6 * torch.rand(rows, 1, generator=generator) - 3)
    return lengths * torch.randn(rows, dim, generator=generator)


def naive(normals: Tensor, queries: Tensor) -> tuple[list[float], list[int]]:
    """Equation 3 of the report, one pair at a time, in Python's float64."""
    scores, indices = [], []
    for query in queries.tolist():
        distances = []
        for normal in normals.tolist():
            product = sum(a * b for a, b in zip(query, normal, strict=True))
            distances.append(1.0 - product / (math.hypot(*query) * math.hypot(*normal)))
        scores.append(min(distances))
        indices.append(distances.index(min(distances)))
    return scores, indices


def test_a_score_is_one_minus_the_highest_cosine() -> None:
    normals, queries = random_embeddings(50), random_embeddings(70, seed=1)
    scores, indices = MemoryBank(normals).nearest(queries)
    expected, nearest = naive(normals, queries)
    torch.testing.assert_close(scores, torch.tensor(expected), atol=2e-6, rtol=0)
    assert indices.tolist() == nearest
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64


def test_it_equals_scikit_learn() -> None:
    normals, queries = random_embeddings(200, 32), random_embeddings(100, 32, seed=1)
    distances, indices = NearestNeighbors(n_neighbors=1, metric="cosine").fit(normals).kneighbors(queries)
    scores, nearest = MemoryBank(normals).nearest(queries)
    torch.testing.assert_close(scores.double(), torch.from_numpy(distances[:, 0]).double(), atol=2e-6, rtol=0)
    assert nearest.tolist() == indices[:, 0].tolist()
    assert torch.equal(MemoryBank(normals)(queries), scores)


def test_the_nearest_one_decides_and_not_the_average() -> None:
    bank = MemoryBank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.1]]))
    scores = bank(torch.tensor([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0], [0.0, -1.0]]))
    sixth = 1 - 0.1 / math.hypot(1, 0.1)
    torch.testing.assert_close(scores, torch.tensor([0.0, sixth, 0.4, 1.0]))


def test_the_opposite_direction_scores_two() -> None:
    assert MemoryBank(torch.tensor([[1.0, 2.0]]))(torch.tensor([[-3.0, -6.0]])).tolist() == pytest.approx([2.0])


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e6, 1e-15])
def test_a_clip_of_the_bank_scores_zero_at_any_loudness(factor: float) -> None:
    normals = random_embeddings(40)
    scores, indices = MemoryBank(factor * normals).nearest(normals)
    torch.testing.assert_close(scores, torch.zeros(40), atol=1e-6, rtol=0)
    assert indices.tolist() == list(range(40))
    assert (scores >= 0).all()


@given(queries=st.integers(0, 23), chunk=st.integers(1, 30))
def test_chunks_only_bound_the_memory(queries: int, chunk: int) -> None:
    bank, embeddings = MemoryBank(random_embeddings(9)), random_embeddings(23, seed=1)[:queries]
    scores, indices = bank.nearest(embeddings, chunk=chunk)
    whole, nearest = bank.nearest(embeddings, chunk=1000)
    torch.testing.assert_close(scores, whole, atol=1e-6, rtol=0)
    assert torch.equal(indices, nearest)
    assert len(scores) == queries


def test_no_more_queries_than_a_chunk_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = torch.Tensor.__matmul__

    def noting(left: Tensor, right: Tensor) -> Tensor:
        sizes.append(len(left))
        return original(left, right)

    bank = MemoryBank(random_embeddings(9))
    monkeypatch.setattr(torch.Tensor, "__matmul__", noting)
    bank.nearest(random_embeddings(10), chunk=4)
    assert sizes == [4, 4, 2]


def test_the_bank_saves_with_a_model_and_has_nothing_to_train() -> None:
    bank = MemoryBank(random_embeddings(5))
    assert list(bank.state_dict()) == ["normals"]
    assert list(bank.parameters()) == []
    other = MemoryBank(random_embeddings(5, seed=2))
    other.load_state_dict(bank.state_dict())
    queries = random_embeddings(7, seed=3)
    assert torch.equal(other(queries), bank(queries))


@pytest.mark.parametrize(
    "embeddings", [torch.empty(0, 6), torch.ones(6), torch.ones(2, 3, 4)], ids=["none", "vector", "cube"]
)
def test_a_bank_needs_a_table_of_embeddings(embeddings: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(normals >= 1, dim\) embeddings"):
        MemoryBank(embeddings)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_an_embedding_without_a_direction_is_refused(value: float) -> None:
    embeddings = random_embeddings(3)
    bank = MemoryBank(embeddings)
    broken = embeddings.clone()
    broken[1] = value
    with pytest.raises(ValueError, match="no direction"):
        MemoryBank(broken)
    with pytest.raises(ValueError, match="no direction"):
        bank(broken)
