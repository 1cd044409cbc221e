"""Thresholds from the scores of normal recordings, at a stated false-alarm rate; data beside the model.

* ``conformal``: the score whose rank among n normal scores bounds the false-alarm rate; no rate below 1 / (n + 1).
* ``gamma``: a quantile of a gamma distribution fitted to them: any rate, as good as the distribution fits.
* ``empirical``: their own quantile, interpolated: no bound, close where there are many.
* ``given``: a number that a person chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from nearfar.config.tables import Table
from nearfar.errors import InputError
from nearfar.thresholds.calibration import Calibration
from nearfar.thresholds.conformal import conformal_threshold
from nearfar.thresholds.rules import THRESHOLDS

Method = Literal["conformal", "gamma", "empirical"]


class Threshold(Table):
    """Above which score a recording of one machine and section is called anomalous.

    ``domain`` is None where it is for both. ``false_alarm_rate`` is the share of normal recordings that it lets be
    called anomalous, ``recordings`` the number of normal scores it was found from; ``guaranteed`` is whether that
    rate is a bound (see :mod:`nearfar.thresholds.calibration`). ``value`` is None where there are no scores.
    ``remark`` says what is not as was asked.
    """

    machine: str
    section: str
    domain: Literal["source", "target"] | None = None
    method: Literal["conformal", "gamma", "empirical", "given"]
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None
    recordings: Annotated[int, Field(ge=0)]
    guaranteed: bool
    value: float | None
    remark: str | None = None


def find_threshold(
    calibration: Calibration, domain: str | None, method: Method, false_alarm_rate: float
) -> Threshold:
    """The threshold of one machine and section, for one domain or for both.

    Raises:
        InputError: if the scores give no such threshold; what they do give is said.
    """
    scores = calibration.scores(domain)
    if method == "conformal":
        value = conformal_threshold(scores, false_alarm_rate)
    else:
        value = THRESHOLDS[method](scores, 1.0 - false_alarm_rate)
    return _record(calibration, domain, method, false_alarm_rate, value)


def usable_threshold(
    calibration: Calibration, domain: str | None, method: Method, false_alarm_rate: float
) -> Threshold:
    """:func:`find_threshold`, or what comes nearest to it, with a remark.

    A rate that is too small for ``conformal`` becomes the smallest that the scores support, a gamma distribution
    that does not fit gives way to ``empirical``; without scores there is a threshold without a value.
    """
    try:
        return find_threshold(calibration, domain, method, false_alarm_rate)
    except InputError as error:
        why = error.found
    scores = calibration.scores(domain)
    count = len(scores)
    if method == "conformal" and count:
        finest = 1.0 / (count + 1)
        threshold = find_threshold(calibration, domain, "conformal", finest)
        remark = f"{count} normal recordings support no false-alarm rate below {finest:.3g}, which it is now"
        return threshold.model_copy(update={"remark": remark})
    if method == "gamma" and count > 1:
        threshold = find_threshold(calibration, domain, "empirical", false_alarm_rate)
        return threshold.model_copy(update={"remark": f"no gamma threshold ({why}); the empirical one instead"})
    remark = f"no threshold ({count} normal recordings that could be scored)"
    return _record(calibration, domain, method, false_alarm_rate, None, remark)


def known_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: if there is none.
    """
    for method in get_args(Method):
        if method == name:
            found: Method = method
            return found
    raise InputError("--method", found=name, expected=f"one of {', '.join(get_args(Method))}", remedy="Correct it")


def given_threshold(calibration: Calibration, domain: str | None, value: float) -> Threshold:
    """A threshold that a person chose; it has no false-alarm rate."""
    return _record(calibration, domain, "given", None, value)


def threshold_of(thresholds: Iterable[Threshold], machine: str, section: str, domain: str) -> Threshold | None:
    """The threshold for a recording of a machine, section and domain: the domain's own, or that for both."""
    of_machine = [entry for entry in thresholds if (entry.machine, entry.section) == (machine, section)]
    fitting = [entry for entry in of_machine if entry.domain in (None, domain)]
    return min(fitting, key=lambda entry: entry.domain is None, default=None)


def domains_of(calibration: Calibration, domains: str) -> tuple[str | None, ...]:
    """What to find thresholds for where a recipe's ``detection.domains`` is ``separate`` or ``pooled``.

    Without scores of both domains there is one threshold for both.

    Raises:
        InputError: if it is neither.
    """
    if domains not in ("pooled", "separate"):
        raise InputError("--domains", found=domains, expected="pooled or separate", remedy="Correct it")
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
    """A detector's thresholds with those of all machines, or of one, found anew.

    Args:
        calibrations: of the detector.
        thresholds: as they are.
        find: such as :func:`find_threshold` with a method and a rate.
        machine: whose thresholds change; a name of :attr:`Calibration.machine`, or ``machine/section``.
        domains: ``pooled`` or ``separate``.

    Raises:
        InputError: if the machine is unknown, or as ``find``.
    """
    out = []
    names = {name for entry in calibrations for name in (entry.machine, f"{entry.machine}/{entry.section}")}
    if machine is not None and machine not in names:
        raise InputError(
            "--machine",
            found=machine,
            expected=f"one of {', '.join(sorted({entry.machine for entry in calibrations}))}",
            remedy="Check the spelling",
        )
    known = list(thresholds)
    for entry in calibrations:
        if machine in (None, entry.machine, f"{entry.machine}/{entry.section}"):
            out += [find(entry, domain) for domain in domains_of(entry, domains)]
        else:
            out += [old for old in known if (old.machine, old.section) == (entry.machine, entry.section)]
    return tuple(out)


def _record(
    calibration: Calibration,
    domain: str | None,
    method: str,
    rate: float | None,
    value: float | None,
    remark: str | None = None,
) -> Threshold:
    return Threshold.model_validate(
        {
            "machine": calibration.machine,
            "section": calibration.section,
            "domain": domain,
            "method": method,
            "false_alarm_rate": rate,
            "recordings": len(calibration.scores(domain)),
            "guaranteed": method == "conformal" and calibration.guaranteed and value is not None,
            "value": value,
            "remark": remark,
        }
    )
