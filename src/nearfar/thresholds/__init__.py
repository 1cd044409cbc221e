"""Thresholds from scores of normal recordings: rules, p-values and calibration records."""

from nearfar.thresholds.calibration import (
    FEWEST_GROUPS,
    Calibration,
    NormalScore,
    Threshold,
    changed_thresholds,
    domains_of,
    find_threshold,
    given_threshold,
    is_consistent,
    threshold_of,
    usable_threshold,
    usable_thresholds,
)
from nearfar.thresholds.rules import (
    RULES,
    Fallback,
    Rule,
    conformal_threshold,
    empirical_threshold,
    gamma_threshold,
    p_values,
)

__all__ = [
    "FEWEST_GROUPS", "RULES", "Calibration", "Fallback", "NormalScore", "Rule", "Threshold", "changed_thresholds",
    "conformal_threshold", "domains_of", "empirical_threshold", "find_threshold", "gamma_threshold",
    "given_threshold", "is_consistent", "p_values", "threshold_of", "usable_threshold", "usable_thresholds",
]  # fmt: skip
