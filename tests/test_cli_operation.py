"""The commands that add recordings to a detector, undo that, and count alarms on labelled recordings."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from tests.command import Nearfar
from tests.fixtures import write_clip

import nearfar
from nearfar.detector import store
from nearfar.files import without_signature
from nearfar.thresholds.file import THRESHOLDS


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of a pump, recordings of its new speed and of a fault, and labelled recordings of both."""
    root = tmp_path_factory.mktemp("operation")
    for seed in range(12):
        write_clip(root / "pump" / "normal" / f"{seed:04d}.wav", 1.0, 440.0, seed)
    for name, first, tone_hz in (("normal", 100, 600.0), ("bearing", 200, 1900.0)):
        for seed in range(first, first + 4):
            write_clip(root / "labelled" / "pump" / "test" / name / f"{seed:04d}.wav", 1.0, tone_hz, seed)
        for seed in range(first + 50, first + 53):
            write_clip(root / name / f"{seed:04d}.wav", 1.0, tone_hz, seed)
    nearfar.Detector.fit(root / "pump", "nearfar-best").save(root / "fitted")
    return root


@pytest.fixture
def detector(workshop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop / "fitted", tmp_path / "detector"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_week_of_an_operator(nearfar_command: Nearfar, workshop: Path, detector: Path) -> None:
    """False alarms at a new speed, tried and added; a fault, added and recognised; one change taken back."""
    files, labelled = workshop / "normal", workshop / "labelled"
    before = contents(detector)
    tried = nearfar_command("test", detector, labelled, "--add-normal", files, "--json")
    assert tried.code == 0, tried.err
    tree = json.loads(tried.out)
    (now,), (then,) = tree["before"]["machines"], tree["after"]["machines"]
    assert (now["false_alarms"]["alarms"], then["false_alarms"]["alarms"]) == (4, 0)
    assert now["detections"]["alarms"] == then["detections"]["alarms"] == 4
    assert contents(detector) == before  # nothing was written

    added = nearfar_command("add", detector, files, "--normal", "--note", "new gear", "--labelled", labelled)
    assert added.code == 0, added.err
    assert "3 normal" in added.out
    assert f"nearfar undo {detector}" in added.out
    thresholds = json.loads((detector / "thresholds.json").read_text())
    assert list(map(without_signature, thresholds)) == tree["after"]["thresholds"]
    (change,) = json.loads((detector / "changes.json").read_text())
    assert change["note"] == "new gear"
    assert change["tested_after"]["false_alarms"] == then["false_alarms"]

    fault = nearfar_command(
        "add", detector, workshop / "bearing", "--fault", "bearing fault", "--date", "2026-05-03", "--json"
    )
    assert [entry["fault"] for entry in json.loads(fault.out)] == ["bearing fault"]
    new = sorted((labelled / "pump" / "test" / "bearing").iterdir())[0]
    assert "like bearing fault (3 May 2026)" in nearfar_command("score", detector, new).out
    (row,) = json.loads(nearfar_command("score", detector, new, "--json").out)
    (cells,) = csv.DictReader(io.StringIO(nearfar_command("score", detector, new, "--csv").out))
    assert (cells["like"], cells["like_date"]) == ("bearing fault", "2026-05-03")
    assert float(cells["like_distance"]) == row["like"]["distance"]
    assert float(cells["score_cancelled"]) == row["views"]["cancelled"]
    assert "bearing fault (4)" in nearfar_command("test", detector, labelled).out

    for kind in ("3 known fault recordings", "3 normal recordings"):
        assert kind in nearfar_command("undo", detector).out
    for name in (store.CALIBRATION, THRESHOLDS, store.BANKS):
        assert (detector / name).read_bytes() == before[name]
    listed = nearfar_command("undo", detector, "--list").out
    assert listed.count("undone") == 2
    again = nearfar_command("undo", detector)
    assert again.code == 2
    assert "found no change with effect" in again.err


def test_counts_as_a_table(nearfar_command: Nearfar, workshop: Path, detector: Path) -> None:
    added = f"dry bearing={workshop / 'bearing'}"
    finished = nearfar_command("test", detector, workshop / "labelled", "--add-fault", added)
    assert finished.code == 0, finished.err
    assert "4 of 4" in finished.out
    assert "39.8 to 100.0 %" in finished.out  # 0.025 ** (1 / 4) = 0.3976
    assert "dry bearing (4)" in finished.out
    assert "Nothing was changed" in finished.out
    assert "The detector was not changed" in nearfar_command("undo", detector, "--list").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "FILES"), "found neither --normal nor --fault; expected one of them"),
        (("add", "FILES", "--normal", "--fault", "x"), "found both --normal and --fault"),
        (("add", "FILES", "--normal", "--date", "2026-05-03"), "--date: found 2026-05-03 with --normal"),
        (("add", "FILES", "--fault", "x", "--domain", "source"), "--domain: found source with --fault"),
        (("add", "FILES", "--fault", "x", "--date", "May"), "--date: found 'May'; expected a date"),
        (("add", "FILES", "--fault", "x", "--labelled", "FILES"), "Use nearfar test --add-fault"),
        (("add", "FILES", "--normal", "--machine", "lathe"), "--machine: found 'lathe'; expected one of pump"),
        (("add", "nowhere.wav", "--normal"), "nowhere.wav: found"),
        (("test", "FILES"), "found 3 entries"),
        (("test", "FILES", "--add-fault", "x"), "--add-fault: found x; expected NAME=FILES"),
        (("undo",), "found no change with effect"),
    ],
)
def test_bad_commands_are_refused_and_change_nothing(
    nearfar_command: Nearfar, workshop: Path, detector: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = contents(detector)
    command, *rest = [str(workshop / "normal") if each == "FILES" else each for each in arguments]
    finished = nearfar_command(command, detector, *rest)
    assert (finished.code, finished.out) == (2, "")
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert contents(detector) == before


def test_a_change_by_another_program_is_not_lost(
    nearfar_command: Nearfar, workshop: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other thresholds are written while the recordings are read."""
    with_normals = nearfar.Detector.with_normals

    def slowly(self: nearfar.Detector, *arguments: object, **named: object) -> nearfar.Detector:
        nearfar.Detector.load(detector).with_thresholds(0.5).save(detector, replace=True)
        return with_normals(self, *arguments, **named)

    monkeypatch.setattr(nearfar.Detector, "with_normals", slowly)
    finished = nearfar_command("add", detector, workshop / "normal", "--normal")
    assert finished.code == 2
    assert "another program has changed meanwhile" in finished.err
    loaded = nearfar.Detector.load(detector)
    assert (loaded.history, loaded.thresholds[0].false_alarm_rate) == ((), 0.5)
