"""ArcFace against pytorch-metric-learning, a naive loop over equation 1 of the report, and arc cosines."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from pytorch_metric_learning import losses as metric_learning
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import InputError
from nearfar.losses import LOSSES, ArcFaceLoss
from nearfar.losses.arcface import arcface_logits, margin_cosine

SETTINGS = [(30.0, 0.2), (30.0, 0.5), (64.0, 0.3), (1.0, 0.0), (5.0, 1.5)]


def equation_1(embeddings: Tensor, centres: Tensor, labels: Tensor, scale: float, margin: float) -> list[float]:
    """Loss per sample, one angle at a time, in Python's float64."""
    losses = []
    for embedding, label in zip(embeddings.double(), labels.tolist(), strict=True):
        cosines = [
            float(embedding @ centre) / math.sqrt(float(embedding @ embedding) * float(centre @ centre))
            for centre in centres.double()
        ]
        angles = [math.acos(max(-1.0, min(1.0, cosine))) for cosine in cosines]
        own = math.exp(scale * math.cos(angles[label] + margin))
        others = sum(math.exp(scale * math.cos(angle)) for j, angle in enumerate(angles) if j != label)
        losses.append(-math.log(own / (own + others)))
    return losses


def example(classes: int = 7, dim: int = 5, batch: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of various lengths, centres and labels; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch, dim, generator=generator) * torch.linspace(0.01, 100.0, batch)[:, None]
    return embeddings, torch.randn(classes, dim, generator=generator), torch.arange(batch) % classes


def head(centres: Tensor, scale: float, margin: float) -> ArcFaceLoss:
    arcface = ArcFaceLoss(len(centres), centres.shape[1], margin, scale, reduction="none")
    with torch.no_grad():
        arcface.centres.copy_(centres)
    return arcface


def away_from_the_bend(embeddings: Tensor, centres: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Rows with theta_y <= pi - m, where libraries agree; beyond it they change the equation, and we do not."""
    cosine = F.cosine_similarity(embeddings.double(), centres[labels].double())
    return cosine.acos() < math.pi - margin - 1e-3


@pytest.mark.parametrize(("scale", "margin"), SETTINGS)
def test_it_is_equation_1_of_the_report(scale: float, margin: float) -> None:
    embeddings, centres, labels = example()
    with torch.no_grad():
        losses = head(centres, scale, margin)(embeddings, labels)
    expected = torch.tensor(equation_1(embeddings, centres, labels, scale, margin))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    assert losses.shape == (12,)
    assert losses.dtype == torch.float32


@pytest.mark.parametrize(("scale", "margin"), SETTINGS)
def test_it_equals_pytorch_metric_learning_with_its_gradients(scale: float, margin: float) -> None:
    embeddings, centres, labels = example(seed=1)
    rows = away_from_the_bend(embeddings, centres, labels, margin)
    assert rows.sum() >= 4
    embeddings, labels = embeddings[rows], labels[rows]
    ours = embeddings.clone().requires_grad_()
    theirs = embeddings.clone().requires_grad_()
    arcface = head(centres, scale, margin)
    oracle = metric_learning.ArcFaceLoss(len(centres), centres.shape[1], margin=math.degrees(margin), scale=scale)
    with torch.no_grad():
        oracle.W.copy_(centres.T)
    loss, expected = arcface(ours, labels).mean(), oracle(theirs, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    assert arcface.centres.grad is not None
    assert oracle.W.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(arcface.centres.grad.T, oracle.W.grad, rtol=1e-3, atol=1e-4)


def test_beyond_pi_minus_m_the_equation_is_followed_where_the_library_is_not() -> None:
    centres = torch.eye(2)
    embedding, label = torch.tensor([[-1.0, 0.001]]), torch.tensor([0])
    (expected,) = equation_1(embedding, centres, label, 30.0, 0.5)
    loss = head(centres, 30.0, 0.5)(embedding, label)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    oracle = metric_learning.ArcFaceLoss(2, 2, margin=math.degrees(0.5), scale=30.0)
    with torch.no_grad():
        oracle.W.copy_(centres.T)
    assert float(oracle(embedding, label).detach()) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5, 3.0])
def test_the_margin_without_arc_cosine_is_that_with_it(margin: float) -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 401, dtype=torch.float64)
    cosine = angles.cos().requires_grad_()
    exact = angles.cos().requires_grad_()
    shifted, expected = margin_cosine(cosine, margin), (exact.acos() + margin).cos()
    torch.testing.assert_close(shifted, expected, atol=1e-12, rtol=0)
    shifted.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(cosine.grad, exact.grad, atol=1e-9, rtol=1e-9)


def test_its_gradient_is_that_of_finite_differences() -> None:
    embeddings, centres, labels = example(classes=4, dim=3, batch=5)

    def losses(embeddings: Tensor, centres: Tensor) -> Tensor:
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(centres, dim=1).T
        return F.cross_entropy(arcface_logits(cosine, labels, 30.0, 0.3), labels, reduction="none")

    inputs = (embeddings.double().requires_grad_(), centres.double().requires_grad_())
    assert torch.autograd.gradcheck(losses, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("sign", "length"), product([1.0, -1.0], [1e-3, 1.0, 1e4]))
def test_on_a_centre_and_opposite_to_it_loss_and_gradient_are_finite(sign: float, length: float) -> None:
    _, centres, _ = example()
    embeddings = (sign * length * centres).requires_grad_()
    labels = torch.arange(len(centres))
    arcface = head(centres, 30.0, 0.2)
    losses = arcface(embeddings, labels)
    expected = torch.tensor(equation_1(embeddings.detach(), centres, labels, 30.0, 0.2))
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-3, atol=5e-3)
    losses.sum().backward()
    assert embeddings.grad is not None
    assert arcface.centres.grad is not None
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(arcface.centres.grad).all()


def test_a_cosine_that_rounding_pushes_beyond_one_is_no_nan() -> None:
    cosine = torch.tensor([1.0 + 1e-7, -1.0 - 1e-7, 1.0, -1.0], requires_grad=True)
    shifted = margin_cosine(cosine, 0.2)
    torch.testing.assert_close(
        shifted.detach(), torch.tensor([1.0, -1.0, 1.0, -1.0]) * math.cos(0.2), atol=1e-4, rtol=0
    )
    shifted.sum().backward()
    assert cosine.grad is not None
    assert torch.isfinite(cosine.grad).all()


def test_only_the_true_class_has_a_margin() -> None:
    cosine = torch.tensor([[0.5, -0.3, 0.9], [0.1, 0.2, 0.3]])
    labels = torch.tensor([2, 0])
    logits = arcface_logits(cosine, labels, scale=10.0, margin=0.4)
    expected = 10.0 * cosine
    expected[0, 2] = 10.0 * math.cos(math.acos(0.9) + 0.4)
    expected[1, 0] = 10.0 * math.cos(math.acos(0.1) + 0.4)
    torch.testing.assert_close(logits, expected)


def test_the_lengths_of_embeddings_and_centres_do_not_matter() -> None:
    embeddings, centres, labels = example()
    losses = head(centres, 30.0, 0.2)(embeddings, labels)
    rescaled = head(7.0 * centres, 30.0, 0.2)(0.3 * embeddings, labels)
    torch.testing.assert_close(losses, rescaled, rtol=1e-5, atol=1e-5)


def test_a_mixed_sample_has_the_mixed_loss_of_both_its_labels() -> None:
    embeddings, centres, labels = example()
    others, mixup_lambda = labels.flip(0), torch.linspace(0.0, 1.0, 12)
    arcface = head(centres, 30.0, 0.2)
    mixed = arcface(embeddings, labels, others, mixup_lambda)
    own, other = (torch.tensor(equation_1(embeddings, centres, these, 30.0, 0.2)) for these in (labels, others))
    torch.testing.assert_close(
        mixed.detach(), mixup_lambda * own + (1 - mixup_lambda) * other, rtol=1e-4, atol=1e-4
    )
    whole = arcface(embeddings, labels, others, torch.ones(12))
    torch.testing.assert_close(whole, arcface(embeddings, labels), atol=0, rtol=0)


def test_it_is_float32_inside_autocast() -> None:
    embeddings, centres, labels = example()
    arcface = head(centres, 30.0, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = arcface(embeddings, labels)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, arcface(embeddings, labels), atol=0, rtol=0)


def test_centres_start_at_random_and_follow_the_seed() -> None:
    def start(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return ArcFaceLoss(5, 8).centres.detach()

    assert start(0).shape == (5, 8)
    assert torch.linalg.matrix_rank(start(0)) == 5
    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_training_with_it_brings_embeddings_to_their_centres() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(12, 6, requires_grad=True)
    labels = torch.arange(12) % 4
    arcface = ArcFaceLoss(4, 6)
    optimizer = torch.optim.Adam([embeddings, *arcface.parameters()], lr=0.05)
    before = float(arcface(embeddings, labels).detach())
    for _ in range(200):
        optimizer.zero_grad()
        arcface(embeddings, labels).backward()
        optimizer.step()
    assert float(arcface(embeddings, labels).detach()) < before / 1000
    assert (arcface.cosine(embeddings).argmax(dim=1) == labels).all()


@pytest.mark.parametrize("sub_centres", [2, 5])
def test_sub_centres_equal_pytorch_metric_learning(sub_centres: int) -> None:
    embeddings, _, labels = example(seed=3)
    ours = ArcFaceLoss(7, 5, sub_centers=sub_centres)
    theirs = metric_learning.SubCenterArcFaceLoss(
        num_classes=7, embedding_size=5, margin=math.degrees(0.2), scale=30.0, sub_centers=sub_centres
    )
    with torch.no_grad():
        theirs.W.copy_(ours.centres.T)
    nearest = ours.cosine(embeddings).gather(1, labels[:, None])[:, 0]
    rows = nearest.acos() < math.pi - 0.2 - 1e-3
    assert rows.sum() >= 4
    torch.testing.assert_close(
        ours(embeddings[rows], labels[rows]), theirs(embeddings[rows], labels[rows]), rtol=1e-5, atol=1e-5
    )


def test_centres_that_are_not_trained_have_no_gradient() -> None:
    embeddings, _, labels = example()
    arcface = ArcFaceLoss(7, 5, sub_centers=3, trainable_centers=False)
    arcface(embeddings.requires_grad_(), labels).backward()
    assert arcface.centres.grad is None
    assert embeddings.grad is not None


def test_the_reductions_are_the_mean_sum_and_rows_of_the_losses() -> None:
    embeddings, _, labels = example()
    torch.manual_seed(0)
    loss = ArcFaceLoss(7, 5, reduction="none")
    rows = loss(embeddings, labels)
    for reduction, expected in (("mean", rows.mean()), ("sum", rows.sum())):
        torch.manual_seed(0)
        torch.testing.assert_close(ArcFaceLoss(7, 5, reduction=reduction)(embeddings, labels), expected)
    with pytest.raises(ValueError, match="expected reduction 'mean', 'sum' or 'none', got 'max'"):
        ArcFaceLoss(7, 5, reduction="max")


def test_the_table_of_losses_builds_it_with_its_settings() -> None:
    entry = LOSSES["arcface"]
    chosen = entry.settings(scale=12.0, margin=0.4, sub_centres=2, trainable_centres=False)
    built = entry.build(7, 5, chosen)
    assert isinstance(built, ArcFaceLoss)
    assert (built.scale, built.margin, built.reduction) == (12.0, 0.4, "none")
    assert (built.centres.shape, built.centres.requires_grad) == ((14, 5), False)
    with pytest.raises(InputError, match="'arcface' or 'adacos'"):
        LOSSES["arcfaces"]
