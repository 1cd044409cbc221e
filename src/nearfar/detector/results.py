"""From scores of windows to records of recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nearfar.detector.bank import Bank
from nearfar.detector.scores import Departure, Score, WindowScore
from nearfar.explain.explanation import explain
from nearfar.features.windows import Heard
from nearfar.scoring.machine import ViewScores
from nearfar.thresholds.calibration import Calibration, most_anomalous
from nearfar.thresholds.conformal import p_values
from nearfar.thresholds.detectors import Threshold, threshold_of


def rows(
    bank: Bank,
    calibration: Calibration,
    thresholds: Iterable[Threshold],
    heard: Heard,
    names: Sequence[str],
    machine: str,
    domain: str | None = None,
) -> list[Score]:
    """A record of each recording.

    Args:
        bank: the normal recordings of the machine.
        calibration: scores of normal recordings, for p-values.
        thresholds: all of the detector's.
        heard: the recordings' windows, with spectrograms.
        names: of the recordings.
        machine: what to call it.
        domain: of the recordings, where it is known.
    """
    scored = bank.score(heard.features)
    known = list(thresholds)
    out = []
    for index, window in enumerate(most_anomalous(heard.recording, scored.fused)):
        nearest = int(scored.nearest[window])
        domain_of = domain or bank.domain(nearest)
        threshold = threshold_of(known, bank.machine, bank.section, domain_of)
        score = float(scored.fused[window])
        own = None if threshold is None else threshold.domain
        value = None if threshold is None else threshold.value
        normal = calibration.scores(own)
        name, begin = bank.nearest(nearest)
        out.append(
            Score(
                file=names[index],
                machine=machine,
                score=score,
                threshold=value,
                margin=None if value is None else score - value,
                p_value=float(p_values([score], normal)[0]) if normal.size else None,
                anomalous=None if value is None else score > value,
                domain=own,
                nearest=name,
                nearest_begin_s=begin,
                nearest_file=bank.file(nearest),
                channels={view: float(values[window]) for view, values in scored.views.items()},
                departure=_departure(bank, heard, int(window)),
                windows=tuple(
                    _window(bank, heard, scored, int(i)) for i in np.flatnonzero(heard.recording == index)
                ),
            )
        )
    return out


def _window(bank: Bank, heard: Heard, scored: ViewScores, window: int) -> WindowScore:
    nearest, begin = bank.nearest(int(scored.nearest[window]))
    return WindowScore(
        begin_s=float(heard.begins_s[window]),
        end_s=float(heard.ends_s[window]),
        score=float(scored.fused[window]),
        channels={view: float(values[window]) for view, values in scored.views.items()},
        nearest=nearest,
        nearest_begin_s=begin,
    )


def _departure(bank: Bank, heard: Heard, window: int) -> Departure | None:
    log_mel = heard.log_mels.get(window)
    if bank.patches is None or log_mel is None:
        return None
    several = int((heard.recording == heard.recording[window]).sum()) > 1
    found = explain(log_mel, bank.patches, begin_s=float(heard.begins_s[window]) if several else None)
    return Departure(found.begin_s, found.end_s, found.low_hz, found.high_hz, found.notable, found.sentence)
