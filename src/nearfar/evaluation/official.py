"""How each year of DCASE Task 2 makes its values and one official score of AUC and partial AUC.

=============  ==================================================================================================
2022 to 2026   AUC per section and domain, its normal clips against the anomalies of both; pAUC per section over
               both domains; the harmonic mean of all of them. *Sure*: the evaluators of 2022 to 2024 and the
               baselines from 2022 on compute it so.
2021           AUC and pAUC per section and domain, each domain with its own anomalies; the harmonic mean of all of
               them. *Sure* for the values and for the harmonic means of AUC and of pAUC (the year's evaluator);
               that both enter one mean with equal weight is *inferred* from the years that follow.
2020           AUC and pAUC per machine id, averaged over the ids of a machine type (arithmetic mean; *sure*, the
               year's evaluator). The challenge ranked systems by ranks, which need other systems; the arithmetic
               mean of both averages over machine types stands in for it here, which is *inferred*.
own folder     As 2022 to 2026, of what there is: a domain without normal test clips has no AUC and enters nothing.
=============  ==================================================================================================

A partial AUC is the standardised one up to a false-positive rate of 0.1 in all of them. A section has three
values: AUC (source), AUC (target) and pAUC. In 2021 the third is the harmonic mean of the two domains' pAUC, which
then counts twice, so that the mean of all is the same; in 2020 the first is the AUC and the second is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.data.layouts import Layout


@dataclass(frozen=True, slots=True)
class OfficialScore:
    """The rule of some years.

    Attributes:
        own_anomalies: whether a domain's values set its normal clips against its own anomalies alone.
        mean: of the values of a section, and over sections and machines.
        weights: of AUC (source), AUC (target) and pAUC in means over all of them.
        needs_both_domains: whether it is an error if a domain has no normal test clips.
        statement: what a table must say of its figures; empty for the rule of the current challenge.
    """

    own_anomalies: bool = False
    mean: Literal["harmonic", "arithmetic"] = "harmonic"
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    needs_both_domains: bool = True
    statement: str = ""


CURRENT = OfficialScore()
"""The rule of 2022 to 2026."""

OFFICIAL_SCORES: dict[Layout, OfficialScore] = {
    "dcase2020": OfficialScore(
        mean="arithmetic",
        needs_both_domains=False,
        statement="DCASE 2020: AUC (source) is the AUC, as that year had no domains; means are arithmetic, over "
        "machine ids and then machine types. The challenge itself ranked by ranks.",
    ),
    "dcase2021": OfficialScore(
        own_anomalies=True,
        weights=(1.0, 1.0, 2.0),
        statement="DCASE 2021: each domain with its own anomalies; pAUC is the harmonic mean of both domains' and "
        "counts twice in the score.",
    ),
    "dcase2022": CURRENT,
    "own": OfficialScore(needs_both_domains=False),
}


def section_scores(rule: OfficialScore, values: ArrayLike) -> NDArray[np.float64]:
    """One score per section.

    Args:
        rule: the year's.
        values: (sections, 3, ...) fractions, NaN where one is absent.

    Returns:
        (sections, ...).
    """
    array = np.asarray(values, dtype=np.float64)
    return _mean(rule, array, _weights(rule, array), axis=(1,))


def column_means(rule: OfficialScore, machines: Sequence[str], values: ArrayLike) -> NDArray[np.float64]:
    """The mean of each of the three values over sections; by arithmetic means, over those of a machine first.

    Args:
        rule: the year's.
        machines: (sections,) the machine of each section.
        values: (sections, 3, ...) fractions, NaN where one is absent.

    Returns:
        (3, ...), NaN where no section has the value.
    """
    array = _by_machine(rule, machines, np.asarray(values, dtype=np.float64))
    return _mean(rule, array, (~np.isnan(array)).astype(np.float64), axis=(0,))


def overall_score(rule: OfficialScore, machines: Sequence[str], values: ArrayLike) -> NDArray[np.float64]:
    """The official score; arguments as :func:`column_means`, returns (...)."""
    array = _by_machine(rule, machines, np.asarray(values, dtype=np.float64))
    return _mean(rule, array, _weights(rule, array), axis=(0, 1))


def _by_machine(rule: OfficialScore, machines: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For arithmetic means, the averages over each machine's sections: machines count alike, however many ids."""
    if rule.mean == "harmonic":
        return values
    names = np.asarray(machines)
    return np.stack([values[names == name].mean(axis=0) for name in dict.fromkeys(machines)])


def _weights(rule: OfficialScore, values: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = np.array(rule.weights).reshape(1, 3, *(1,) * (values.ndim - 2))
    return np.where(np.isnan(values), 0.0, columns)


def _mean(
    rule: OfficialScore, values: NDArray[np.float64], weights: NDArray[np.float64], axis: tuple[int, ...]
) -> NDArray[np.float64]:
    """The weighted mean; harmonic ones clamp values at the smallest float step, as the official evaluators do."""
    total = weights.sum(axis=axis)
    filled = np.where(np.isnan(values), 1.0, values)
    if rule.mean == "arithmetic":
        parts, whole = (weights * filled).sum(axis=axis), total
    else:
        parts = total
        whole = (weights / np.maximum(filled, np.finfo(np.float64).eps)).sum(axis=axis)
    nothing = np.full_like(total, np.nan)
    return np.asarray(np.divide(parts, whole, out=nothing, where=total > 0))
