"""Thresholds from the scores of normal recordings at a stated false-alarm rate, and the table of rules for them.

Recordings of one session are alike, so that scores are independent only between *groups* (sessions, or single
recordings where every recording is a session of its own). Of K groups, group g with n_g scores, a new recording of
a new group with score s has the p-value

    p = (1 + sum_g #{i in g : s_i >= s} / n_g) / (K + 1)

If no score is by a bank that holds a recording of its own group, and groups are exchangeable, the probability of
p <= a is at most a, whatever the distribution (Lee, Barber, Willett, "Distribution-free inference with
hierarchical data", 2023, section 3). With groups of one recording this is the split-conformal p-value (Vovk,
Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for Outliers with
Conformal p-values", Annals of Statistics 2023).

``conformal``: the threshold above which p is at most the false-alarm rate; K groups support no rate below
1 / (K + 1).
``gamma``: a quantile of a gamma distribution fitted to the scores, as the official baseline uses it.
``empirical``: a quantile of the scores themselves.
The last two take as many scores of every group.

The scores of training clips must not come from a bank that holds them: their distance to themselves is 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError
from nearfar.registry import Entry, Registry

Scores = NDArray[np.float64]

UNLIKELY = 0.01
"""A fitted distribution is refused where its quantile lets less than half, or more than double, of the scores pass
that it should, and this by chance with less than this probability."""

MISFIT, CRITICAL = 0.1, 0.95
"""It is refused where the Kolmogorov-Smirnov distance to the n scores is above both MISFIT and CRITICAL / sqrt(n),
about the 5 % point where three parameters are fitted."""

FARTHEST = 1.0
"""It is refused where the threshold lies farther above the highest score than so many times the scores' range."""


class Fallback(NamedTuple):
    """The rule and rate that replace those that scores do not support, and the remark that explains it."""

    rule: str
    false_alarm_rate: float
    remark: str


@dataclass(frozen=True, kw_only=True)
class Rule(Entry):
    """A way to find a threshold.

    Attributes:
        find: from (normals,) scores, a false-alarm rate and the (normals,) group of each score, or None where each
            is a group of its own, to a threshold; raises an InputError if they give none.
        bounds_rate: whether the false-alarm rate is a bound where groups are exchangeable with new ones.
        fallback: from the (normals,) group of each score, the rate and the reason of an error to what is used
            instead, or None.
    """

    find: Callable[[ArrayLike, float, ArrayLike | None], float]
    bounds_rate: bool = False
    fallback: Callable[[NDArray[np.int64], float, str], Fallback | None] = lambda groups, rate, why: None


RULES: Registry[Rule] = Registry("threshold rule")


def p_values(scores: ArrayLike, calibration: ArrayLike, groups: ArrayLike | None = None) -> Scores:
    """Fraction of normal clips at least as anomalous as each score, the scored clip included; groups count alike.

    Args:
        scores: (clips,).
        calibration: (normals,) scores of normal clips.
        groups: (normals,) the group of each; None: each is a group of its own.

    Returns:
        (clips,) float64 in (0, 1].
    """
    normal = np.asarray(calibration, dtype=np.float64)
    weights, count = _weights(normal, groups)
    order = np.argsort(normal)
    at_least = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    first = np.searchsorted(normal[order], np.asarray(scores, dtype=np.float64), side="left")
    values: Scores = np.minimum((1.0 + at_least[first]) / (count + 1.0), 1.0)
    return values


def conformal_threshold(calibration: ArrayLike, false_alarm_rate: float, groups: ArrayLike | None = None) -> float:
    """The score above which a clip's p-value is at most the false-alarm rate.

    Args:
        calibration: (normals,) scores of normal clips.
        false_alarm_rate: in (0, 1).
        groups: (normals,) the group of each; None: each is a group of its own.

    Raises:
        InputError: if the rate is not in (0, 1), the scores are none or not finite, or the groups too few for the
            rate.
    """
    scores = _checked(calibration, false_alarm_rate, at_least=1)
    weights, count = _weights(scores, groups)
    order = np.argsort(scores)
    above = np.cumsum(weights[order][::-1])[::-1] - weights[order]
    # Rates such as 1 / (K + 1) are meant exactly; a rounding error must not raise the threshold.
    enough = (1.0 + above) / (count + 1.0) <= false_alarm_rate + 1e-9
    if not enough.any():
        raise InputError(
            "false_alarm_rate",
            found=f"{false_alarm_rate:g} with {count} independent normal recordings or groups to calibrate on",
            expected=f"at least 1 / (groups + 1) = {1 / (count + 1):.3g}",
            remedy=f"Choose a larger rate, or record {math.ceil(1 / false_alarm_rate - 1e-9) - 1} of them",
        )
    return float(scores[order][int(np.argmax(enough))])


def gamma_threshold(calibration: ArrayLike, false_alarm_rate: float, groups: ArrayLike | None = None) -> float:
    """Quantile of a gamma distribution (shape, location, scale by maximum likelihood), as in the official
    baseline.

    The search for the maximum may end far off, so that the fit is checked against the scores: by a
    Kolmogorov-Smirnov test, by the number of scores above the threshold, and by how far that lies above them all.
    Where the search of the baseline fails, others start from the moments of the scores.

    Args:
        calibration: (normals,) scores of normal clips.
        false_alarm_rate: in (0, 1); the quantile is 1 minus it.
        groups: (normals,) the group of each; None: each is a group of its own.

    Raises:
        InputError: if the rate is not in (0, 1); the scores are fewer than two, not finite or all equal; or no
            gamma distribution fits them.
    """
    from scipy.stats import gamma

    scores = balanced(_checked(calibration, false_alarm_rate, at_least=2), groups)
    if np.ptp(scores) == 0:
        raise _no_threshold("scores that are all equal", "scores that differ")
    why = "scores that no gamma distribution fits"
    for parameters in _gamma_fits(scores):
        threshold = float(gamma.ppf(1.0 - false_alarm_rate, *parameters))
        if not np.isfinite(threshold):
            continue
        found = _misfit(scores, threshold, false_alarm_rate, gamma(*parameters).cdf)
        if found is None:
            return threshold
        why = f"scores that the fitted gamma distribution is far from ({found})"
    raise _no_threshold(why, "a fit")


def _gamma_fits(scores: Scores) -> Iterator[tuple[Any, ...]]:
    """Shape, location and scale: of the official search, of searches from the moments, and the moments' own."""
    from scipy.stats import gamma

    mean, spread, lowest = scores.mean(), scores.std(), scores.min()
    moments = []
    for location in (lowest - spread, lowest - 0.1 * spread, min(0.0, lowest - 2 * spread)):
        shape = ((mean - location) / spread) ** 2
        moments.append((shape, location, (mean - location) / shape))
    for start in (None, *moments):
        try:
            with warnings.catch_warnings():  # the search passes through shapes whose likelihood is not finite
                warnings.simplefilter("ignore", RuntimeWarning)
                if start is None:
                    yield gamma.fit(scores)
                else:
                    yield gamma.fit(scores, start[0], loc=start[1], scale=start[2])
        except (RuntimeError, ValueError):  # scipy's FitError is one or the other, by version
            continue
    yield from moments


def _misfit(scores: Scores, threshold: float, rate: float, distribution: Callable[[Scores], Scores]) -> str | None:
    """Why a fitted distribution is not that of the scores; None if nothing is against it."""
    from scipy.stats import binomtest, kstest

    above, count = int((scores > threshold).sum()), scores.size
    differs = not 0.5 * rate * count <= above <= 2.0 * rate * count
    if differs and binomtest(above, count, rate).pvalue < UNLIKELY:
        return f"{above} of {count} scores lie above a threshold for a rate of {rate:.3g}"
    distance = kstest(scores, distribution).statistic
    if distance > max(MISFIT, CRITICAL / math.sqrt(count)):
        return f"Kolmogorov-Smirnov distance {distance:.2f}"
    if threshold > scores.max() + FARTHEST * np.ptp(scores):
        return "the threshold is far above all scores"
    return None


def empirical_threshold(calibration: ArrayLike, false_alarm_rate: float, groups: ArrayLike | None = None) -> float:
    """The quantile ``1 - false_alarm_rate`` of the scores themselves, interpolated linearly.

    Raises:
        InputError: if the rate is not in (0, 1), or the scores are fewer than two or not finite.
    """
    scores = balanced(_checked(calibration, false_alarm_rate, at_least=2), groups)
    return float(np.quantile(scores, 1.0 - false_alarm_rate))


def balanced(scores: Scores, groups: ArrayLike | None) -> Scores:
    """As many scores of every group: the scores themselves where groups are equally large, else quantiles of each.

    Args:
        scores: (normals,).
        groups: (normals,) the group of each; None: each is a group of its own.

    Returns:
        (groups * median group size,) float64.
    """
    if groups is None:
        return scores
    of_group = np.asarray(groups)
    sizes = np.unique(of_group, return_counts=True)[1]
    if (sizes == sizes[0]).all():
        return scores
    count = max(1, int(np.median(sizes)))
    levels = (np.arange(count) + 0.5) / count
    return np.concatenate([np.quantile(scores[of_group == group], levels) for group in np.unique(of_group)])


def group_weights(groups: ArrayLike) -> Scores:
    """One over the size of each score's group, (normals,): its weight in p-values."""
    members = np.asarray(groups)
    return _weights(np.zeros(members.size), members)[0]


def _weights(scores: Scores, groups: ArrayLike | None) -> tuple[Scores, int]:
    """(normals,) one over the size of each score's group, and the number of groups."""
    if groups is None:
        return np.ones(scores.size), scores.size
    _, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return 1.0 / sizes[member], len(sizes)


def _finest_rate(groups: NDArray[np.int64], rate: float, why: str) -> Fallback | None:
    """The finest rate; of groups of several recordings 1.5 times that, so that no single recording decides."""
    count = len(np.unique(groups))
    if not count:
        return None
    finest = (1.0 if count == groups.size else 1.5) / (count + 1)
    remark = (
        f"{count} independent normal recordings or groups support no false-alarm rate below {finest:.3g}; that "
        "rate is used. For a smaller one, record on more days"
    )
    return Fallback("conformal", finest, remark)


def _empirical_instead(groups: NDArray[np.int64], rate: float, why: str) -> Fallback | None:
    if len(np.unique(groups)) < 2:
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


def _checked(calibration: ArrayLike, false_alarm_rate: float, *, at_least: int) -> Scores:
    scores = np.asarray(calibration, dtype=np.float64)
    if not 0 < false_alarm_rate < 1:
        raise InputError(
            "false_alarm_rate",
            found=f"{false_alarm_rate:g}",
            expected="a number between 0 and 1",
            remedy="Choose for instance 0.05",
        )
    if scores.ndim != 1 or scores.size < at_least:
        raise _no_threshold(f"{scores.size} scores of normal recordings", f"at least {at_least}")
    if not np.isfinite(scores).all():
        raise _no_threshold("scores that are not finite", "finite scores")
    return scores


def _no_threshold(found: str, expected: str) -> InputError:
    remedy = "Record more normal recordings, or choose another rule"
    return InputError("threshold", found=found, expected=expected, remedy=remedy)
