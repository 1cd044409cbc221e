"""The sentence on top of a page: what was counted, what the thresholds promise, and what the microphones did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nearfar.thresholds import Threshold

NO_PROBLEM = "no problem of the microphones was found"
NOT_CHECKED = "the microphones could not be checked"
NEAR_ALONE = "only the near microphone is used"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """``1 machine``, ``2 machines``, ``1,200 groups``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def verdict(opening: str, thresholds: Sequence[Threshold], microphones: str) -> str:
    """One sentence of three clauses.

    Args:
        opening: what was counted, without a full stop.
        thresholds: of the machines on the page, with or without values.
        microphones: the clause of :func:`problems_clause`, :data:`NOT_CHECKED` or :data:`NEAR_ALONE`.
    """
    text = f"{opening}; {promise_clause(thresholds)}; {microphones}."
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def promise_clause(thresholds: Sequence[Threshold]) -> str:
    """What the thresholds promise, from how many independent groups of normal recordings."""
    found = [entry for entry in thresholds if entry.value is not None]
    missing = _machines(entry for entry in thresholds if entry.value is None)
    without = f"{listed(missing)} {'has' if len(missing) == 1 else 'have'} no threshold, from too few recordings"
    if not found:
        return without if missing else "there is no threshold"
    by_promise: dict[str, list[Threshold]] = {}
    for entry in found:
        by_promise.setdefault(_promised(entry), []).append(entry)
    promises = ", ".join(
        words if len(by_promise) == 1 else f"{words} ({listed(_machines(entries))})"
        for words, entries in by_promise.items()
    )
    clause = f"the thresholds promise {promises}" if len(found) > 1 else f"the threshold promises {promises}"
    groups = [entry.groups for entry in found if entry.groups is not None and entry.false_alarm_rate is not None]
    if len(groups) == len(found):
        clause += f", from {counted(sum(groups), 'independent group')}"
    return f"{clause}; {without}" if missing else clause


def _promised(threshold: Threshold) -> str:
    """The promise of a threshold that has a value, as the object of a sentence."""
    if threshold.false_alarm_rate is None:
        return "no rate of false alarms, being set by a person"
    if threshold.normals == "in training":
        return "no rate of false alarms, being from recordings that the model was trained on"
    return f"{threshold.promise} false alarms"


def _machines(thresholds: Iterable[Threshold]) -> list[str]:
    """The machines and sections of thresholds, each once."""
    names = (
        entry.machine if entry.section == "00" else f"{entry.machine} {entry.section}" for entry in thresholds
    )
    return list(dict.fromkeys(names))


def problems_clause(problems: Sequence[tuple[str, str]]) -> str:
    """What is wrong with the microphones.

    Args:
        problems: (machine, message), most important first.
    """
    if not problems:
        return NO_PROBLEM
    machine, message = problems[0]
    said = f"{machine}: {message.strip().rstrip('.')}"
    if len(problems) == 1:
        return f"the microphones have a problem, {said}"
    return f"the microphones have {len(problems)} problems, first of all {said}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names with commas; of many the first, and how many others there are."""
    every = list(names)
    if len(every) > most:
        every[most - 1 :] = [f"{len(every) - most + 1} others"]
    return " and ".join(filter(None, [", ".join(every[:-1]), *every[-1:]]))
