"""The sentence on top of a page, by cases by hand."""

from __future__ import annotations

from typing import Any

from nearfar.report.verdict import NO_PROBLEM, counted, listed, problems_clause, promise_clause, verdict
from nearfar.thresholds import Threshold


def found(machine: str, **changes: Any) -> Threshold:
    entry = {
        "machine": machine,
        "section": "00",
        "rule": "conformal",
        "false_alarm_rate": 0.05,
        "recordings": 40,
        "groups": 12,
        "guaranteed": True,
        "value": 1.0,
        "normals": "held out",
    }
    return Threshold.model_validate(entry | changes)


def test_the_sentence_counts_promises_and_names_problems() -> None:
    text = verdict("Fitted on 1 recording", [found("pump")], problems_clause([("pump", "Far is silent.")]))
    assert text == (
        "Fitted on 1 recording; the threshold promises at most 5\u00a0% false alarms, from 12 independent groups; "
        "the microphones have a problem, pump: Far is silent."
    )


def test_different_promises_name_their_machines() -> None:
    several = [found("a"), found("b", guaranteed=False), found("c", false_alarm_rate=None, rule="given")]
    assert promise_clause(several) == (
        "the thresholds promise at most 5 % false alarms (a), about 5 % false alarms (b), no rate of false "
        "alarms, being set by a person (c)"
    )
    assert promise_clause([found("a", normals="in training")]) == (
        "the threshold promises no rate of false alarms, being from recordings that the model was trained on, "
        "from 12 independent groups"
    )


def test_machines_without_a_threshold_are_named() -> None:
    none = found("b", value=None, section="01")
    assert promise_clause([none]) == "b 01 has no threshold, from too few recordings"
    assert promise_clause([found("a"), none]) == (
        "the threshold promises at most 5 % false alarms, from 12 independent groups; b 01 has no threshold, from "
        "too few recordings"
    )
    assert promise_clause([]) == "there is no threshold"


def test_problems_are_counted_and_the_first_is_named() -> None:
    assert problems_clause([]) == NO_PROBLEM
    two = problems_clause([("pump", "near is quiet."), ("fan", "clipped in 3 of 9 recordings")])
    assert two == "the microphones have 2 problems, first of all pump: near is quiet"


def test_counts_and_lists() -> None:
    assert [counted(1, "machine"), counted(1200, "group")] == ["1 machine", "1,200 groups"]
    assert listed("abc") == "a, b and c"
    assert listed("abcdef") == "a, b, c and 3 others"
    assert listed([]) == ""
