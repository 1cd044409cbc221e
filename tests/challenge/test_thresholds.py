"""Runs with other threshold rules and with a threshold for each domain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nearfar.challenge.run import run_system
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import read_decisions, read_scores


def run(out: Path, data: Path, **changes: object) -> list[dict]:
    """The thresholds of a run of nearfar-best."""
    recipe = load_recipe("nearfar-best").with_changes(
        **{f"threshold.{key}": value for key, value in changes.items()}
    )
    assert run_system(recipe, data, out) is not None
    return json.loads((out / "thresholds.json").read_text())


def normals(out: Path) -> list[tuple[list[float], list[str]]]:
    """Scores that thresholds are found from, and domains of the normal clips, by machine."""
    rows = json.loads((out / "view_scores.json").read_text())["machines"]
    return [(row["calibration"], row["normal_domains"]) for row in rows]


def test_the_conformal_rule_takes_the_score_of_its_rank(small_factory: Path, tmp_path: Path) -> None:
    """Of ten scores and a rate of 0.2, the rank is ceil(11 * 0.8) = 9."""
    thresholds = run(tmp_path, small_factory, rule="conformal", false_alarm_rate=0.2)
    assert [row["machine"] for row in thresholds] == ["hummer", "whiner"]
    for row, (scores, _) in zip(thresholds, normals(tmp_path), strict=True):
        assert (row["rule"], row["domain"], row["recordings"]) == ("conformal", None, 10)
        assert row["value"] == sorted(scores)[8]
    for scored, decided, row in zip(
        read_scores(tmp_path / "scores"), read_decisions(tmp_path / "scores"), thresholds, strict=True
    ):
        np.testing.assert_array_equal(decided.decisions, scored.scores > row["value"])


def test_a_rate_that_ten_clips_do_not_support_is_replaced(small_factory: Path, tmp_path: Path) -> None:
    thresholds = run(tmp_path, small_factory, rule="conformal", false_alarm_rate=0.05)
    for row, (scores, _) in zip(thresholds, normals(tmp_path), strict=True):
        assert row["value"] == max(scores)
        assert row["false_alarm_rate"] == pytest.approx(1 / 11)
        assert "support no false-alarm rate below" in row["remark"]


def test_domains_may_have_thresholds_of_their_own(small_factory: Path, tmp_path: Path) -> None:
    thresholds = run(tmp_path, small_factory, rule="empirical", false_alarm_rate=0.25, domains="separate")
    keys = [(row["machine"], row["domain"]) for row in thresholds]
    assert keys == [(machine, domain) for machine in ("hummer", "whiner") for domain in ("source", "target")]
    values = {key: row["value"] for key, row in zip(keys, thresholds, strict=True)}
    for machine, (scores, domains) in zip(("hummer", "whiner"), normals(tmp_path), strict=True):
        for domain, count in (("source", 8), ("target", 2)):
            own = [score for score, of in zip(scores, domains, strict=True) if of == domain]
            assert len(own) == count
            assert values[machine, domain] == pytest.approx(np.quantile(own, 0.75))
    for scored, decided in zip(read_scores(tmp_path / "scores"), read_decisions(tmp_path / "scores"), strict=True):
        low, high = sorted(values[scored.machine, domain] for domain in ("source", "target"))
        assert low < high
        assert decided.decisions[scored.scores > high].all()
        assert not decided.decisions[scored.scores <= low].any()


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"threshold\.rule = 'gama'; expected .*'gamma'.*did you mean 'gamma'"):
        load_recipe("nearfar-best").with_changes(**{"threshold.rule": "gama"})
