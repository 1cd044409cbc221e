"""Sub-cluster AdaCos against loops over its two equations."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from nearfar.losses import LOSSES, AdaCosLoss


def example(batch: int = 9, dim: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    embeddings = torch.randn(batch, dim, generator=torch.Generator().manual_seed(0))
    return embeddings, torch.arange(batch) % classes


def cosines(head: AdaCosLoss, embeddings: Tensor) -> list[list[float]]:
    return [
        [float(x @ w / math.sqrt(float(x @ x)) / math.sqrt(float(w @ w))) for w in head.centres.detach().double()]
        for x in embeddings.double()
    ]


def loss_in_a_loop(row: list[float], label: int, scale: float, subs: int) -> float:
    weights = [math.exp(scale * cosine) for cosine in row]
    return -math.log(sum(weights[label * subs : (label + 1) * subs]) / sum(weights))


@pytest.mark.parametrize("subs", [1, 3])
def test_the_loss_is_that_of_the_classes_sums(subs: int) -> None:
    torch.manual_seed(1)
    head = AdaCosLoss(4, 6, subs, reduction="none").eval()
    embeddings, labels = example()
    rows = cosines(head, embeddings)
    expected = [
        loss_in_a_loop(row, int(label), float(head.scale), subs) for row, label in zip(rows, labels, strict=True)
    ]
    torch.testing.assert_close(head(embeddings, labels), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert float(head.scale) == pytest.approx(math.sqrt(2) * math.log(4 * subs - 1))


@pytest.mark.parametrize("subs", [1, 3])
def test_the_scale_adapts_by_the_equation_while_training_only(subs: int) -> None:
    torch.manual_seed(2)
    head = AdaCosLoss(4, 6, subs, reduction="none")
    embeddings, labels = example()
    before, rows = float(head.scale), cosines(head, embeddings)
    sums, angles = [], []
    for row, label in zip(rows, labels.tolist(), strict=True):
        own = range(label * subs, (label + 1) * subs)
        sums.append(sum(math.exp(before * cosine) for j, cosine in enumerate(row) if j not in own))
        angles.append(math.acos(max(row[j] for j in own)))
    expected = math.log(statistics.mean(sums)) / math.cos(min(math.pi / 4, statistics.median(angles)))
    head(embeddings, labels)
    assert float(head.scale) == pytest.approx(expected, rel=1e-5)
    assert float(head.scale) != pytest.approx(before)
    head.eval()
    head(embeddings, labels)
    assert float(head.scale) == pytest.approx(expected, rel=1e-5)


def test_mixed_labels_mix_the_losses() -> None:
    head = AdaCosLoss(4, 6, 2, reduction="none").eval()
    embeddings, labels = example()
    others, mixup_lambda = labels.flip(0), torch.linspace(0, 1, len(labels))
    mixed = head(embeddings, labels, others, mixup_lambda)
    expected = mixup_lambda * head(embeddings, labels) + (1 - mixup_lambda) * head(embeddings, others)
    torch.testing.assert_close(mixed, expected)


def test_a_single_class_keeps_its_scale_and_fixed_centres_stay() -> None:
    head = AdaCosLoss(1, 6, 2, trainable_centers=False)
    before = float(head.scale)
    embeddings = torch.randn(3, 6, requires_grad=True)
    head(embeddings, torch.zeros(3, dtype=torch.int64)).backward()
    assert float(head.scale) == before
    assert head.centres.grad is None
    assert torch.isfinite(embeddings.grad).all()


def test_a_fixed_scale_keeps_its_start() -> None:
    fixed, adaptive = (AdaCosLoss(7, 6, 16, adaptive_scale=adaptive) for adaptive in (False, True))
    start = math.sqrt(2) * math.log(7 * 16 - 1)
    for head in (fixed, adaptive):
        assert float(head.scale) == pytest.approx(start)
        head(torch.randn(8, 6), torch.arange(8) % 7)
    assert float(fixed.scale) == pytest.approx(start)
    assert float(adaptive.scale) != pytest.approx(start)
    entry = LOSSES["adacos"]
    assert not entry.build(4, 6, entry.settings(adaptive_scale=False)).adaptive_scale
    assert "adaptive_scale" not in entry.settings().identity()
    assert entry.settings(adaptive_scale=False).identity()["adaptive_scale"] is False


def test_the_table_of_losses_builds_it_with_its_settings() -> None:
    entry = LOSSES["adacos"]
    built = entry.build(4, 6, entry.settings(sub_centres=3, trainable_centres=False))
    assert isinstance(built, AdaCosLoss)
    assert (built.centres.shape, built.centres.requires_grad, built.reduction) == ((12, 6), False, "none")
