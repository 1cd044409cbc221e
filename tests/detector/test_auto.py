"""The default recipe: what runs and detectors decide is the same, and mono recordings need no other recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import nearfar
from nearfar.challenge.run import run_system
from nearfar.config import load_recipe
from nearfar.report.detector_page import report_detector
from nearfar.report.run_page import report_run


def mono_factory(root: Path) -> Path:
    """A machine in the challenge's layout, with one channel."""
    random = np.random.default_rng(0)
    kinds = [("source", "train", "normal"), *(("source", "test", label) for label in ("normal", "anomaly"))]
    for domain, split, label in (*kinds, ("target", "test", "normal")):
        folder = root / "pump" / split
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(6 if split == "train" else 2):
            sound = 0.1 * random.standard_normal(16_000)
            if label == "anomaly":
                sound += 0.2 * np.sin(2 * np.pi * 2_000 * np.arange(16_000) / 16_000)
            name = f"section_00_{domain}_{split}_{label}_{index:04d}_noAttribute.wav"
            sf.write(folder / name, sound, 16_000)
    return root


@pytest.fixture(scope="module")
def run_folder(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("auto") / "run"
    run_system(load_recipe("auto"), small_factory, out)
    return out


def test_runs_and_detectors_give_the_same_scores_and_reasons(
    fitted: nearfar.Detector, small_factory: Path, run_folder: Path
) -> None:
    written = {
        row["machine"]: row for row in json.loads((run_folder / "view_scores.json").read_text())["machines"]
    }
    choices = {row["machine"]: row["reason"] for row in json.loads((run_folder / "choices.json").read_text())}
    assert choices == fitted.reasons
    assert set(choices) == {"hummer", "whiner"}
    for machine, row in written.items():
        files = [small_factory / machine / "test" / name for name in row["names"]]
        scores = list(fitted.score_many(files, machine))
        for view, values in row["views"].items():
            np.testing.assert_allclose([score.views[view] for score in scores], values, rtol=1e-6)


def test_reasons_state_weights_and_level_and_survive_a_folder(fitted: nearfar.Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "detector")
    loaded = nearfar.Detector.load(tmp_path / "detector")
    assert loaded.reasons == fitted.reasons
    assert fitted.reasons["hummer"].startswith("near 0.")
    assert "; level " in fitted.reasons["hummer"]


def test_recipes_that_choose_nothing_state_no_reason(
    small_factory: Path, run_folder: Path, tmp_path: Path
) -> None:
    detector = nearfar.Detector.fit(small_factory, "nearfar-best", machine="hummer")
    assert detector.reasons == {}
    again = shutil.copytree(run_folder, tmp_path / "run")
    run_system(load_recipe("nearfar-best"), small_factory, again)
    assert not (again / "choices.json").exists()


def test_pages_show_the_reasons(fitted: nearfar.Detector, run_folder: Path, tmp_path: Path) -> None:
    fitted.save(tmp_path / "detector")
    words = fitted.reasons["whiner"].split(";")[0].removeprefix("near")  # pages begin with a capital letter
    assert words in report_detector(tmp_path / "detector", tmp_path / "detector.html").read_text(encoding="utf-8")
    assert words in report_run(run_folder, tmp_path / "run.html").read_text(encoding="utf-8")


def test_mono_recordings_are_run_and_fitted_on_near_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = mono_factory(tmp_path / "data")
    finished = run_system(load_recipe("auto"), data, tmp_path / "run")
    assert finished is not None
    assert finished.recipe.scoring.views == ("near",)
    assert finished.reasons[0].startswith("pump section 00: near alone is scored; level not used")
    assert "all recordings are mono" in caplog.text
    detector = nearfar.Detector.fit(data)
    files = [data / "pump" / "test" / name for name in finished.scores[0].names]
    scores = [score.score for score in detector.score_many(files)]
    np.testing.assert_allclose(scores, finished.scores[0].scores, rtol=1e-6)


def test_quiet_recordings_have_the_scores_of_loud_ones(fitted: nearfar.Detector, small_factory: Path) -> None:
    file = sorted((small_factory / "hummer" / "test").glob("*_normal_*.wav"))[0]
    sound = sf.read(file, dtype="float32")[0].T
    loud, quiet = fitted.score(sound, "hummer"), fitted.score(0.01 * sound, "hummer")
    assert quiet.score == pytest.approx(loud.score, abs=0.02)
    assert not loud.quality
    assert [problem.check for problem in quiet.quality][:2] == ["dead", "dead"]
