"""Folders of other layouts from recordings to results, and the results again from the score files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nearfar.challenge.run import run_system
from nearfar.cli import app
from nearfar.config import load_recipe
from nearfar.data.audio import read_waveform

QUICK = {"autoencoder.epochs": 2, "autoencoder.batch_size": 32}


@pytest.fixture
def write(tmp_path: Path):
    """Writes a mono clip of a tone in noise; the file names mark anomalies, which have another tone."""
    import soundfile as sf

    random = np.random.default_rng(0)

    def write_clip(*parts: str) -> None:
        path = tmp_path.joinpath("data", *parts)
        anomalous = "anomaly" in path.name or "worn" in path.parts
        time = np.arange(8_000) / 16_000
        sound = 0.1 * np.sin(2 * np.pi * (2_000 if anomalous else 500) * time) + 0.02 * random.standard_normal(
            8_000
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, sound, 16_000, subtype="PCM_16")

    return write_clip


def rows(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        return {name: float(score) for name, score in csv.reader(file)}


def evaluated_again(scores: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    app(["evaluate", "--scores", str(scores), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def run(tmp_path: Path):
    recipe = load_recipe("ae-mse").with_changes(**QUICK)
    finished = run_system(recipe, tmp_path / "data", tmp_path / "ae-mse")
    assert finished is not None
    assert finished.results is not None
    return finished.results, tmp_path / "ae-mse"


def test_a_folder_of_2020(write, tmp_path, capsys, with_figures):
    for machine_id in ("00", "02"):
        for n in range(4):
            write("fan", "train", f"normal_id_{machine_id}_{n:08d}.wav")
        for n in range(3):
            write("fan", "test", f"normal_id_{machine_id}_{n:08d}.wav")
            write("fan", "test", f"anomaly_id_{machine_id}_{n:08d}.wav")
    with with_figures():
        results, out = run(tmp_path)
    assert [(row.machine, row.section) for row in results.machines] == [("fan", "00"), ("fan", "02")]
    for row in results.machines:
        scores = rows(out / "scores" / f"anomaly_score_fan_section_{row.section}_test.csv")
        truth = [name.startswith("anomaly") for name in scores]
        assert row.metrics.auc_source == pytest.approx(roc_auc_score(truth, list(scores.values())))
    assert (out / "figures" / "fan_section_02.png").is_file()
    assert not (out / "scores" / "truth.csv").exists()
    written = json.loads((out / "results.json").read_text())
    assert written["notes"] == [results.rule.statement]
    again = evaluated_again(out, capsys)
    assert again["systems"] == written["systems"]
    assert again["notes"] == written["notes"]


def test_a_folder_of_2021_whose_evaluation_clips_hide_their_labels(write, tmp_path, capsys):
    for domain in ("source", "target"):
        for section in ("00", "03"):
            for n in range(3):
                write("fan", "train", f"section_{section}_{domain}_train_normal_{n:04d}_strength_1_ambient.wav")
        for n in range(2):
            write("fan", f"{domain}_test", f"section_00_{domain}_test_normal_{n:04d}.wav")
            write("fan", f"{domain}_test", f"section_00_{domain}_test_anomaly_{n:04d}.wav")
            write("fan", f"{domain}_test", f"section_03_{domain}_test_{n:04d}.wav")
    results, out = run(tmp_path)
    assert [row.section for row in results.machines] == ["00"], "section 03 is scored and not evaluated"
    scores = rows(out / "scores" / "anomaly_score_fan_section_00_test.csv")
    assert len(rows(out / "scores" / "anomaly_score_fan_section_03_test.csv")) == 4
    of_target = {name: score for name, score in scores.items() if "_target_" in name}
    truth = ["anomaly" in name for name in of_target]
    assert results.machines[0].metrics.auc_target == pytest.approx(roc_auc_score(truth, list(of_target.values())))
    (out / "scores" / "anomaly_score_fan_section_03_test.csv").unlink()
    for decided in (out / "scores").glob("decision_*_03_*"):
        decided.unlink()
    assert evaluated_again(out / "scores", capsys)["systems"][0]["all"]["score"]["mean"] == pytest.approx(
        results.official_score
    )


def test_one_s_own_folder(write, tmp_path, capsys):
    for n in range(4):
        write("pump 7", "normal", f"speed={n % 2}", f"{n}.wav")
        write("pump 7", "test", "normal", f"{n}.wav")
        write("pump 7", "test", "worn", f"{n}.wav")
        write("lathe", "normal", f"{n}.wav")
        write("lathe", "test", "normal", f"{n}.wav")
    results, out = run(tmp_path)
    (row,) = results.machines
    scores = rows(out / "scores" / "anomaly_score_pump 7_section_00_test.csv")
    assert set(scores) == {f"{folder}/{n}.wav" for folder in ("normal", "worn") for n in range(4)}
    truth = [name.startswith("worn") for name in scores]
    assert row.metrics.auc_source == pytest.approx(roc_auc_score(truth, list(scores.values())))
    assert len(rows(out / "scores" / "anomaly_score_lathe_section_00_test.csv")) == 4
    assert len((out / "scores" / "truth.csv").read_text().splitlines()) == 1 + 8 + 4
    again = evaluated_again(out, capsys)
    assert again["systems"][0]["machines"]["pump 7"]["auc_target"] is None
    assert again["systems"][0]["machines"]["pump 7"]["score"]["mean"] == pytest.approx(row.score)
    assert again["decisions"]["machines"].keys() == {"pump 7"}


def test_real_recordings_of_eight_microphones(shared, tmp_path, capsys):
    """Own folder of raw MIMII clips: embeddings on the command line are those of the two numbered channels."""
    import soundfile as sf

    clips = sorted((shared / "data" / "formats" / "mimii_8ch").glob("*.wav"))
    folder = tmp_path / "data" / "valve" / "normal"
    folder.mkdir(parents=True)
    for clip in clips[:2]:
        (folder / clip.name).symlink_to(clip)
    pair = tmp_path / "pair.wav"
    sf.write(pair, read_waveform(clips[0], near=6, far=3).T, 16_000, subtype="FLOAT")
    found = {}
    for name, file, numbers in (
        ("eight", folder / clips[0].name, ["--near", "6", "--far", "3"]),
        ("two", pair, []),
    ):
        out = tmp_path / f"{name}.npy"
        arguments = [
            "embed",
            str(file),
            "--encoder",
            "random:tiny",
            "--out",
            str(out),
            "--channel",
            "far",
            *numbers,
        ]
        app(arguments, standalone_mode=False)
        found[name] = np.load(out)
    np.testing.assert_array_equal(found["eight"], found["two"])
    capsys.readouterr()
    app(["data", str(tmp_path / "data"), "--json"], standalone_mode=False)
    (machine,) = json.loads(capsys.readouterr().out)["machines"]
    assert machine["channels"] == [8]
