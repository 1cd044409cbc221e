"""Run folders that earlier versions wrote stay readable: their recipes, thresholds and scores of views."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import yaml

from nearfar.challenge.ensemble import ensemble, read_member
from nearfar.challenge.run import run_system
from nearfar.challenge.submission import write_submission
from nearfar.challenge.submission_meta import Author
from nearfar.config import load_recipe
from nearfar.evaluation.scorefiles import read_scores
from nearfar.report.run_page import report_run

OLD_DETECTION = {
    "calibration": "leave-one-out",
    "held_out": 0.3,
    "threshold": "conformal",
    "false_alarm_rate": 0.05,
    "domains": "pooled",
}


def written_earlier(run: Path, to: Path) -> Path:
    """A copy of a run with the keys that version 0.1 wrote before thresholds were one table."""
    shutil.copytree(run, to)
    recipe = tomllib.loads((to / "recipe.toml").read_text())
    rule, rate = recipe["threshold"]["rule"], recipe.pop("threshold")["false_alarm_rate"]
    del recipe["calibration"], recipe["scoring"]["backend"]
    for table in ("training", "scoring"):
        recipe[table]["channels"] = recipe[table].pop("views")
    recipe |= {"method": "nearest-normal", "detection": OLD_DETECTION}
    recipe["decision"] = {"threshold": rule, "quantile": 1 - rate}
    (to / "recipe.toml").write_text(tomli_w.dumps(recipe))
    thresholds = [
        {
            "machine": row["machine"],
            "section": row["section"],
            "kind": row["rule"],
            "quantile": 1 - row["false_alarm_rate"],
            "training_clips": row["recordings"],
            "value": row["value"],
            "remark": row["remark"],
        }
        for row in json.loads((to / "thresholds.json").read_text())
    ]
    (to / "thresholds.json").write_text(json.dumps(thresholds))
    views = json.loads((to / "view_scores.json").read_text())
    for row in views["machines"]:
        del row["normal_names"], row["normal_domains"]
    (to / "view_scores.json").write_text(json.dumps(views))
    return to


@pytest.fixture(scope="module")
def runs(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run, the same as written by an earlier version, and one of another view; a machine hides labels."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(small_factory, root / "data")
    for number, path in enumerate(sorted((root / "data" / "whiner" / "test").iterdir())):
        path.rename(path.with_name(f"section_00_{number:04d}.wav"))
    best = load_recipe("nearfar-best")
    run_system(best, root / "data", root / "run")
    run_system(best.with_changes(**{"scoring.views": ["near"]}), root / "data", root / "near")
    return root / "run", written_earlier(root / "run", root / "earlier"), root / "near"


def test_the_recipe_is_that_of_the_same_system(runs: tuple[Path, Path, Path]) -> None:
    run, earlier, _ = runs
    now, then = load_recipe(run / "recipe.toml"), load_recipe(earlier / "recipe.toml")
    assert then.system_identity() == now.system_identity()
    assert then.threshold.rule is None, "gamma and 0.9 were the defaults of runs"


def test_members_of_earlier_versions_give_the_same_ensemble(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, earlier, near = runs
    ensemble([run, near], tmp_path / "a")
    ensemble([earlier, near], tmp_path / "b")
    for one, other in zip(read_scores(tmp_path / "a/scores"), read_scores(tmp_path / "b/scores"), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert (tmp_path / "a/thresholds.json").read_text() == (tmp_path / "b/thresholds.json").read_text()
    clips = {clip for of_machine in read_member(earlier).normal_clips.values() for clip in of_machine}
    assert clips == {("", "source")}, "neither was written"
    described = json.loads((tmp_path / "b/ensemble.json").read_text())
    del described["threshold"]
    (tmp_path / "b/ensemble.json").write_text(json.dumps(described | {"decision": {"threshold": "empirical"}}))
    assert read_member(tmp_path / "b").threshold.rule == "empirical"


def test_an_earlier_run_can_be_submitted(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    author = Author(firstname="Ada", lastname="Last", email="ada@inst.example")
    texts = []
    for run in runs[:2]:
        out = tmp_path / run.name
        folder = write_submission(run, "Last_INST_task2_1", out, authors=[author])
        texts.append((folder / "Last_INST_task2_1.meta.yaml").read_text())
    assert texts[0] == texts[1]
    described = yaml.safe_load(texts[1])["system"]["description"]["decision_making"]
    assert described == "quantile 0.9 of a gamma distribution fitted to the scores of normal training clips"


def test_an_earlier_run_has_a_page(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    report_run(runs[1], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "hummer" in text
    assert "the thresholds promise about 10\u00a0% false alarms;" in text, "of groups nothing is known"
