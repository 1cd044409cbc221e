"""The commands that fit a detector, score with it and change its thresholds."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.command import Nearfar

from nearfar import cli


@pytest.fixture(scope="module")
def made(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "detector"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["nearfar", "fit", str(small_factory), "--out", str(out), "--false-alarm-rate", "0.1"]
        )
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code
    return out


def fault(factory: Path) -> Path:
    return factory / "hummer" / "test" / "section_00_source_test_anomaly_0000_noAttribute.wav"


def test_fit_says_what_it_made(nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector"
    finished = nearfar_command("fit", small_factory / "hummer", "--out", out, "--false-alarm-rate", "0.01")
    assert finished.code == 0
    assert "hummer" in finished.out
    assert f"nearfar score {out} FILES" in finished.out
    assert "hummer: 10 normal recordings in 10 independent groups, by single recordings" in finished.out
    assert "no sessions are known" in finished.out
    assert (
        "hummer: 10 independent normal recordings or groups support no false-alarm rate below 0.0909"
        in finished.err
    )
    again = nearfar_command("fit", small_factory, "--out", out)
    assert again.code == 2
    assert "found a detector" in again.err
    assert nearfar_command("fit", small_factory, "--out", out, "--replace", "--machine", "whiner").code == 0
    card = json.loads((out / "detector.json").read_text())
    assert [entry["machine"] for entry in card["banks"]] == ["whiner"]


def test_a_detector_of_plain_mono_files(nearfar_command: Nearfar, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "pump 7").mkdir()
    for index in range(6):
        sf.write(tmp_path / "pump 7" / f"{index}.wav", 0.1 * random.normal(size=8000), 8000)
    out = tmp_path / "detector"
    finished = nearfar_command("fit", tmp_path / "pump 7", "--out", out, "--seconds", "0.5", "--rule", "gamma")
    assert finished.code == 0, finished.err
    card = json.loads((out / "detector.json").read_text())
    assert (card["recipe"]["name"], card["recipe"]["scoring"]["views"]) == ("auto", ["near"])
    assert card["clip"]["seconds"] == 0.5
    (threshold,) = json.loads((out / "thresholds.json").read_text())
    assert (threshold["machine"], threshold["rule"]) == ("pump 7", "gamma")
    (row,) = json.loads(nearfar_command("score", out, tmp_path / "pump 7" / "3.wav", "--json").out)
    assert [window["nearest"] for window in row["windows"]] == ["3.wav", "3.wav"]


def test_a_recipe_that_trains_resumes_beside_the_detector(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    settings = [f"--set=training.{text}" for text in ("steps=2", "batch_size=4", "warmup_steps=1")]
    arguments = ("fit", small_factory, "--recipe", "tiny-near", *settings, "--out")
    assert nearfar_command(*arguments, tmp_path / "detector").code == 0
    trained = tmp_path / "detector-training" / "model.json"
    before = trained.stat().st_mtime_ns
    assert nearfar_command(*arguments, tmp_path / "detector", "--replace").code == 0
    assert trained.stat().st_mtime_ns == before


def test_scores_as_a_table(nearfar_command: Nearfar, small_factory: Path, made: Path) -> None:
    finished = nearfar_command("score", made, fault(small_factory), "--windows")
    assert finished.code == 0
    for text in ("threshold", "margin", "nearest normal", "departs most", "anomalous", "Hz", "hummer"):
        assert text in finished.out
    assert f"{fault(small_factory)}: " in finished.out  # and the sentence on the departure


def test_scores_as_json_and_csv_agree(nearfar_command: Nearfar, small_factory: Path, made: Path) -> None:
    folder = small_factory / "whiner" / "test"
    rows = json.loads(nearfar_command("score", made, folder, "--json").out)
    table = list(csv.DictReader(io.StringIO(nearfar_command("score", made, folder, "--csv").out)))
    assert [row["file"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    for row, cells in zip(rows, table, strict=True):
        for key in ("score", "threshold", "margin", "p_value"):
            assert float(cells[key]) == row[key]
        assert cells["anomalous"] == str(int(row["anomalous"]))
        assert cells["machine"] == row["machine"] == "whiner"
        assert cells["nearest"] == row["nearest"]
        assert cells["departs"] == row["departure"]["sentence"]
        assert float(cells["departs_low_hz"]) == row["departure"]["low_hz"]
        assert float(cells["score_cancelled"]) == row["views"]["cancelled"]
        assert float(cells["end_s"]) == 1.0


def test_csv_of_windows(nearfar_command: Nearfar, small_factory: Path, made: Path, tmp_path: Path) -> None:
    sound, rate = sf.read(fault(small_factory))
    sf.write(tmp_path / "long.wav", np.concatenate([sound, sound]), rate)
    out = nearfar_command("score", made, tmp_path / "long.wav", "--machine", "hummer", "--csv", "--windows").out
    whole, *windows = csv.DictReader(io.StringIO(out))
    assert [(row["begin_s"], row["end_s"]) for row in (whole, *windows)] == [
        ("0.0", "2.0"),
        ("0.0", "1.0"),
        ("1.0", "2.0"),
    ]
    assert float(whole["score"]) == max(float(row["score"]) for row in windows)
    assert [row["threshold"] for row in windows] == ["", ""]


def test_the_exit_code_of_anomalies(nearfar_command: Nearfar, small_factory: Path, made: Path) -> None:
    normal = sorted((small_factory / "hummer" / "train").glob("*.wav"))[:2]
    assert nearfar_command("score", made, *normal, "--fail-on-anomaly").code == 0
    assert nearfar_command("score", made, *normal, fault(small_factory), "--fail-on-anomaly").code == 1
    assert nearfar_command("score", made, *normal, fault(small_factory)).code == 0


def test_thresholds_change_without_fitting(
    nearfar_command: Nearfar, small_factory: Path, made: Path, tmp_path: Path
) -> None:
    import shutil

    detector = tmp_path / "detector"
    shutil.copytree(made, detector)
    others = {p.name: p.read_bytes() for p in detector.iterdir() if p.name != "thresholds.json"}
    shown = nearfar_command("threshold", detector)
    assert shown.code == 0
    assert "about 10 %" in shown.out
    before = (detector / "thresholds.json").read_bytes()

    too_fine = nearfar_command("threshold", detector, "--false-alarm-rate", "0.01")
    assert too_fine.code == 2
    assert (
        "found 0.01 with 10 independent normal recordings or groups to calibrate on; expected at least"
        in too_fine.err
    )
    assert (detector / "thresholds.json").read_bytes() == before

    changed = nearfar_command("threshold", detector, "--false-alarm-rate", "0.2", "--rule", "empirical", "--json")
    assert [(t["machine"], t["rule"], t["false_alarm_rate"]) for t in json.loads(changed.out)] == [
        ("hummer", "empirical", 0.2),
        ("whiner", "empirical", 0.2),
    ]
    assert nearfar_command("threshold", detector, "--value", "1e9", "--machine", "hummer").code == 0
    (row,) = json.loads(nearfar_command("score", detector, fault(small_factory), "--json").out)
    assert (row["threshold"], row["anomalous"]) == (1e9, False)
    both = json.loads((detector / "thresholds.json").read_text())
    assert [t["rule"] for t in both] == ["given", "empirical"]
    separate = nearfar_command(
        "threshold", detector, "--false-alarm-rate", "0.4", "--domains", "separate", "--json"
    )
    assert [t["domain"] for t in json.loads(separate.out)] == ["source", "target"] * 2
    assert {p.name: p.read_bytes() for p in detector.iterdir() if p.name != "thresholds.json"} == others


# --- errors ----------------------------------------------------------------------------------------------------


def noise(path: Path, channels: int, value: float | None = None) -> Path:
    sound = 0.1 * np.random.default_rng(0).normal(size=(16_000, channels))
    if value is not None:
        sound[500, 0] = value
    sf.write(path, sound, 16_000, subtype="FLOAT")
    return path


def test_bad_recordings_are_named(nearfar_command: Nearfar, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("hello")
    folder = nearfar_command("score", made, tmp_path / "empty", "--machine", "hummer")
    assert (folder.code, folder.out) == (2, "")
    assert "found no WAV or FLAC file in it" in folder.err
    cases = {
        tmp_path / "nowhere.wav": "nowhere.wav: found",
        tmp_path / "text.wav": "text.wav: found",
        noise(tmp_path / "mono.wav", 1): "mono.wav: found 1 channel (mono); expected at least 2",
        noise(tmp_path / "nan.wav", 2, np.nan): "nan.wav: found 1 NaN or infinite samples in the near channel",
    }
    for path, message in cases.items():
        finished = nearfar_command("score", made, path, "--machine", "hummer", "--json")
        (row,) = json.loads(finished.out)
        assert (finished.code, row["file"], row["status"]) == (2, str(path), "error")
        assert message in finished.err
        assert message in row["error"]
        strict = nearfar_command("score", made, path, "--machine", "hummer", "--csv", "--strict")
        assert strict.code == 2
        assert message in strict.err
        assert len(strict.out.splitlines()) == 1
        assert "Traceback" not in finished.err


def test_unknown_machines_are_refused(nearfar_command: Nearfar, small_factory: Path, made: Path) -> None:
    files = (made, fault(small_factory))
    unknown = nearfar_command("score", *files, "--machine", "lathe")
    assert unknown.code == 2
    assert "--machine: found 'lathe'; expected one of hummer, whiner" in unknown.err
    assert nearfar_command("threshold", made, "--false-alarm-rate", "0.2", "--machine", "lathe").code == 2
    missing = nearfar_command("fit", small_factory, "--out", made.with_name("x"), "--machine", "lathe")
    assert "found no normal recordings of lathe; expected those of hummer, whiner" in missing.err


def test_a_file_outside_the_folder_of_a_machine(nearfar_command: Nearfar, made: Path, tmp_path: Path) -> None:
    finished = nearfar_command("score", made, noise(tmp_path / "monday.wav", 2))
    assert finished.code == 2
    assert "found a recording that could be of several machines" in finished.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--false-alarm-rate", "2"), "--false-alarm-rate: found 2"),
        (
            ("--false-alarm-rate", "0.2", "--rule", "gama"),
            "--rule: found 'gama'; expected 'conformal', 'gamma' or 'empirical', did you mean 'gamma'?",
        ),
        (("--rule", "gamma"), "found neither --false-alarm-rate nor --value"),
        (("--value", "1"), "--value: found several machines"),
        (("--value", "1", "--false-alarm-rate", "0.1"), "--value: found --false-alarm-rate as well"),
        (("--false-alarm-rate", "0.2", "--domains", "both"), "--domains: found 'both'"),
    ],
)
def test_bad_thresholds_are_refused(nearfar_command: Nearfar, made: Path, arguments, message: str) -> None:
    before = (made / "thresholds.json").read_bytes()
    finished = nearfar_command("threshold", made, *arguments)
    assert finished.code == 2
    assert message in finished.err
    assert (made / "thresholds.json").read_bytes() == before


def test_bad_fits_are_refused_before_anything_is_written(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "detector"
    for arguments, message in (
        ((tmp_path / "nowhere",), "found no such folder"),
        ((tmp_path / "empty",), "none of them a machine's folder"),
        (
            (small_factory, "--recipe", "ae-mse", "--set", "calibration.method=leave-one-out"),
            "calibration.method: found 'leave-one-out' with scoring.backend",
        ),
        ((small_factory, "--recipe", "no-such"), "found no recipe of that name"),
        ((small_factory, "--false-alarm-rate", "1.5"), "found --false-alarm-rate = 1.5"),
        (
            (small_factory, "--rule", "gama"),
            "found --rule = 'gama'; expected 'conformal', 'gamma' or 'empirical', did you mean",
        ),
        ((small_factory, "--set", "threshold.rule=gama"), "found threshold.rule = 'gama'"),
        ((small_factory, "--far", "3"), "expected at least 4"),
        ((small_factory, "--recipe", "tiny-near", "--seconds", "0.5"), "trains on whole recordings"),
    ):
        finished = nearfar_command("fit", *arguments, "--out", out)
        assert finished.code == 2, finished.err
        assert message in finished.err
        assert not out.exists()


def test_a_detector_without_thresholds_cannot_fail_on_anomalies(nearfar_command: Nearfar, tmp_path: Path) -> None:
    (tmp_path / "pump").mkdir()
    file = noise(tmp_path / "pump" / "only.wav", 2)
    out = tmp_path / "detector"
    fitted = nearfar_command("fit", tmp_path / "pump", "--out", out)
    assert fitted.code == 0
    assert "no threshold (0 scores of normal recordings)" in fitted.err
    assert json.loads(nearfar_command("score", out, file, "--json").out)[0]["p_value"] is None
    finished = nearfar_command("score", out, file, "--fail-on-anomaly")
    assert finished.code == 2
    assert "found no threshold for pump" in finished.err
    assert nearfar_command("threshold", out, "--value", "3").code == 0
    assert nearfar_command("score", out, file, "--fail-on-anomaly").code == 0
