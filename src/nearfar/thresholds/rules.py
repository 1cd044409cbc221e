"""From anomaly scores to decisions: thresholds from normal training scores.

A decision does not enter the official score; a person who maintains a machine needs one all the same. The score of
a training clip must not know the clip itself: against a bank that holds it, its distance is 0 (see
:meth:`nearfar.scoring.scorer.Scorer.leave_one_out`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError

QUANTILE = 0.9
"""The share of normal clips that a threshold is meant to let pass, as the official baseline chooses it."""

UNLIKELY = 0.05


def gamma_threshold(train_scores: ArrayLike, quantile: float = QUANTILE) -> float:
    """Quantile of a gamma distribution (shape, location, scale by maximum likelihood), as the baseline takes it.

    Args:
        train_scores: (clips,) scores of normal training clips.
        quantile: in (0, 1).

    Raises:
        InputError: if the scores are fewer than two, not finite or all the same, or no gamma fits them.
    """
    from scipy.stats import gamma

    scores = _checked(train_scores, quantile)
    if np.ptp(scores) == 0:
        raise _no_threshold("training scores that are all the same", "scores that differ")
    try:
        with warnings.catch_warnings():  # the search passes through shapes whose likelihood is not finite
            warnings.simplefilter("ignore", RuntimeWarning)
            threshold = float(gamma.ppf(quantile, *gamma.fit(scores)))
    except (RuntimeError, ValueError) as error:  # scipy's FitError is one or the other, by version
        raise _no_threshold(f"training scores that no gamma distribution fits ({error})", "a fit") from None
    if not np.isfinite(threshold):
        raise _no_threshold("training scores that no gamma distribution fits", "a finite threshold")
    # The search for the likeliest gamma may end far off. Of n scores, all lie below a true quantile with
    # probability quantile^n: where that is unlikely and they do all the same, the distribution is not theirs.
    if threshold > scores.max() and quantile**scores.size < UNLIKELY:
        raise _no_threshold("training scores that the fitted gamma distribution is far from", "a fit")
    return threshold


def empirical_threshold(train_scores: ArrayLike, quantile: float = QUANTILE) -> float:
    """The ``quantile`` of the training scores themselves, interpolated linearly.

    Raises:
        InputError: if the scores are fewer than two or not finite.
    """
    return float(np.quantile(_checked(train_scores, quantile), quantile))


THRESHOLDS: dict[str, Callable[[ArrayLike, float], float]] = {
    "gamma": gamma_threshold,
    "empirical": empirical_threshold,
}


def _checked(train_scores: ArrayLike, quantile: float) -> NDArray[np.float64]:
    scores = np.asarray(train_scores, dtype=np.float64)
    if not 0 < quantile < 1:
        raise InputError(
            "quantile", found=str(quantile), expected="a number between 0 and 1", remedy="Give for instance 0.9"
        )
    if scores.ndim != 1 or scores.size < 2:
        raise _no_threshold(f"training scores of shape {scores.shape}", "at least two scores")
    if not np.isfinite(scores).all():
        raise _no_threshold("training scores that are not finite", "finite scores")
    return scores


def _no_threshold(found: str, expected: str) -> InputError:
    remedy = "Score each training clip against the others, or take the empirical threshold"
    return InputError("threshold", found=found, expected=expected, remedy=remedy)
