"""Anomaly scores from an autoencoder's residuals: mean square, and the selective Mahalanobis distance."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.data.clips import Domain


def precisions(covariances: Tensor) -> tuple[tuple[Tensor, Tensor], Domain | None]:
    """Invert both covariances as the official code does, in float32 and without regularisation.

    A covariance of too few frames is singular, and its inverse in single precision gives huge and negative
    distances. If one domain's inverse is not positive definite, the other's is used, as in the official code if a
    domain has no clips at all.

    Args:
        covariances: (2, 128, 128) float32, of the source and the target domain.

    Returns:
        Two inverses, (128, 128) float32, and the domain, if any, whose inverse is that of the other one.

    Raises:
        ValueError: if neither inverse is positive definite.
    """
    source, target = (_inverse(covariance) for covariance in covariances)
    if source is not None and target is not None:
        return (source, target), None
    usable = source if target is None else target
    if usable is None:
        raise ValueError("the covariances of the residuals are singular")
    return (usable, usable), "source" if source is None else "target"


def _inverse(covariance: Tensor) -> Tensor | None:
    inverse: Tensor
    inverse, failed = torch.linalg.inv_ex(covariance)
    if int(failed) or not bool(torch.isfinite(inverse).all()):
        return None
    lowest = torch.linalg.eigvalsh((inverse + inverse.T).double())[0]
    return inverse if float(lowest) > 0 else None


def mean_square_score(residual: Tensor) -> float:
    """AE-MSE: the mean square of a clip's residual, (frames, 128) float32 in dB."""
    return float(residual.square().mean(dtype=torch.float64))


def selective_score(residual: Tensor, inverses: tuple[Tensor, Tensor], *, textbook: bool = False) -> float:
    """AE-MAHALA: the smaller of the Mahalanobis distances by the covariances of the source and the target domain.

    Harada et al. (arXiv 2303.00455) define the Mahalanobis distance of a clip's frames to their reconstructions,
    averaged over the clip. That is ``textbook=True``, with the inverses of
    :attr:`nearfar.scoring.autoencoder.network.TrainedAutoencoder.textbook`. The official code, which produced all
    published scores, differs from it, and this function follows the official code by default:

    1. *The clip's mean residual is scored, not its frames.* The code averages the whole N×N matrix Δ Σ⁻¹ Δᵀ of a
       clip's N residual frames Δ instead of its diagonal. That is δ̄ᵀ Σ⁻¹ δ̄ with δ̄ the mean residual, so
       deviations that change sign within the clip cancel. (Here δ̄ is formed first; no N×N matrix is needed.)
    2. *The covariance is about five times too large*: it sums five frames per vector and is divided by the number
       of vectors. If the same domain is always chosen, this scales all scores of a machine by one factor.
    3. *The target covariance is too small relative to the source's*: means are subtracted batch by batch, and a
       batch holds two or three vectors of the target domain, so this removes most of the variation between its
       clips. The source domain is therefore chosen too often.
    4. *Nothing is centred in the score*: Δ keeps its mean over training clips, although Σ is about a mean.
    5. *Overlapping vectors count frames up to five times*, once for each position in a vector, and the five
       positions share one covariance.
    6. *The inverse is computed in single precision, without regularisation*; if a covariance is nearly singular,
       the result depends on rounding. (If it is singular, :func:`precisions` departs from the official code.)
    7. *Without target clips the source covariance is also used for the target.*

    (2, 3 and 7 are in :func:`nearfar.scoring.autoencoder.training.residual_covariances`. One more difference
    concerns decisions only: the official threshold is the 90th percentile of a gamma distribution fitted to values
    of *batches of shuffled vectors*, which vary far less than clips do. nearfar fits thresholds to scores of
    clips.)

    ``textbook`` corrects 1, 2 and 3; 4 to 7 are part of the method as described or harmless.

    Args:
        residual: reconstruction minus input, (frames, 128) float32 in dB.
        inverses: inverses (128, 128) of the published covariances, or of the textbook ones with ``textbook``.

    Returns:
        a non-negative number, higher is more anomalous; published scores lie around 1, textbook ones around 128.
    """
    delta = residual.double() if textbook else residual.mean(dim=0, keepdim=True, dtype=torch.float64)
    return min(float(((delta @ inverse.double()) * delta).sum(dim=1).mean()) for inverse in inverses)
