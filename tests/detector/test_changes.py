"""Normal recordings and known faults that are added to a fitted detector, their record, and undoing."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from tests.fixtures import write_clip

import nearfar
from nearfar.config import Recipe, load_recipe
from nearfar.data import read_dataset
from nearfar.detector import changes, faults, store
from nearfar.errors import InputError


def record(folder: Path, seeds: range, tone_hz: float = 440.0) -> list[Path]:
    """One-second recordings of a machine, one of every seed."""
    for seed in seeds:
        write_clip(folder / f"{seed:04d}.wav", 1.0, tone_hz, seed)
    return [folder / f"{seed:04d}.wav" for seed in seeds]


@pytest.fixture(scope="module")
def pump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 12 normal recordings, 6 more at another speed, and 4 of each of two faults."""
    root = tmp_path_factory.mktemp("changes")
    record(root / "pump", range(12))
    record(root / "faster", range(100, 106), 600.0)
    record(root / "bearing", range(200, 204), 1900.0)
    record(root / "belt", range(300, 304), 150.0)
    return root


@pytest.fixture(scope="module")
def detector(pump: Path) -> nearfar.Detector:
    return nearfar.Detector.fit(pump / "pump", "nearfar-best", machine="pump")


def values(detector: nearfar.Detector, files: list[Path]) -> list[float]:
    return [entry.score for entry in detector.score_many(files)]


def everything(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.wav"))


def state(detector: nearfar.Detector) -> list[object]:
    """All that decides scores and decisions, in numbers that are compared exactly."""
    out: list[object] = [detector.thresholds, detector.calibrations]
    for entry in detector._fitted.machines:
        parts = [*entry.features.values(), *entry.patches.tensors().values(), *entry.signals.tensors().values()]
        out += [part.nan_to_num(nan=-1.0).tolist() for part in parts]
        out += [entry.recordings, entry.files, entry.profile, entry.repeats, entry.recording.tolist()]
        out += [entry.target.tolist(), {view: each.tolist() for view, each in entry.normal_scores.items()}]
        out += (
            []
            if entry.held is None
            else [{k: v.tolist() for k, v in entry.held.tensors().items() if "bands" not in k}]
        )
        out += [None if entry.faults is None else (entry.faults.recordings, entry.faults.recording.tolist())]
    return out


# --- normal recordings ------------------------------------------------------------------------------------------


def test_added_recordings_are_normal_from_then_on(detector: nearfar.Detector, pump: Path) -> None:
    faster = sorted((pump / "faster").iterdir())
    before = list(detector.score_many(faster))
    assert all(entry.anomalous for entry in before)
    larger = detector.with_normals(faster[:5], note="the new gear")
    assert repr(larger).endswith("17 normal recordings)")
    after = larger.score(faster[5])
    assert not after.anomalous
    assert after.nearest in {file.name for file in faster[:5]}
    # And the detector that was there is as it was.
    assert [entry.score for entry in detector.score_many(faster)] == [entry.score for entry in before]
    assert detector.history == ()
    (change,) = larger.history
    assert (change.kind, change.machine, change.note) == ("normal", "pump", "the new gear")
    assert [entry.file for entry in change.files] == [str(file.resolve()) for file in faster[:5]]
    assert change.files[0].sha256 == hashlib.sha256(faster[0].read_bytes()).hexdigest()
    assert change.thresholds_before == detector.thresholds
    assert change.thresholds_after == larger.thresholds
    assert (change.alarms_before, change.undone) == (5, None)
    assert larger.thresholds[0].recordings == 17


ALIKE: dict[str, dict[str, object]] = {
    "nearfar-best": {},
    "plain": {"scoring.distance": "cosine", "scoring.normalisation": "none"},
    "two views": {"scoring.views": ["near", "cancelled"], "scoring.fusion": "standardised"},
    "mahalanobis": {"scoring.backend": "mahalanobis"},
}


@pytest.mark.parametrize("name", ALIKE)
def test_adding_in_any_order_gives_the_scores_of_a_fit_on_all(name: str, pump: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**ALIKE[name], **{"calibration.group_by": "recording"})
    first, second, third = (
        sorted((pump / "pump").iterdir()),
        *(sorted((pump / folder).iterdir())[:4] for folder in ("faster", "belt")),
    )
    start = nearfar.Detector.fit(first, recipe, machine="pump")
    whole = nearfar.Detector.fit([*first, *second, *third], recipe, machine="pump")
    one = start.with_normals(second).with_normals(third)
    other = start.with_normals(third).with_normals(second)
    files = everything(pump)
    expected = values(whole, files)
    by_name = {entry.file: entry.score for entry in whole.calibrations[0].recordings}
    for made in (one, other):
        np.testing.assert_allclose(values(made, files), expected, rtol=1e-5, atol=1e-6)
        # Names that are there twice get their folder.
        found = {Path(entry.file).name: entry.score for entry in made.calibrations[0].recordings}
        assert found == pytest.approx({Path(key).name: value for key, value in by_name.items()}, rel=1e-4)
        assert made.thresholds[0].value == pytest.approx(whole.thresholds[0].value, rel=1e-4)
        assert made._fitted.machines[0].profile == whole._fitted.machines[0].profile


def test_recordings_that_are_there_are_skipped_by_name(
    detector: nearfar.Detector, pump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound, rate = sf.read(pump / "pump" / "0003.wav")
    sf.write(tmp_path / "copy.flac", 0.5 * sound, rate)
    new = record(tmp_path / "new", range(50, 52))
    shutil.copy(new[0], tmp_path / "new" / "again.wav")
    larger = detector.with_normals([tmp_path / "copy.flac", *new, tmp_path / "new" / "again.wav"])
    assert larger.history[-1].skipped == (("copy.flac", "0003.wav"), ("again.wav", "0050.wav"))
    assert "copy.flac holds the same sound as 0003.wav and is skipped" in caplog.text
    assert len(larger._fitted.machines[0].recordings) == 14
    with pytest.raises(InputError, match=r"copy\.flac: found the sound of 0003\.wav, which is there already"):
        detector.with_normals(tmp_path / "copy.flac")


def test_copies_are_found_where_the_first_files_are_gone(pump: Path, tmp_path: Path) -> None:
    shutil.copytree(pump / "pump", tmp_path / "pump")
    detector = nearfar.Detector.fit(tmp_path / "pump")
    shutil.copy(tmp_path / "pump" / "0005.wav", tmp_path / "copy.wav")
    shutil.rmtree(tmp_path / "pump")
    with pytest.raises(InputError, match=r"copy\.wav: found the sound of 0005\.wav"):
        detector.with_normals(tmp_path / "copy.wav")
    assert len(detector.with_normals(pump / "faster")._fitted.machines[0].recordings) == 18


def test_names_that_are_there_get_their_folder(detector: nearfar.Detector, tmp_path: Path) -> None:
    for index, day in enumerate(("monday", "tuesday")):
        write_clip(tmp_path / day / "0003.wav", 1.0, 440.0, 70 + index)
    larger = detector.with_normals([tmp_path / "monday", tmp_path / "tuesday" / "0003.wav"])
    assert larger._fitted.machines[0].recordings[-2:] == ("monday/0003.wav", "tuesday/0003.wav")
    assert larger.score(tmp_path / "tuesday" / "0003.wav").nearest == "tuesday/0003.wav"


def test_a_call_is_a_group_where_recordings_are_grouped(tmp_path: Path) -> None:
    """Sub-folders are sessions: recordings of a folder that is there join its group, others are one new group."""
    for day in range(4):
        record(tmp_path / "pump" / f"day{day}", range(10 * day, 10 * day + 3), 440.0 + 5 * day)
    files = sorted((tmp_path / "pump").rglob("*.wav"))
    detector = nearfar.Detector.fit(files, machine="pump")
    (calibration,) = detector.calibrations
    assert calibration.grouped_by == "sub-folders"
    loose = record(tmp_path / "loose", range(90, 93))
    (after,) = detector.with_normals(loose).calibrations
    assert [entry.group for entry in after.recordings[:12]] == [entry.group for entry in calibration.recordings]
    assert {entry.group for entry in after.recordings[12:]} == {"added"}
    more = record(tmp_path / "pump" / "day2", range(95, 97))
    (again,) = (
        detector.with_normals(loose).with_normals([*more, *record(tmp_path / "x", range(97, 98))]).calibrations
    )
    assert again.recordings[15].group == str(tmp_path / "pump" / "day2")
    assert len({entry.group for entry in again.recordings}) == 6


def test_a_split_holds_out_the_same_share(small_factory: Path, tmp_path: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"calibration.method": "split"})
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer")
    detector.save(tmp_path / "detector")
    loaded = nearfar.Detector.load(tmp_path / "detector")
    larger = loaded.with_normals(record(tmp_path / "new", range(60, 70)), "hummer")
    (bank,), (calibration,) = larger._fitted.machines, larger.calibrations
    assert (len(bank.recordings), len(calibration.recordings)) == (7 + 7, 3 + 3)
    assert bank.recordings[:7] == detector._fitted.machines[0].recordings
    held = {entry.file: entry.score for entry in calibration.recordings}
    files = [Path(file) for file in bank.held.files]
    assert [file.name for file in files] == list(held)
    assert values(larger, files) == pytest.approx(list(held.values()), rel=1e-5)  # by the larger bank
    assert state(larger.undone()) == state(detector)


def test_a_trained_encoder_stays_and_its_bank_grows(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    detector = nearfar.Detector.fit(small_factory, small_recipe.with_changes(**{"training.steps": 2}))
    detector.save(tmp_path / "detector")
    larger = nearfar.Detector.load(tmp_path / "detector").with_normals(
        record(tmp_path / "new", range(3)), "whiner"
    )
    larger.save(tmp_path / "detector", replace=True)
    file = record(tmp_path, range(5, 6))[0]
    assert nearfar.Detector.load(tmp_path / "detector").score(file, "whiner") == larger.score(file, "whiner")
    assert larger.score(file, "hummer").score == detector.score(file, "hummer").score
    assert larger.score(file, "whiner").score < detector.score(file, "whiner").score


def test_autoencoders_are_refused_with_what_to_do(small_factory: Path, tmp_path: Path) -> None:
    recipe = load_recipe("ae-mse").with_changes(**{"autoencoder.epochs": 1, "calibration.method": "split"})
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer")
    with pytest.raises(InputError, match=r"trained by the back-end 'autoencoder'.*fit the detector again"):
        detector.with_normals(record(tmp_path, range(2)))


def test_detectors_of_earlier_versions_are_refused(detector: nearfar.Detector, pump: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    detector.save(tmp_path / "old")
    banks = tmp_path / "old" / store.BANKS
    save_file({name: value for name, value in load_file(banks).items() if "/signals/" not in name}, banks)
    card = json.loads((tmp_path / "old" / "detector.json").read_text())
    del card["files"]
    card["sha256"] = {store.BANKS: hashlib.sha256(banks.read_bytes()).hexdigest()}
    (tmp_path / "old" / "detector.json").write_text(json.dumps(card))
    old = nearfar.Detector.load(tmp_path / "old")
    with pytest.raises(InputError, match=r"keeps no signals of its normal recordings.*fit the detector again"):
        old.with_normals(pump / "faster")


def test_bad_recordings_are_all_named_and_change_nothing(detector: nearfar.Detector, tmp_path: Path) -> None:
    good, *_ = record(tmp_path, range(80, 81))
    sf.write(tmp_path / "mono.wav", 0.1 * np.random.default_rng(0).normal(size=16_000), 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InputError) as caught:
        detector.with_normals([good, tmp_path / "mono.wav", tmp_path / "text.wav"])
    assert "mono.wav" in str(caught.value)
    assert "text.wav" in str(caught.value)
    with pytest.raises(InputError, match='found a name with "anomal"'):
        detector.with_normals(tmp_path / "section_00_source_test_anomaly_0000_noAttribute.wav")
    with pytest.raises(InputError, match="domain: found 'sorce'"):
        detector.with_normals(good, domain="sorce")
    with pytest.raises(InputError, match="recordings: found none"):
        detector.with_normals([])


def test_machines_domains_and_sections_come_from_folders_and_names(
    small_factory: Path, fitted: nearfar.Detector
) -> None:
    """The test clips of the challenge that are normal, of both machines in one call."""
    normal = [path for path in everything_of_tests(small_factory) if "_normal_" in path.name]
    larger = fitted.with_normals(normal)
    assert [(change.machine, len(change.files)) for change in larger.history] == [("hummer", 4), ("whiner", 4)]
    (bank, _) = larger._fitted.machines
    assert bank.target.tolist() == [False] * 8 + [True] * 2 + [False] * 2 + [True] * 2
    assert fitted.with_normals(normal[0], domain="target")._fitted.machines[0].target.tolist()[-1] is True


def everything_of_tests(factory: Path) -> list[Path]:
    return sorted(factory.glob("*/test/*.wav"))


# --- thresholds -------------------------------------------------------------------------------------------------


def test_rules_and_rates_stay_and_a_given_number_does(fitted: nearfar.Detector, small_factory: Path) -> None:
    normal = [path for path in everything_of_tests(small_factory) if "_normal_" in path.name]
    changed = fitted.with_thresholds(0.2, "empirical", machine="whiner").with_normals(normal)
    hummer, whiner = changed.thresholds
    assert (whiner.rule, whiner.false_alarm_rate, whiner.recordings) == ("empirical", 0.2, 14)
    assert (hummer.rule, hummer.recordings) == ("conformal", 14)
    expected = nearfar.thresholds.empirical_threshold(changed.calibrations[1].scores(), 0.2)
    assert whiner.value == pytest.approx(expected)
    given = nearfar.thresholds.given_threshold(fitted.calibrations[0], 7.5)
    kept = type(fitted)(replace(fitted._fitted, thresholds=(given, fitted.thresholds[1])))
    assert kept.with_normals(normal).thresholds[0] == given


def test_the_rate_that_was_asked_for_is_used_once_there_are_enough_scores(
    detector: nearfar.Detector, tmp_path: Path
) -> None:
    """12 recordings support 1 / 13 and not the 5 % of the recipe; 19 support 5 %."""
    assert detector.thresholds[0].false_alarm_rate == pytest.approx(1 / 13)
    (after,) = detector.with_normals(record(tmp_path, range(20, 27))).thresholds
    assert (after.false_alarm_rate, after.remark) == (0.05, None)


def test_a_domain_that_is_new_gets_a_threshold_of_its_own(pump: Path, tmp_path: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"threshold.domains": "separate"})
    detector = nearfar.Detector.fit(pump / "pump", recipe)
    assert [entry.domain for entry in detector.thresholds] == [None]
    larger = detector.with_normals(pump / "faster", domain="target")
    assert [(entry.domain, entry.recordings) for entry in larger.thresholds] == [("source", 12), ("target", 6)]
    assert state(larger.undone()) == state(detector)


# --- undo -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nearfar-best", "two views"])
def test_undo_restores_the_detector_bit_for_bit(name: str, pump: Path, tmp_path: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**ALIKE[name])
    first = nearfar.Detector.fit(pump / "pump", recipe)
    states, scores, files = [], [], everything(pump)
    made = first
    for change in (
        lambda d: d.with_normals(sorted((pump / "faster").iterdir())[:3]),
        lambda d: d.with_fault("bearing", pump / "bearing"),
        lambda d: d.with_normals(pump / "belt", note="wrong"),
        lambda d: d.with_fault("belt", sorted((pump / "bearing").iterdir())[:1]),
    ):
        states.append(state(made))
        scores.append(list(made.score_many(files)))
        made.save(tmp_path / "detector", replace=True)
        made = change(nearfar.Detector.load(tmp_path / "detector"))
    for expected, of_then in zip(reversed(states), reversed(scores), strict=True):
        made.save(tmp_path / "detector", replace=True)
        made = nearfar.Detector.load(tmp_path / "detector").undone()
        assert state(made) == expected
        assert list(made.score_many(files)) == of_then
    assert [entry.undone is None for entry in made.history] == [False] * 4
    with pytest.raises(InputError, match="found no change with effect"):
        made.undone()


def test_a_change_after_an_undone_one_is_undone_alone(detector: nearfar.Detector, pump: Path) -> None:
    made = detector.with_normals(pump / "belt").undone().with_normals(pump / "faster")
    assert len(made.history) == 2
    again = made.undone()
    assert state(again) == state(detector)
    assert all(entry.undone for entry in again.history)


def test_thresholds_that_were_changed_since_are_found_again(detector: nearfar.Detector, pump: Path) -> None:
    changed = detector.with_normals(pump / "faster").with_thresholds(0.3, "empirical").undone()
    assert changed.thresholds == detector.with_thresholds(0.3, "empirical").thresholds


def test_only_the_last_changes_can_be_undone(
    detector: nearfar.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_UNDONE", 2)
    made = detector
    for file in record(tmp_path, range(20, 23)):
        made = made.with_normals(file)
    with pytest.raises(InputError, match="found a change that is more than 2 ago"):
        made.undone().undone().undone()


# --- known faults -----------------------------------------------------------------------------------------------


def test_an_anomalous_recording_is_like_a_known_fault(detector: nearfar.Detector, pump: Path) -> None:
    bearing, belt = (sorted((pump / name).iterdir()) for name in ("bearing", "belt"))
    assert detector.score(bearing[3]).like is None
    made = detector.with_fault("bearing fault", bearing[:2], date="2026-05-03").with_fault("belt", belt[:2])
    like = made.score(bearing[3]).like
    assert (like.fault, like.date, like.words) == (
        "bearing fault",
        "2026-05-03",
        "like bearing fault (3 May 2026)",
    )
    assert like.recording in {"0200.wav", "0201.wav"}
    assert made.score(belt[3]).like.fault == "belt"
    assert made.score(pump / "pump" / "0000.wav").like is None
    # Scores and thresholds stay.
    assert values(made, everything(pump)) == values(detector, everything(pump))
    assert made.thresholds == detector.thresholds
    assert [change.fault for change in made.history] == ["bearing fault", "belt"]


def test_the_distance_to_a_fault_is_that_of_standardised_features_by_hand(
    detector: nearfar.Detector, pump: Path
) -> None:
    bearing = sorted((pump / "bearing").iterdir())
    made = detector.with_fault("bearing", bearing[:2])
    like = made.score(bearing[3]).like
    (entry,) = made._fitted.machines
    normal = entry.features["cancelled"].double().numpy()
    known = entry.faults.features["cancelled"].double().numpy()
    both = detector.with_fault("bearing", [bearing[0], bearing[3]])._fitted.machines[0].faults
    own = both.features["cancelled"].double().numpy()[-1]
    spread = normal.std(axis=0)
    factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6)

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        """Mean over parts of the Euclidean distance, both (parts, dim), per square root of the dimensions."""
        squares = (((one - other) * factor) ** 2).sum(axis=1) / one.shape[1]
        return float(np.sqrt(squares).mean())

    assert like.distance == pytest.approx(min(distance(own, fault) for fault in known), rel=1e-6)
    assert like.normal_distance == pytest.approx(min(distance(own, each) for each in normal), rel=1e-6)

    def direction(one: np.ndarray) -> np.ndarray:
        """From the mean of the four nearest normal windows."""
        nearest = sorted(normal, key=lambda each: distance(one, each))[:4]
        return ((one - np.mean(nearest, axis=0)) * factor).flatten()

    index = int(like.recording == bearing[1].name)
    pair = [direction(own), direction(known[index])]
    cosine = pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1])
    assert like.similarity == pytest.approx(cosine, rel=1e-6)


def test_a_near_fault_in_another_direction_is_no_known_one(
    detector: nearfar.Detector, pump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearing = sorted((pump / "bearing").iterdir())
    made = detector.with_fault("bearing", bearing[:2])
    similarity = made.score(bearing[3]).like.similarity
    monkeypatch.setattr(faults, "SIMILAR", similarity + 1e-6)
    assert made.score(bearing[3]).like is None
    monkeypatch.setattr(faults, "SIMILAR", similarity - 1e-6)
    assert made.score(bearing[3]).like is not None


def test_a_fault_may_be_farther_than_normal_but_not_much(
    detector: nearfar.Detector, pump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few recordings of a fault even the nearest may be farther than the nearest of many normal ones."""
    bearing = sorted((pump / "bearing").iterdir())
    made = detector.with_fault("bearing", bearing[:1])
    like = made.score(bearing[3]).like
    ratio = like.distance / like.normal_distance
    assert ratio <= faults.FARTHEST == 2.0
    monkeypatch.setattr(faults, "FARTHEST", ratio * (1 + 1e-6))
    assert made.score(bearing[3]).like == like
    monkeypatch.setattr(faults, "FARTHEST", ratio * (1 - 1e-6))
    assert made.score(bearing[3]).like is None


@pytest.mark.parametrize("name", ["mahalanobis", "frozen-near", "ae-mse"])
def test_faults_are_recognised_with_other_back_ends(name: str, pump: Path) -> None:
    changes = {
        "mahalanobis": {"scoring.backend": "mahalanobis"},
        "frozen-near": {"scoring.views": ["near", "far"]},
        "ae-mse": {"autoencoder.epochs": 2, "calibration.method": "split"},
    }[name]
    recipe = load_recipe("nearfar-best" if name == "mahalanobis" else name).with_changes(**changes)
    detector = nearfar.Detector.fit(pump / "pump", recipe)
    bearing, belt = (sorted((pump / folder).iterdir()) for folder in ("bearing", "belt"))
    made = detector.with_fault("bearing", bearing[:2]).with_fault("belt", belt[:2])
    for files, fault in ((bearing, "bearing"), (belt, "belt")):
        for score in made.score_many(files[2:]):
            assert score.like.fault == fault if score.anomalous else score.like is None
    assert made.score(bearing[3]).anomalous


def test_only_anomalous_windows_of_a_long_recording_are_the_fault(
    detector: nearfar.Detector, pump: Path, tmp_path: Path
) -> None:
    (normal,) = record(tmp_path, range(40, 41))
    parts = [sf.read(path)[0] for path in (normal, pump / "bearing" / "0200.wav")]
    sf.write(tmp_path / "long.wav", np.concatenate(parts), 16_000)
    bank = detector.with_fault("bearing", tmp_path / "long.wav")._fitted.machines[0].faults
    alone = detector.with_fault("bearing", pump / "bearing" / "0200.wav")._fitted.machines[0].faults
    torch.testing.assert_close(bank.features, alone.features, rtol=1e-3, atol=1e-3)


def test_faults_that_are_not_detected_are_reported(
    detector: nearfar.Detector, pump: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (normal,) = record(tmp_path, range(41, 42))
    made = detector.with_fault("ghost", [normal, pump / "bearing" / "0200.wav"])
    assert "pump: 1 of 2 recordings of ghost are not above the threshold" in caplog.text
    assert (made.history[0].alarms_before, made.history[0].alarms_after) == (1, 1)


def test_bad_faults_are_refused(detector: nearfar.Detector, pump: Path) -> None:
    with pytest.raises(InputError, match=r"0002\.wav: found the sound of the normal recording 0002\.wav"):
        detector.with_fault("bearing", pump / "pump" / "0002.wav")
    with pytest.raises(InputError, match="date: found '3 May'"):
        detector.with_fault("bearing", pump / "bearing", date="3 May")
    with pytest.raises(InputError, match="name: found no name"):
        detector.with_fault(" ", pump / "bearing")


# --- labelled recordings ----------------------------------------------------------------------------------------


def test_counts_on_labelled_recordings_before_and_after(
    detector: nearfar.Detector, pump: Path, tmp_path: Path
) -> None:
    for name, kind in (("faster", "normal"), ("bearing", "bearing"), ("belt", "belt")):
        shutil.copytree(pump / name, tmp_path / "data" / "pump" / "test" / kind)
    (counts,) = detector.tested(tmp_path / "data")
    assert (counts.machine, counts.undecided) == ("pump", 0)
    assert (counts.false_alarms.alarms, counts.false_alarms.recordings) == (6, 6)
    assert [(entry.fault, entry.rate.alarms, entry.like) for entry in counts.faults] == [
        ("bearing", 4, {}),
        ("belt", 4, {}),
    ]
    shutil.copytree(tmp_path / "data" / "pump" / "test", tmp_path / "labelled")
    assert detector.tested(tmp_path / "labelled") == (counts,), "the labelled folders alone"
    # Recordings that are added are left out of both counts.
    added = sorted((tmp_path / "data" / "pump" / "test" / "normal").iterdir())[:3]
    added.append(Path(shutil.copy(pump / "faster" / "0103.wav", tmp_path / "a copy.wav")))
    change = detector.with_normals(added, labelled=tmp_path / "data").history[-1]
    assert (change.tested_before.false_alarms.alarms, change.tested_before.false_alarms.recordings) == (2, 2)
    assert change.tested_after.false_alarms.alarms == 0
    assert change.tested_after.detections.alarms == 8
    like = detector.with_fault("dry bearing", sorted((pump / "bearing").iterdir())[:2]).tested(tmp_path / "data")
    assert like[0].faults[0].like == {"dry bearing": 4}
    with pytest.raises(InputError, match="found no labelled test recordings"):
        detector.tested(read_dataset(tmp_path / "data").select(split="train"))


@pytest.mark.parametrize(
    ("alarms", "recordings", "low", "high"),
    [(0, 10, 0.0, 0.3085), (2, 20, 0.0123, 0.3170), (10, 10, 0.6915, 1.0), (1, 1, 0.025, 1.0)],
)
def test_intervals_are_those_of_the_table(alarms: int, recordings: int, low: float, high: float) -> None:
    """Exact binomial 95 % limits as printed in statistical tables."""
    from nearfar.detector.counts import rate

    found = rate(alarms, recordings)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_no_recordings_have_no_interval() -> None:
    from nearfar.detector.counts import rate

    assert (rate(0, 0).low, rate(0, 0).value) == (None, None)


# --- the folder -------------------------------------------------------------------------------------------------


def test_the_record_is_in_the_folder(detector: nearfar.Detector, pump: Path, tmp_path: Path) -> None:
    made = detector.with_normals(pump / "faster").with_fault("bearing", pump / "bearing", date="2026-05-03")
    made.save(tmp_path / "detector")
    tree = json.loads((tmp_path / "detector" / "changes.json").read_text())
    assert [entry["kind"] for entry in tree] == ["normal", "fault"]
    assert tree[0]["date"].endswith("+00:00")
    loaded = nearfar.Detector.load(tmp_path / "detector")
    assert loaded.history == made.history
    files = everything(pump)
    assert list(loaded.score_many(files)) == list(made.score_many(files))
    score = next(entry for entry in loaded.score_many(files) if entry.like is not None)
    assert score.to_json()["like"]["fault"] == "bearing"
    whole = (tmp_path / "detector" / "before.json").read_text()
    for text, why in (("[", "json"), (whole.replace('"recordings": 12', '"recordings": 11'), "SHA-256")):
        (tmp_path / "detector" / "before.json").write_text(text)
        with pytest.raises(InputError, match=rf"before\.json: found a file that cannot be read \(.*{why}"):
            nearfar.Detector.load(tmp_path / "detector")


def test_quality_of_what_is_added_is_reported(
    detector: nearfar.Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound, rate = sf.read(record(tmp_path, range(30, 31))[0])
    sf.write(tmp_path / "quiet.wav", 0.05 * sound, rate, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        detector.with_normals(tmp_path / "quiet.wav")
    assert "quiet.wav: quiet: " in caplog.text
