"""Thresholds from the scores of normal recordings at a stated false-alarm rate, and the table of rules for them.

``conformal``: let n scores of normal clips be given by a bank that does not hold these clips, and a new normal
clip come from the same distribution. Its rank among them is uniform, so that with the p-value

    p = (1 + #{i : s_i >= s}) / (n + 1)

the probability of p <= a is at most a, whatever the distribution (Vovk, Gammerman, Shafer, "Algorithmic Learning
in a Random World", 2005; Bates et al., "Testing for Outliers with Conformal p-values", Annals of Statistics 2023).
The threshold for a false-alarm rate a is the ceil((n + 1) (1 - a))-th smallest score; where that exceeds n, n
scores do not support so small a rate.

``gamma``: a quantile of a gamma distribution fitted to the scores, as the official baseline uses it.
``empirical``: a quantile of the scores themselves.

The scores of training clips must not come from a bank that holds them: their distance to themselves is 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError
from nearfar.registry import Entry, Registry

UNLIKELY = 0.05


class Fallback(NamedTuple):
    """The rule and rate that replace those that scores do not support, and the remark that explains it."""

    rule: str
    false_alarm_rate: float
    remark: str


@dataclass(frozen=True, kw_only=True)
class Rule(Entry):
    """A way to find a threshold.

    Attributes:
        find: from (normals,) scores and a false-alarm rate to a threshold; raises an InputError if they give none.
        bounds_rate: whether the false-alarm rate is a bound where the scores are exchangeable with new ones.
        fallback: from the scores, the rate and the reason of an error to what is used instead, or None.
    """

    find: Callable[[ArrayLike, float], float]
    bounds_rate: bool = False
    fallback: Callable[[NDArray[np.float64], float, str], Fallback | None] = lambda scores, rate, why: None


RULES: Registry[Rule] = Registry("threshold rule")


def p_values(scores: ArrayLike, calibration: ArrayLike) -> NDArray[np.float64]:
    """Fraction of normal clips at least as anomalous as each score, the scored clip included.

    Args:
        scores: (clips,).
        calibration: (normals,) scores of normal clips.

    Returns:
        (clips,) float64 in (0, 1].
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    values: NDArray[np.float64] = np.asarray((1.0 + at_least) / (len(ordered) + 1.0), dtype=np.float64)
    return values


def conformal_threshold(calibration: ArrayLike, false_alarm_rate: float) -> float:
    """The score above which a clip's p-value is at most the false-alarm rate.

    Args:
        calibration: (normals,) scores of normal clips.
        false_alarm_rate: in (0, 1).

    Raises:
        InputError: if the rate is not in (0, 1), the scores are none or not finite, or too few for the rate.
    """
    scores = np.sort(_checked(calibration, false_alarm_rate, at_least=1))
    # (n + 1)(1 - a) is an integer for many usual rates; a rounding error must not raise the rank.
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9)
    if rank > len(scores):
        raise InputError(
            "false_alarm_rate",
            found=f"{false_alarm_rate:g} with {len(scores)} normal clips to calibrate on",
            expected=f"at least 1 / (normal clips + 1) = {1 / (len(scores) + 1):.3g}",
            remedy=f"Choose a larger rate, or record {math.ceil(1 / false_alarm_rate - 1e-9) - 1} normal clips",
        )
    return float(scores[rank - 1])


def gamma_threshold(calibration: ArrayLike, false_alarm_rate: float) -> float:
    """Quantile of a gamma distribution (shape, location, scale by maximum likelihood), as in the official
    baseline.

    Args:
        calibration: (normals,) scores of normal clips.
        false_alarm_rate: in (0, 1); the quantile is 1 minus it.

    Raises:
        InputError: if the rate is not in (0, 1); the scores are fewer than two, not finite or all equal; or no
            gamma distribution fits them.
    """
    from scipy.stats import gamma

    scores, quantile = _checked(calibration, false_alarm_rate, at_least=2), 1.0 - false_alarm_rate
    if np.ptp(scores) == 0:
        raise _no_threshold("scores that are all equal", "scores that differ")
    try:
        with warnings.catch_warnings():  # the search passes through shapes whose likelihood is not finite
            warnings.simplefilter("ignore", RuntimeWarning)
            threshold = float(gamma.ppf(quantile, *gamma.fit(scores)))
    except (RuntimeError, ValueError) as error:  # scipy's FitError is one or the other, by version
        raise _no_threshold(f"scores that no gamma distribution fits ({error})", "a fit") from None
    if not np.isfinite(threshold):
        raise _no_threshold("scores that no gamma distribution fits", "a finite threshold")
    # The search for the maximum likelihood may end far off. All of n scores lie below a true quantile with
    # probability quantile^n: where that is unlikely and happens, the fitted distribution is not that of the
    # scores.
    if threshold > scores.max() and quantile**scores.size < UNLIKELY:
        raise _no_threshold("scores that the fitted gamma distribution is far from", "a fit")
    return threshold


def empirical_threshold(calibration: ArrayLike, false_alarm_rate: float) -> float:
    """The quantile ``1 - false_alarm_rate`` of the scores themselves, interpolated linearly.

    Raises:
        InputError: if the rate is not in (0, 1), or the scores are fewer than two or not finite.
    """
    scores = _checked(calibration, false_alarm_rate, at_least=2)
    return float(np.quantile(scores, 1.0 - false_alarm_rate))


def _finest_rate(scores: NDArray[np.float64], rate: float, why: str) -> Fallback | None:
    if not scores.size:
        return None
    finest = 1.0 / (len(scores) + 1)
    remark = f"{len(scores)} normal recordings support no false-alarm rate below {finest:.3g}; that rate is used"
    return Fallback("conformal", finest, remark)


def _empirical_instead(scores: NDArray[np.float64], rate: float, why: str) -> Fallback | None:
    if scores.size < 2:
        return None
    return Fallback("empirical", rate, f"no gamma threshold ({why}); the empirical one is used")


RULES["conformal"] = Rule(
    description="conformal threshold from the scores of normal training clips",
    find=conformal_threshold,
    bounds_rate=True,
    fallback=_finest_rate,
)
RULES["gamma"] = Rule(
    description="quantile {quantile:g} of a gamma distribution fitted to the scores of normal training clips",
    find=gamma_threshold,
    fallback=_empirical_instead,
)
RULES["empirical"] = Rule(
    description="quantile {quantile:g} of the scores of normal training clips", find=empirical_threshold
)


def _checked(calibration: ArrayLike, false_alarm_rate: float, *, at_least: int) -> NDArray[np.float64]:
    scores = np.asarray(calibration, dtype=np.float64)
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            "false_alarm_rate",
            found=f"{false_alarm_rate:g}",
            expected="a number between 0 and 1",
            remedy="Choose for instance 0.05",
        )
    if scores.ndim != 1 or scores.size < at_least:
        raise _no_threshold(f"{scores.size} scores of normal clips", f"at least {at_least}")
    if not np.isfinite(scores).all():
        raise _no_threshold("scores that are not finite", "finite scores")
    return scores


def _no_threshold(found: str, expected: str) -> InputError:
    remedy = "Record more normal clips, or choose another rule"
    return InputError("threshold", found=found, expected=expected, remedy=remedy)
