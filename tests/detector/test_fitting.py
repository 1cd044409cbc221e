"""Machines that were fitted are kept, so that a fit that was interrupted goes on, and errors are collected."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar.detector import Detector
from nearfar.detector import fitting as module
from nearfar.detector.shares import score_files
from nearfar.errors import InputError
from nearfar.executors import LocalExecutor


def saved(detector: Detector, folder: Path) -> dict[str, bytes]:
    detector.save(folder)
    names = ("banks.safetensors", "calibration.json", "thresholds.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_fit_goes_on_where_it_was_interrupted(
    fitted: Detector, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    whole = module.fit_machine

    def watched(unit, *arguments, **options):
        calls.append(unit[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(unit, *arguments, **options)

    monkeypatch.setattr(module, "fit_machine", watched)
    with pytest.raises(KeyboardInterrupt):
        Detector.fit(small_factory, parts=tmp_path / "parts")
    again = Detector.fit(small_factory, parts=tmp_path / "parts")
    assert calls == ["hummer", "whiner", "whiner"]
    assert saved(again, tmp_path / "again") == saved(fitted, tmp_path / "fitted")


@pytest.mark.parametrize("damage", ["tensors", "card", "another recipe"])
def test_only_what_is_whole_and_of_the_same_recipe_is_used(
    damage: str, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "parts"
    recipe = "nearfar-best"
    Detector.fit(
        small_factory, "frozen-near" if damage == "another recipe" else recipe, machine="hummer", parts=parts
    )
    for path in parts.iterdir():
        if path.suffix == {"tensors": ".safetensors", "card": ".json"}.get(damage):
            path.write_bytes(path.read_bytes()[:-9])
    calls: list[str] = []
    whole = module.fit_machine
    monkeypatch.setattr(module, "fit_machine", lambda unit, *rest: calls.append(unit[0]) or whole(unit, *rest))
    Detector.fit(small_factory, recipe, machine="hummer", parts=parts)
    assert calls == ["hummer"]


def test_machines_that_can_be_fitted_are_kept_when_others_cannot(small_factory: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_factory, data)
    files = sorted((data / "hummer" / "train").iterdir())
    for path in files[1:]:
        shutil.copy(files[0], path)
    with pytest.raises(InputError, match=r"hummer/train: found 10 normal recordings of hummer with the same"):
        Detector.fit(data, parts=tmp_path / "parts")
    assert len([*(tmp_path / "parts").glob("*.json")]) == 1, "the other machine is kept"


def test_a_shortened_copy_changes_nothing(
    fitted: Detector, small_factory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_factory, data)
    first = min((data / "hummer" / "train").iterdir())
    samples, rate = sf.read(first)
    sf.write(first.with_name(first.name.replace("_normal_0", "_normal_9")), samples[rate // 4 :], rate)
    detector = Detector.fit(data, "auto")
    assert detector.recipe.audio.clip_seconds == fitted.recipe.audio.clip_seconds
    assert detector.thresholds == fitted.thresholds
    assert "holds the same sound as" in caplog.text


def test_scores_of_tasks_are_those_of_one_call(
    fitted: Detector, small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.detector.detector.BATCH", 3)
    monkeypatch.setattr("nearfar.detector.shares.TASK", 2)
    fitted.save(tmp_path / "detector")
    files = sorted(small_factory.glob("*/test/*.wav"))
    missing = tmp_path / "hummer" / "missing.wav"
    listed = [*files[:5], missing, *files[5:]]
    calls: list[tuple[str, int, int]] = []
    found = score_files(
        tmp_path / "detector", listed, LocalExecutor(), keep_errors=True, progress=lambda *call: calls.append(call)
    )
    expected = [*fitted.score_many(listed, keep_errors=True)]
    assert [entry.to_json() for entry in found] == [entry.to_json() for entry in expected]
    assert [done for _, done, _ in calls] == [6, 12, 17]
    with pytest.raises(InputError, match=r"missing\.wav"):
        score_files(tmp_path / "detector", listed, LocalExecutor())


@pytest.mark.parametrize("share", [0.3, 0.75])
def test_overlapping_cuts_of_one_recording_are_not_independent(
    share: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neighbours share sound, so that all would be one group: cuts without any overlap are kept."""
    random, length = np.random.default_rng(0), 16_000
    slow = np.interp(np.arange(12 * length), np.arange(0, 12 * length, 4_000), random.normal(1, 0.2, size=48))
    sound = 0.1 * slow[:, None] * random.normal(size=(12 * length, 2))
    hop, folder = round((1 - share) * length), tmp_path / "pump"
    folder.mkdir()
    begins = range(0, 11 * length, hop)
    for number, begin in enumerate(begins):
        sf.write(folder / f"{number:03d}.wav", sound[begin : begin + length], 16_000)
    with caplog.at_level(logging.WARNING, logger="nearfar"):
        detector = Detector.fit(folder, "frozen-near")
    step = -(-length // hop)
    kept = [f"{number:03d}.wav" for number in range(0, len(begins), step)]
    assert [entry.file for entry in detector.calibrations[0].recordings] == kept
    assert "001.wav shares sound with 000.wav and is left out" in caplog.text
    (threshold,) = detector.thresholds
    assert threshold.remark is not None
    assert "cuts of one long recording" in threshold.remark
    assert not threshold.guaranteed


def test_overlapping_cuts_of_several_recordings_are_groups(tmp_path: Path) -> None:
    random, folder = np.random.default_rng(1), tmp_path / "pump"
    folder.mkdir()
    for recording in range(4):
        sound = 0.1 * random.normal(size=(40_000, 2)) * [1 + 0.1 * recording, 1]
        for part, begin in enumerate((0, 12_000, 24_000)):
            sf.write(folder / f"{'abcd'[recording]}{part}.wav", sound[begin : begin + 16_000], 16_000)
    detector = Detector.fit(folder, "frozen-near")
    assert len(detector.calibrations[0].recordings) == 12
    assert detector.thresholds[0].groups == 4


def test_a_far_channel_that_repeats_near_later_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pump"
    folder.mkdir()
    for number in range(6):
        near = np.random.default_rng(number).normal(0, 0.1, size=16_000)
        sf.write(folder / f"{number}.wav", np.stack([near, -0.5 * np.roll(near, 300)], axis=1), 16_000)
    with pytest.raises(InputError, match="the same but for a filter"):
        Detector.fit(folder)


def test_a_silent_channel_is_an_error_and_a_fault_of_a_sensor(fitted: Detector, tmp_path: Path) -> None:
    near = np.random.default_rng(0).normal(0, 0.1, size=16_000)
    sf.write(tmp_path / "dead.wav", np.stack([near, 0 * near], axis=1), 16_000)
    (tmp_path / "none.wav").write_bytes(b"")
    paths = [tmp_path / "dead.wav", tmp_path / "none.wav"]
    dead, none = (entry.to_json() for entry in fitted.score_many(paths, "hummer", keep_errors=True))
    assert (dead["status"], none["status"]) == ("error", "error")
    assert [problem["check"] for problem in dead["quality"]] == ["dead"]
    assert none["quality"] == []
