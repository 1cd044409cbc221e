"""Decisions of a system: a threshold per machine and section, from normal training clips alone.

``thresholds.json`` in the run folder says of each where it comes from; the decisions lie beside the scores.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Decision
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import (
    MachineDecisions,
    MachineScores,
    decide,
    decision_file,
    write_decisions,
)
from nearfar.files import write_json
from nearfar.thresholds.rules import THRESHOLDS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMachine:
    """The scores of one machine and section: of its test clips, and of the normal clips it was trained on.

    ``training`` is (clips,) float64, higher is more anomalous. No score of a training clip may know the clip
    itself the way a memory bank knows it; where there are none, as with a single training clip, it is empty.
    ``views`` and ``training_views`` are the same of every scored view before fusion.
    """

    test: MachineScores
    training: NDArray[np.float64]
    views: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    training_views: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Above which score a clip of one machine and section is called anomalous.

    ``kind`` is how ``value`` was found, which ``remark`` explains where it is not how the recipe wants it.
    ``value`` is None where the training scores give no threshold at all.
    """

    machine: str
    section: str
    kind: str
    quantile: float
    training_clips: int
    value: float | None
    remark: str | None = None


def find_threshold(scored: ScoredMachine, decision: Decision) -> Threshold:
    """The recipe's threshold; the empirical one where the recipe's cannot be had from these training scores."""
    machine, section, clips = scored.test.machine, scored.test.section, scored.training.size
    wanted, quantile = decision.threshold, decision.quantile
    why = None
    for kind in dict.fromkeys((wanted, "empirical")):
        try:
            value = THRESHOLDS[kind](scored.training, quantile)
        except InputError as error:
            why = why or f"no {kind} threshold ({error.found})"
        else:
            remark = why and f"{why}; the empirical one instead"
            return Threshold(machine, section, kind, quantile, clips, value, remark)
    return Threshold(machine, section, wanted, quantile, clips, None, f"{why}; no decisions")


def decide_system(scored: Sequence[ScoredMachine], decision: Decision, out: Path) -> tuple[MachineDecisions, ...]:
    """Decide on every test clip and write decision files into ``out/scores`` and ``out/thresholds.json``.

    A machine without a threshold gets no decisions.
    """
    thresholds = [find_threshold(entry, decision) for entry in scored]
    decided = []
    for entry, threshold in zip(scored, thresholds, strict=True):
        if threshold.remark is not None:
            logger.warning("%s section %s: %s", threshold.machine, threshold.section, threshold.remark)
        if threshold.value is None:
            (out / "scores" / decision_file(threshold.machine, threshold.section)).unlink(missing_ok=True)
        else:
            decided.append(decide(entry.test, threshold.value))
    write_decisions(out / "scores", decided)
    write_json(out / "thresholds.json", [asdict(threshold) for threshold in thresholds])
    return tuple(decided)


def write_view_scores(scored: Sequence[ScoredMachine], data: Path, out: Path) -> None:
    """Write ``view_scores.json``: scores of test and normal clips, by view and fused, and where the clips are."""
    machines = [
        {
            "machine": entry.test.machine,
            "section": entry.test.section,
            "names": list(entry.test.names),
            "views": {view: values.tolist() for view, values in entry.views.items()},
            "normal": entry.training.tolist(),
            "normal_views": {view: values.tolist() for view, values in entry.training_views.items()},
        }
        for entry in scored
    ]
    write_json(out / "view_scores.json", {"data": str(data.resolve()), "machines": machines})
