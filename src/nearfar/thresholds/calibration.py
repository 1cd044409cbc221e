"""Scores of normal recordings for thresholds and p-values, and the thresholds found from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from nearfar.errors import InputError
from nearfar.settings import Settings
from nearfar.thresholds.rules import RULES, Fallback, p_values

Scores = NDArray[np.float64]
Domain = Literal["source", "target"]

GIVEN = "given"
"""The rule of a threshold that a person chose as a number."""

Normals = Literal["left out", "held out", "in training"]
"""Which normal recordings the scores of a threshold are of: each left out of the bank in turn, those held out of
bank and training, or those that the model was trained on."""

IN_TRAINING = "the model was trained on the recordings that the threshold is from, so new ones may score higher"

SAME = 1e-9
"""Scores that differ by less than this fraction of the highest are equal."""


FEWEST_GROUPS = 3
"""Fewer independent groups of normal recordings give no threshold at another rate than the one asked for."""


class NormalScore(Settings):
    """One normal recording, scored by a bank that does not hold it; the score is of its most anomalous window.

    ``group`` is the group of recordings, such as a session, that the bank holds nothing of; None where each
    recording is a group of its own.
    """

    file: str
    domain: Domain
    score: float
    channels: dict[str, float]
    group: str | None = None


class Calibration(Settings):
    """The normal scores of one machine and section.

    ``guaranteed`` is whether conformal p-values made of them are exact (see :mod:`nearfar.detector.machine`),
    ``grouped_by`` says how the groups of recordings were found, ``remark`` what limits the promised rates, and
    ``in_training`` is whether a model was trained on the recordings.
    """

    machine: str
    section: str
    method: Literal["leave-one-out", "split"]
    guaranteed: bool
    recordings: tuple[NormalScore, ...]
    grouped_by: str | None = None
    remark: str | None = None
    in_training: bool = False

    @property
    def normals(self) -> Normals:
        """How the recordings relate to bank and training."""
        if self.in_training:
            return "in training"
        return "held out" if self.method == "split" else "left out"

    def of(self, domain: str | None = None) -> tuple[NormalScore, ...]:
        """The recordings of one domain or of both."""
        return tuple(entry for entry in self.recordings if domain in (None, entry.domain))

    def scores(self, domain: str | None = None) -> Scores:
        """(recordings,) float64, of one domain or of both."""
        return np.array([entry.score for entry in self.of(domain)], np.float64)

    def groups(self, domain: str | None = None) -> NDArray[np.int64]:
        """(recordings,) int64, the number of each score's group."""
        numbers: dict[tuple[bool, str], int] = {}
        names = [(entry.group is None, entry.group or str(index)) for index, entry in enumerate(self.of(domain))]
        return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)

    def p_value(self, score: float, domain: str | None = None) -> float | None:
        """The fraction of normal recordings at least as anomalous; None where there are no scores."""
        normal = self.scores(domain)
        return float(p_values([score], normal, self.groups(domain))[0]) if normal.size else None

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have scores."""
        return tuple(sorted({entry.domain for entry in self.recordings}))


_EARLIER = {"method": "rule", "kind": "rule", "training_clips": "recordings"}
"""Keys of ``thresholds.json`` in earlier versions, and their names now."""


class Threshold(Settings):
    """The score above which a recording of one machine and section is called anomalous.

    Attributes:
        domain: None where the threshold is for both domains.
        rule: a name in :data:`nearfar.thresholds.RULES`, or ``given``.
        false_alarm_rate: the fraction of normal recordings that may be called anomalous; None for a given number.
        recordings: how many normal scores it was found from, and ``groups`` of how many independent groups.
        guaranteed: whether the rate is a bound.
        value: None where there are too few scores.
        normals: how bank and training relate to the normal recordings; None of a given number, and in files of
            earlier versions.
        rests_on: the one normal recording without which the threshold would be much lower, if there is one.
        remark: what differs from the request, and why.
    """

    machine: str
    section: str
    domain: Domain | None = None
    rule: str
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None
    recordings: Annotated[int, Field(ge=0)]
    groups: Annotated[int, Field(ge=0)] | None = None
    guaranteed: bool
    value: float | None
    normals: Normals | None = None
    rests_on: str | None = None
    remark: str | None = None

    @property
    def promise(self) -> str:
        """The rate of false alarms: ``at most 5 %``, ``about 5 %``, ``5 % in training`` or ``unknown``."""
        if self.false_alarm_rate is None or self.value is None:
            return "unknown"
        rate = f"{100 * self.false_alarm_rate:.3g} %"
        if self.normals == "in training":
            return f"{rate} in training"
        return f"{'at most' if self.guaranteed else 'about'} {rate}"

    @property
    def found_from(self) -> str:
        """What it is from, in words: normal recordings that were left out, held out or trained on, or a person."""
        if self.rule == GIVEN:
            return "given by a person"
        return f"normal recordings {self.normals or 'left out'}"

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, tree: Any) -> Any:
        """Files of earlier versions name the rule ``method``; runs named it ``kind``, with a quantile."""
        if not isinstance(tree, dict):
            return tree
        tree = {_EARLIER.get(key, key): value for key, value in tree.items()}
        if "quantile" in tree:
            rate = 1.0 - float(tree.pop("quantile"))
            tree |= {"false_alarm_rate": round(rate, 9), "guaranteed": False}
        return tree


def find_threshold(
    calibration: Calibration, rule: str, false_alarm_rate: float, domain: str | None = None
) -> Threshold:
    """The threshold of one machine and section, for one domain or for both.

    Raises:
        InputError: if there is no such rule, or the scores give no such threshold.
    """
    value = _value(calibration, rule, false_alarm_rate, domain)
    return _threshold(calibration, domain, rule, false_alarm_rate, value)


def usable_threshold(
    calibration: Calibration, rule: str, false_alarm_rate: float, domain: str | None = None
) -> Threshold:
    """:func:`find_threshold`, or the rule's fallback with a remark, or a threshold without a value.

    Raises:
        InputError: if there is no such rule.
    """
    entry = RULES[rule]
    try:
        return find_threshold(calibration, rule, false_alarm_rate, domain)
    except InputError as error:
        why = error.found
    fallback: Fallback | None = None
    if _group_count(calibration, domain) >= FEWEST_GROUPS:
        fallback = entry.fallback(calibration.groups(domain), false_alarm_rate, why)
    if fallback is not None:
        try:
            found = find_threshold(calibration, fallback.rule, fallback.false_alarm_rate, domain)
        except InputError as error:
            why = error.found
        else:
            remark = "; ".join(filter(None, (fallback.remark, found.remark)))
            return found.model_copy(update={"remark": remark})
    few = "" if _group_count(calibration, domain) >= FEWEST_GROUPS else f": record at least {FEWEST_GROUPS}"
    return _threshold(calibration, domain, rule, false_alarm_rate, None, f"no threshold ({why}){few}")


def _value(calibration: Calibration, rule: str, rate: float, domain: str | None) -> float:
    scores = calibration.scores(domain)
    value = RULES[rule].find(scores, rate, calibration.groups(domain))
    if np.ptp(scores) <= SAME * max(abs(scores).max(), SAME):
        raise InputError(
            calibration.machine,
            found="normal recordings that all have the same score",
            expected="scores that differ a little from recording to recording",
            remedy="Check that the recordings are no copies and hold the sound of the machine",
        )
    return value


def _group_count(calibration: Calibration, domain: str | None) -> int:
    return len(set(calibration.groups(domain).tolist()))


def _rests_on(calibration: Calibration, rule: str, rate: float, domain: str | None, value: float) -> str | None:
    """The recording of the highest score, if the threshold would be much lower without it.

    Much is more than half of the distance from the median of the scores to the threshold.
    """
    entries = calibration.of(domain)
    if len(entries) <= FEWEST_GROUPS:
        return None
    highest = max(entries, key=lambda entry: entry.score)
    others = calibration.model_copy(update={"recordings": tuple(e for e in entries if e is not highest)})
    try:
        without = _value(others, rule, rate, None)
    except InputError:
        without = others.scores().max()
    median = float(np.median(calibration.scores(domain)))
    return highest.file if value - without > 0.5 * (value - median) > 0 else None


def is_consistent(threshold: Threshold, calibration: Calibration) -> bool:
    """Whether a threshold is the one that its rule finds from the scores, or is marked as given by a person."""
    rate, domain = threshold.false_alarm_rate, threshold.domain
    if threshold.rule == GIVEN:
        return rate is None and threshold.value is not None and not threshold.guaranteed
    if rate is None or threshold.rule not in RULES:
        return False
    found = usable_threshold(calibration, threshold.rule, rate, domain)
    if threshold.normals not in (None, found.normals):
        return False
    if found.guaranteed != threshold.guaranteed or (found.value is None) != (threshold.value is None):
        return False
    if found.value is None or threshold.value is None:
        return True
    return bool(np.isclose(found.value, threshold.value, rtol=1e-9, atol=0.0))


def given_threshold(calibration: Calibration, value: float, domain: str | None = None) -> Threshold:
    """A number that a person chose; it has no false-alarm rate."""
    return _threshold(calibration, domain, GIVEN, None, value)


def usable_thresholds(
    calibrations: Iterable[Calibration], rule: str, false_alarm_rate: float, domains: str = "pooled"
) -> tuple[Threshold, ...]:
    """:func:`usable_threshold` of every machine and section, and of every domain where ``domains`` is separate."""
    return tuple(
        usable_threshold(entry, rule, false_alarm_rate, domain)
        for entry in calibrations
        for domain in domains_of(entry, domains)
    )


def threshold_of(thresholds: Iterable[Threshold], machine: str, section: str, domain: str) -> Threshold | None:
    """The threshold for a recording of a machine, section and domain: the domain's own, or that for both."""
    of_machine = [entry for entry in thresholds if (entry.machine, entry.section) == (machine, section)]
    matching = [entry for entry in of_machine if entry.domain in (None, domain)]
    return min(matching, key=lambda entry: entry.domain is None, default=None)


def domains_of(calibration: Calibration, domains: str) -> tuple[str | None, ...]:
    """The domains to find thresholds for: each where ``domains`` is ``separate``, else one for both (None).

    Without scores of both domains there is one threshold for both.

    Raises:
        InputError: if ``domains`` is neither ``pooled`` nor ``separate``.
    """
    if domains not in ("pooled", "separate"):
        raise InputError("domains", found=repr(domains), expected="'pooled' or 'separate'", remedy="Correct it")
    separate = domains == "separate" and len(calibration.domains) > 1
    return calibration.domains if separate else (None,)


def changed_thresholds(
    calibrations: Sequence[Calibration],
    thresholds: Iterable[Threshold],
    find: Callable[[Calibration, str | None], Threshold],
    *,
    machine: str | None = None,
    domains: str = "pooled",
) -> tuple[Threshold, ...]:
    """A detector's thresholds with those of all machines, or of one, replaced.

    Args:
        calibrations: of the detector.
        thresholds: as they are.
        find: the new threshold of a machine and domain.
        machine: whose thresholds change; :attr:`Calibration.machine`, or ``machine/section``; None: all.
        domains: ``pooled`` or ``separate``.

    Raises:
        InputError: if the machine is unknown, or as ``find``.
    """
    names = {name for entry in calibrations for name in (entry.machine, f"{entry.machine}/{entry.section}")}
    if machine is not None and machine not in names:
        raise InputError(
            "machine",
            found=repr(machine),
            expected=f"one of {', '.join(sorted({entry.machine for entry in calibrations}))}",
            remedy="Check the spelling",
        )
    current = list(thresholds)
    out: list[Threshold] = []
    for entry in calibrations:
        if machine in (None, entry.machine, f"{entry.machine}/{entry.section}"):
            out += [find(entry, domain) for domain in domains_of(entry, domains)]
        else:
            out += [old for old in current if (old.machine, old.section) == (entry.machine, entry.section)]
    return tuple(out)


def _threshold(
    calibration: Calibration,
    domain: str | None,
    rule: str,
    rate: float | None,
    value: float | None,
    remark: str | None = None,
) -> Threshold:
    known = rule in RULES
    bounds = known and RULES[rule].bounds_rate
    rests_on = None
    if known and rate is not None and value is not None:
        rests_on = _rests_on(calibration, rule, rate, domain, value)
    remarks = [remark]
    if value is not None:
        remarks += [calibration.remark, IN_TRAINING if known and calibration.in_training else None]
    return Threshold.model_validate(
        {
            "machine": calibration.machine,
            "section": calibration.section,
            "domain": domain,
            "rule": rule,
            "false_alarm_rate": rate,
            "recordings": len(calibration.scores(domain)),
            "groups": _group_count(calibration, domain),
            "guaranteed": bounds and calibration.guaranteed and value is not None,
            "value": value,
            "normals": calibration.normals if known else None,
            "rests_on": rests_on,
            "remark": "; ".join(filter(None, remarks)) or None,
        }
    )
