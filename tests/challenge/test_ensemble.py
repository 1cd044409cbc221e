"""Ensembles of runs, against a loop over their files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nearfar.challenge.ensemble import ensemble
from nearfar.challenge.run import run_system
from nearfar.cli import app
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import compare
from nearfar.thresholds.rules import empirical_threshold

NOTE = "Made-up tones."


@pytest.fixture(scope="module")
def runs(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The default, one on a layer of an encoder, and one on another view."""
    root = tmp_path_factory.mktemp("runs")
    best = load_recipe("nearfar-best").with_changes(**{"threshold.rule": "empirical"})
    tokens = {
        "features.source": "tokens",
        "features.layers": [2],
        "encoder.weights": "random:tiny",
        "scoring.views": ["near"],
    }
    near = best.with_changes(**{"scoring.views": ["near"]})
    recipes = {"best": best, "layer": best.with_changes(**tokens), "near": near}
    for name, recipe in recipes.items():
        assert run_system(recipe, small_factory, root / name, note=NOTE) is not None
    return [root / name for name in recipes]


def by_hand(runs: list[Path], machine: str, weights: list[float]) -> tuple[dict[str, float], list[float]]:
    """Fused scores by clip, and of the normal clips, clip by clip."""
    test: dict[str, float] = {}
    normal = [0.0] * 10
    for run, weight in zip(runs, weights, strict=True):
        tree = json.loads((run / "view_scores.json").read_text())
        (alone,) = (row["normal"] for row in tree["machines"] if row["machine"] == machine)
        mean = sum(alone) / len(alone)
        deviation = (sum((value - mean) ** 2 for value in alone) / len(alone)) ** 0.5
        with (run / "scores" / f"anomaly_score_{machine}_section_00_test.csv").open() as file:
            for name, text in csv.reader(file):
                share = weight / sum(weights)
                test[name] = test.get(name, 0.0) + share * (float(text) - mean) / deviation
        for place, value in enumerate(alone):
            normal[place] += weight / sum(weights) * (value - mean) / deviation
    return test, normal


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [3.0, 1.0, 0.5]])
def test_scores_are_the_weighted_mean_on_the_scale_of_normal_clips(
    runs: list[Path], tmp_path: Path, weights: list[float]
) -> None:
    results, notes = ensemble(runs, tmp_path, weights=weights)
    assert notes == [NOTE]
    entries = read_scores(tmp_path / "scores")
    assert [entry.machine for entry in entries] == ["hummer", "whiner"]
    for entry in entries:
        test, normal = by_hand(runs, entry.machine, weights)
        assert entry.scores == pytest.approx([test[name] for name in entry.names])
        thresholds = json.loads((tmp_path / "thresholds.json").read_text())
        (threshold,) = (row for row in thresholds if row["machine"] == entry.machine)
        assert threshold["value"] == pytest.approx(empirical_threshold(np.array(normal), 0.1))
        assert threshold["rule"] == "empirical", "as the first run decides"
    assert results is not None
    assert results.official_score == evaluate_scores(entries, GroundTruth.from_names(entries)).official_score


def test_the_folder_is_one_like_a_runs(runs: list[Path], tmp_path: Path) -> None:
    ensemble(runs, tmp_path / "all")
    described = json.loads((tmp_path / "all" / "ensemble.json").read_text())
    assert [member["name"] for member in described["members"]] == ["best", "layer", "near"]
    assert described["members"][1]["recipe"]["features"]["layers"] == [2]
    assert sum(member["weight"] for member in described["members"]) == pytest.approx(1.0)
    views = json.loads((tmp_path / "all" / "view_scores.json").read_text())
    assert list(views["machines"][0]["views"]) == ["best", "layer", "near"]
    a, b = read_scores(tmp_path / "all" / "scores"), read_scores(runs[0] / "scores")
    assert compare([[a]], [b], GroundTruth.from_names(a), resamples=10)
    again, _ = ensemble([tmp_path / "all", runs[0]], tmp_path / "nested")
    assert again is not None


def test_only_the_ratios_of_scales_and_weights_matter(runs: list[Path], tmp_path: Path) -> None:
    scaled = Path(shutil.copytree(runs[1], tmp_path / "layer"))
    for file in (scaled / "scores").glob("anomaly_score_*.csv"):
        rows = [line.split(",") for line in file.read_text().splitlines()]
        file.write_text("".join(f"{name},{3 + 100 * float(score)!r}\n" for name, score in rows))
    tree = json.loads((scaled / "view_scores.json").read_text())
    for row in tree["machines"]:
        row["normal"] = [3 + 100 * score for score in row["normal"]]
    (scaled / "view_scores.json").write_text(json.dumps(tree))
    ensemble(runs[:2], tmp_path / "a", weights=[2, 1])
    ensemble([runs[0], scaled], tmp_path / "b", weights=[4, 2])
    for a, b in zip(read_scores(tmp_path / "a" / "scores"), read_scores(tmp_path / "b" / "scores"), strict=True):
        assert b.scores == pytest.approx(a.scores)


def test_one_run_a_run_twice_or_other_weights_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs: found 1; expected two runs"):
        ensemble(runs[:1], tmp_path)
    with pytest.raises(InputError, match="a run twice"):
        ensemble([runs[0], runs[1] / ".." / runs[0].name], tmp_path)
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(InputError, match=r"weights: .* expected 2 positive numbers"):
            ensemble(runs[:2], tmp_path, weights=weights)
    with pytest.raises(InputError, match="one of the runs"):
        ensemble(runs[:2], runs[0])
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_or_of_other_recordings_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no view_scores.json that can be read .*expected the folder of a fin"):
        ensemble([runs[0], tmp_path / "none"], tmp_path / "out")
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    file = other / "scores" / "anomaly_score_whiner_section_00_test.csv"
    file.write_text(file.read_text().replace("_0000_", "_0009_"))
    with pytest.raises(InputError, match=r"other recordings than in .*whiner clip .* in only one"):
        ensemble([runs[0], other], tmp_path / "out")
    file.unlink()
    with pytest.raises(InputError, match=r"other recordings than in .*\(scores of whiner section 00 in only one"):
        ensemble([runs[0], other], tmp_path / "out")
    fewer = Path(shutil.copytree(runs[1], tmp_path / "fewer"))
    tree = json.loads((fewer / "view_scores.json").read_text())
    tree["machines"][0]["normal"].pop()
    (fewer / "view_scores.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match="hummer: normal training clips"):
        ensemble([runs[0], fewer], tmp_path / "out")


def test_the_command(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    arguments = ["ensemble", *map(str, runs[:2]), "--weights", "2,1", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert NOTE in done.stdout
    assert json.loads(done.stdout)["systems"][0]["name"] == "both"
    evaluated = CliRunner().invoke(app, ["evaluate", "--scores", str(out), "--json"], catch_exceptions=False)
    assert json.loads(evaluated.stdout)["systems"][0]["all"] == json.loads(done.stdout)["systems"][0]["all"]
    assert CliRunner().invoke(app, ["compare", str(out), str(runs[0]), "--resamples", "10"]).exit_code == 0
