"""From anomaly scores to decisions: thresholds from normal training scores alone, and decision files.

A decision does not enter the official score; a person who maintains a machine needs one all the same. The score of
a training clip must not know the clip itself: against a bank that holds it, its distance is 0 (see
:meth:`nearfar.scoring.scorer.Scorer.leave_one_out`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, files_of, read_rows, write_rows

QUANTILE = 0.9
"""The share of normal clips that a threshold is meant to let pass, as the official baseline chooses it."""

UNLIKELY = 0.05

_FORM = "rows of a file name and 0 or 1, without a header"


@dataclass(frozen=True, slots=True, eq=False)
class MachineDecisions:
    """Which of a machine's test clips are called anomalous.

    ``decisions[i]`` is 1 where the clip ``names[i]`` is called anomalous and else 0; (clips,) int64.
    """

    machine: str
    section: str
    names: tuple[str, ...]
    decisions: NDArray[np.int64]


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


def decide(scores: MachineScores, threshold: float) -> MachineDecisions:
    """Call a clip anomalous where its score is above the threshold; a score equal to it passes as normal."""
    called = (scores.scores > threshold).astype(np.int64)
    return MachineDecisions(scores.machine, scores.section, scores.names, called)


def decision_file(machine: str, section: str) -> str:
    """The name of a machine and section's decision file."""
    return f"decision_result_{machine}_section_{section}_test.csv"


def write_decisions(folder: Path, machine_decisions: Iterable[MachineDecisions]) -> list[Path]:
    """Write ``decision_result_<machine>_section_NN_test.csv`` files; each appears whole or not at all."""
    files = []
    for entry in machine_decisions:
        path = folder / decision_file(entry.machine, entry.section)
        write_rows(path, zip(entry.names, (str(int(call)) for call in entry.decisions), strict=True))
        files.append(path)
    return files


def read_decisions(folder: Path) -> list[MachineDecisions]:
    """Read every decision file of a folder, in the order of :func:`nearfar.evaluation.scorefiles.read_scores`.

    Raises:
        InputError: if there are none, or a file has a row of another form, a decision that is not 0 or 1, or a
            name twice.
    """
    entries = []
    for path, machine, section in files_of(folder, "decision_result"):
        names, texts = read_rows(path, _FORM)
        for row, text in enumerate(texts, start=1):
            if text not in ("0", "1"):
                raise InputError(
                    path, found=f"the decision {text!r} in row {row}", expected=_FORM, remedy="Correct the file"
                )
        entries.append(MachineDecisions(machine, section, names, np.array([int(text) for text in texts])))
    return entries


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
