"""Scores of recordings from the features of their windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nearfar.data.quality import Problem, problems
from nearfar.detector.departure import Describe, contributions_of, departure, listed
from nearfar.detector.faults import likes
from nearfar.detector.machine import FittedMachine, most_anomalous
from nearfar.pipeline.extraction import Extracted
from nearfar.scores import Score, WindowScore
from nearfar.scoring import ViewScores
from nearfar.thresholds import Calibration, Threshold, threshold_of


@torch.no_grad()
def recording_scores(
    fitted: FittedMachine,
    calibration: Calibration,
    thresholds: Iterable[Threshold],
    extracted: Extracted,
    features: dict[str, Tensor],
    names: Sequence[str],
    machine: str,
    window_s: float,
    describe: Describe | None,
    domain: str | None = None,
) -> list[Score]:
    """The score of each recording from its windows, compared with the normal recordings of one machine.

    Without ``describe``, scores are not explained.
    """
    scored = fitted.score(features)
    every = list(thresholds)
    worst = most_anomalous(extracted.recording, scored.fused)
    _, parts, dim = next(iter(extracted.features.values()))[0].shape
    values = scored.fused[worst].tolist()
    made_of = None
    if describe is not None:
        made_of = contributions_of(fitted.scorer, features, worst.tolist(), values, describe((parts, dim)), scored)
    like = likes(fitted, features, worst.tolist())
    out = []
    for index, window in enumerate(worst):
        nearest = None if scored.nearest is None else int(scored.nearest[window])
        domain_of = domain or ("source" if nearest is None else fitted.domain(nearest))
        threshold = threshold_of(every, fitted.machine, fitted.section, domain_of)
        score = float(scored.fused[window])
        quality = _quality(fitted, extracted, index, window_s)
        comparable = all(problem.comparable for problem in quality)
        own = None if threshold is None else threshold.domain
        value = None if threshold is None else threshold.value
        anomalous = None if value is None or (score > value and not comparable) else score > value
        name, begin, path = (None, None, None) if nearest is None else fitted.nearest(nearest)
        out.append(
            Score(
                file=names[index],
                machine=machine,
                score=score,
                threshold=value,
                margin=None if value is None else score - value,
                p_value=calibration.p_value(score, own),
                anomalous=anomalous,
                domain=own,
                nearest=name,
                nearest_begin_s=begin,
                nearest_file=path,
                views={view: float(values[window]) for view, values in scored.views.items()},
                departure=None
                if made_of is None
                else departure(
                    extracted.log_mel(int(window)),
                    fitted.patches,
                    made_of[index],
                    begin_s=_begin_s(extracted, int(window)),
                    anomalous=None if value is None else score > value,
                ),
                windows=tuple(
                    _window(fitted, extracted, scored, int(i))
                    for i in np.flatnonzero(extracted.recording == index)
                ),
                quality=quality,
                contributions=() if made_of is None else listed(made_of[index]),
                like=like.get(int(window)) if anomalous else None,
                threshold_from=None if value is None or threshold is None else threshold.found_from,
            )
        )
    return out


def _begin_s(extracted: Extracted, window: int) -> float | None:
    """Where a window begins in its recording; None where it is the only one."""
    several = int((extracted.recording == extracted.recording[window]).sum()) > 1
    return float(extracted.begins_s[window]) if several else None


def _quality(fitted: FittedMachine, extracted: Extracted, index: int, window_s: float) -> tuple[Problem, ...]:
    if fitted.profile is None or index not in extracted.facts:
        return ()
    return tuple(problems(extracted.facts[index], fitted.profile, window_s))


def _window(fitted: FittedMachine, extracted: Extracted, scored: ViewScores, window: int) -> WindowScore:
    name, begin = None, None
    if scored.nearest is not None:
        name, begin, _ = fitted.nearest(int(scored.nearest[window]))
    return WindowScore(
        begin_s=float(extracted.begins_s[window]),
        end_s=float(extracted.ends_s[window]),
        score=float(scored.fused[window]),
        views={view: float(values[window]) for view, values in scored.views.items()},
        nearest=name,
        nearest_begin_s=begin,
    )
