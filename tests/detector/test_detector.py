"""Detectors from recordings to records: fitted, scored, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import nearfar
from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.data.audio import read_waveform
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import read_scores

TOKENS = {
    "training.adaptation": "none",
    "features.source": "tokens",
    "features.keep_bands": True,
    "scoring.channels": ["near"],
}


def clips_of(factory: Path, machine: str) -> list[Path]:
    return sorted((factory / machine / "test").glob("*.wav"))


def record(path: Path, seconds: float, channels: int = 2, seed: int = 0, tone_hz: float = 440.0) -> Path:
    random = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    tone = 0.1 * np.sin(2 * np.pi * tone_hz * time + random.uniform(0, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.array([1.0, 0.2])[:channels]  # the far microphone hears little of the machine
    sf.write(path, levels * tone[:, None] + 0.02 * random.standard_normal((len(time), channels)), 16_000)
    return path


# --- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "tokens", "two views"])
def test_scores_are_those_of_a_run_of_the_same_recipe(name: str, small_factory: Path, tmp_path: Path) -> None:
    recipe = {
        "default": load_recipe("nearfar-best"),
        "tokens": load_recipe("tiny-near").with_changes(**TOKENS),
        "two views": load_recipe("nearfar-best").with_changes(
            **{"scoring.channels": ["near", "cancelled"], "scoring.fusion": "standardised"}
        ),
    }[name]
    run = run_system(recipe, small_factory, tmp_path)
    assert run is not None
    detector = nearfar.Detector.fit(small_factory, recipe)
    for entry in run.scores:
        scored = detector.score(clips_of(small_factory, entry.machine), entry.machine)
        assert [Path(row.file).name for row in scored] == list(entry.names)
        np.testing.assert_allclose([row.score for row in scored], entry.scores, rtol=1e-4, atol=1e-5)


def test_a_record_says_what_its_numbers_are(fitted: nearfar.Detector, small_factory: Path) -> None:
    files = clips_of(small_factory, "hummer")
    calibration = fitted.calibrations[0]
    for row in fitted.score(files):
        assert row.machine == "hummer"
        assert row.threshold == fitted.thresholds[0].value
        assert row.margin == pytest.approx(row.score - row.threshold)
        assert row.anomalous == (row.margin > 0)
        assert row.p_value == (1 + (calibration.scores() >= row.score).sum()) / (len(calibration.recordings) + 1)
        assert row.channels == {"cancelled": row.score}
        assert row.nearest in fitted.banks[0].recordings
        assert Path(row.nearest_file) == small_factory.resolve() / "hummer" / "train" / row.nearest
        assert row.windows[0].end_s == 1.0
        assert 0 <= row.departure.begin_s < row.departure.end_s <= 1.0
        assert 0 < row.departure.low_hz < row.departure.high_hz <= 8000
        assert json.loads(json.dumps(row.to_json()))["departure"]["sentence"] == row.departure.sentence


def test_the_nearest_normal_recording_is_the_recording_itself_where_it_is_known(
    fitted: nearfar.Detector, small_factory: Path
) -> None:
    files = sorted((small_factory / "whiner" / "train").glob("*.wav"))
    assert [row.nearest for row in fitted.score(files)] == [file.name for file in files]


def test_anomalies_are_told_from_normal_recordings(fitted: nearfar.Detector, small_factory: Path) -> None:
    """Faults of the small factory are tones nearly three times as high: every one is above every normal clip."""
    for machine in ("hummer", "whiner"):
        scores = {Path(row.file).name: row for row in fitted.score(clips_of(small_factory, machine))}
        faults = [row for name, row in scores.items() if "_anomaly_" in name]
        assert len(faults) == 4
        assert all(row.anomalous for row in faults)
        normal = [row.score for name, row in scores.items() if "_normal_" in name]
        assert min(row.score for row in faults) > max(normal)


def test_arrays_are_heard_as_files_are(fitted: nearfar.Detector, small_factory: Path) -> None:
    files = clips_of(small_factory, "hummer")[:3]
    arrays = [read_waveform(file) for file in files]
    from_files, from_arrays = fitted.score(files), fitted.score(arrays, "hummer")
    assert [row.file for row in from_arrays] == ["array 0", "array 1", "array 2"]
    assert [row.score for row in from_arrays] == [row.score for row in from_files]
    assert fitted.score(arrays[1], "hummer")[0].score == from_files[1].score
    faster = fitted.score(np.repeat(arrays[0], 3, axis=1), "hummer", sample_rate_hz=48_000)[0]
    assert faster.windows[0].end_s == 1.0


def test_records_come_in_the_order_of_the_files(fitted: nearfar.Detector, small_factory: Path) -> None:
    mixed = [
        file
        for pair in zip(*(clips_of(small_factory, m) for m in ("whiner", "hummer")), strict=True)
        for file in pair
    ]
    done: list[tuple[int, int]] = []
    rows = fitted.score(mixed, progress=lambda task, at, total: done.append((at, total)))
    assert [row.file for row in rows] == [str(file) for file in mixed]
    assert [row.machine for row in rows] == ["whiner", "hummer"] * 8
    assert done[-1] == (16, 16)


# --- windows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_second(tmp_path_factory: pytest.TempPathFactory) -> tuple[nearfar.Detector, Path]:
    """A detector of a plain folder of one-second recordings."""
    folder = tmp_path_factory.mktemp("pump 7")
    for seed in range(12):
        record(folder / f"{seed:02d}.wav", 1.0, seed=seed)
    return nearfar.Detector.fit(folder), folder


def test_a_long_recording_is_heard_in_windows_and_called_by_the_worst(one_second, tmp_path: Path) -> None:
    detector, folder = one_second
    assert detector.machines == (folder.name,)
    parts = [
        sf.read(record(tmp_path / f"{seed}.wav", 1.0, seed=seed, tone_hz=hz))[0].T
        for seed, hz in ((50, 440.0), (51, 2000.0), (52, 440.0))
    ]
    whole = np.concatenate([*parts, parts[0][:, :8000]], axis=1)
    row = detector.score(whole)[0]
    assert [(w.begin_s, w.end_s) for w in row.windows] == [(0, 1), (1, 2), (2, 3), (2.5, 3.5)]
    alone = [detector.score(part)[0].score for part in (*parts, whole[:, -16_000:])]
    np.testing.assert_allclose([w.score for w in row.windows], alone, rtol=1e-5)
    assert row.score == row.windows[1].score == max(w.score for w in row.windows)
    assert row.anomalous
    assert 1.0 <= row.departure.begin_s < row.departure.end_s <= 2.0
    # A tone that is there and should not be, or the one that should be there and is not.
    assert any(row.departure.low_hz < hz < row.departure.high_hz for hz in (440, 2000))
    assert f"{row.departure.begin_s:.1f} to" in row.departure.sentence


def test_the_hop_is_the_recipes(one_second) -> None:
    _, folder = one_second
    recipe = load_recipe("nearfar-best").with_changes(**{"detection.hop_seconds": 0.5})
    row = nearfar.Detector.fit(folder, recipe).score(np.random.default_rng(0).normal(size=(2, 40_000)) * 0.1)[0]
    assert [w.begin_s for w in row.windows] == [0, 0.5, 1, 1.5]


def test_a_short_recording_is_padded_and_one_below_a_frame_refused(one_second) -> None:
    detector, _ = one_second
    noise = np.random.default_rng(0).normal(size=(2, 16_000)) * 0.1
    row = detector.score(noise[:, :4000])[0]
    assert [(w.begin_s, w.end_s) for w in row.windows] == [(0, 0.25)]
    assert detector.score(noise[:, :2000])[0].departure is None  # shorter than a patch
    with pytest.raises(InputError, match=r"array 0: found a recording of 0\.01875 s; expected at least one frame"):
        detector.score(noise[:, :300])


def test_normal_recordings_may_be_long_as_well(tmp_path: Path) -> None:
    """Each is one score of the calibration, that of its most anomalous window in a bank without any of its own."""
    for seed in range(6):
        record(tmp_path / "pump" / f"{seed}.wav", 3.0, seed=seed)
    recipe = load_recipe("nearfar-best").with_changes(**{"audio.clip_seconds": 1.0})
    detector = nearfar.Detector.fit(tmp_path / "pump", recipe)
    (bank,), (calibration,) = detector.banks, detector.calibrations
    assert len(bank.features["cancelled"]) == 18
    assert [entry.file for entry in calibration.recordings] == [f"{seed}.wav" for seed in range(6)]
    row = detector.score(tmp_path / "pump" / "4.wav")[0]
    assert [(w.nearest, w.nearest_begin_s) for w in row.windows] == [("4.wav", second) for second in (0, 1, 2)]
    rest = [path for path in sorted((tmp_path / "pump").glob("*.wav")) if path.name != "4.wav"]
    without = nearfar.Detector.fit(rest, recipe).score(tmp_path / "pump" / "4.wav")[0]
    assert calibration.recordings[4].score == pytest.approx(without.score, rel=1e-4)


def test_recordings_of_about_one_length_are_heard_at_the_shortest(tmp_path: Path) -> None:
    for seed, seconds in enumerate((1.0, 1.05, 1.02, 1.0)):
        record(tmp_path / "pump" / f"{seed}.wav", seconds, seed=seed)
    detector = nearfar.Detector.fit(tmp_path / "pump")
    assert detector.recipe.audio.clip_seconds == 1.0
    assert len(detector.banks[0].recording) == 4
    record(tmp_path / "pump" / "long.wav", 2.5)
    with pytest.raises(InputError, match=r"0\.wav: found 1 s beside a recording of 2\.5 s.*--seconds"):
        nearfar.Detector.fit(tmp_path / "pump")


# --- mono, sections, domains ------------------------------------------------------------------------------------


def test_mono_recordings_take_the_near_only_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(5):
        record(tmp_path / "pump" / f"{seed}.wav", 1.0, channels=1, seed=seed)
    detector = nearfar.Detector.fit(tmp_path / "pump")
    assert detector.recipe.name == "frozen-near"
    assert "all recordings are mono" in caplog.text
    assert detector.score(np.random.default_rng(0).normal(size=16_000) * 0.1)[0].channels.keys() == {"near"}
    assert detector.score(record(tmp_path / "stereo.wav", 1.0, seed=9))[0].anomalous is not None
    with pytest.raises(InputError, match=r"0\.wav: found one channel; expected two"):
        nearfar.Detector.fit(tmp_path / "pump", "nearfar-best")


def test_sections_have_banks_of_their_own(tmp_path: Path) -> None:
    for section, hz in (("00", 300.0), ("01", 3000.0)):
        for seed in range(4):
            name = f"section_{section}_source_train_normal_{seed:04d}_noAttribute.wav"
            record(tmp_path / "fan" / "train" / name, 1.0, seed=seed, tone_hz=hz)
    detector = nearfar.Detector.fit(tmp_path)
    assert detector.machines == ("fan/00", "fan/01")
    of_01 = record(tmp_path / "section_01_0007.wav", 1.0, seed=70, tone_hz=3000.0)
    (by_name,) = detector.score(of_01, "fan")
    assert by_name.machine == "fan/01"
    assert by_name == detector.score(of_01, "fan/01")[0]
    assert detector.score(of_01, "fan/00")[0].score > by_name.score
    with pytest.raises(InputError, match="does not say of which machine"):
        detector.score(record(tmp_path / "monday.wav", 1.0), "fan")


def test_domains_may_have_thresholds_of_their_own(small_factory: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"detection.domains": "separate"})
    detector = nearfar.Detector.fit(small_factory, recipe)
    assert [(t.machine, t.domain, t.recordings) for t in detector.thresholds[:2]] == [
        ("hummer", "source", 8),
        ("hummer", "target", 2),
    ]
    file = clips_of(small_factory, "hummer")[0]
    by_domain = {domain: detector.score(file, domain=domain)[0] for domain in ("source", "target", None)}
    for index, domain in enumerate(("source", "target")):
        row = by_domain[domain]
        assert (row.domain, row.threshold) == (domain, detector.thresholds[index].value)
        scores = detector.calibrations[0].scores(domain)
        assert row.p_value == (1 + (scores >= row.score).sum()) / (len(scores) + 1)
    nearest = detector.banks[0]
    position = nearest.recordings.index(by_domain[None].nearest)
    assert by_domain[None].domain == ("target" if nearest.target[position] else "source")


def test_a_split_keeps_what_it_calibrates_on_out_of_the_bank(small_factory: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"detection.calibration": "split"})
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer")
    (bank,), (calibration,) = detector.banks, detector.calibrations
    held = {entry.file for entry in calibration.recordings}
    assert len(bank.recordings) == 7
    assert held.isdisjoint(bank.recordings)
    assert len(held) == 3
    rows = detector.score([small_factory / "hummer" / "train" / name for name in sorted(held)])
    scores = {entry.file: entry.score for entry in calibration.recordings}
    assert [row.score for row in rows] == pytest.approx([scores[name] for name in sorted(held)], rel=1e-5)
    assert detector.thresholds[0].guaranteed


def test_channels_that_make_no_sense_are_told_and_kept(tmp_path: Path) -> None:
    for seed in range(4):
        sound = 0.1 * np.random.default_rng(seed).normal(size=16_000)
        (tmp_path / "pump").mkdir(exist_ok=True)
        sf.write(tmp_path / "pump" / f"{seed}.wav", np.stack([sound, sound], axis=1), 16_000)
    recipe = load_recipe("frozen-near").with_changes(**{"scoring.channels": ["near", "far"]})
    detector = nearfar.Detector.fit(tmp_path / "pump", recipe)
    (warning,) = detector.channel_warnings
    assert (warning.kind, warning.machine) == ("identical", "pump")
    detector.save(tmp_path / "detector")
    assert nearfar.Detector.load(tmp_path / "detector").channel_warnings == detector.channel_warnings


def test_a_recording_with_one_signal_in_both_channels_is_refused(fitted: nearfar.Detector, tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).normal(size=16_000)
    sf.write(tmp_path / "twice.wav", np.stack([sound, sound], axis=1), 16_000)
    with pytest.raises(InputError, match=r"twice\.wav: found the same sound in the near and the far channel"):
        fitted.score([tmp_path / "twice.wav"], machine="hummer")
    with pytest.raises(InputError, match="the same sound"):
        fitted.score([np.stack([sound, sound]).astype(np.float32)], machine="hummer")
    with pytest.raises(InputError, match="the same sound"):
        nearfar.Detector.fit(tmp_path)


# --- saved and loaded -------------------------------------------------------------------------------------------


def test_a_trained_detector_carries_its_model(small_factory: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = small_recipe.with_changes(
        **{"training.steps": 2, "detection.calibration": "split", "training.adaptation": "lora"}
    )
    detector = nearfar.Detector.fit(small_factory, recipe)
    assert {name.rpartition("|")[2] for name in detector.classes} == {"near", "far"}
    assert not any(threshold.guaranteed is False for threshold in detector.thresholds)
    detector.save(tmp_path / "detector")
    names = {path.name for path in (tmp_path / "detector" / "model").iterdir()}
    assert names == {"model.json", "head.safetensors", "adapter", "base"}
    card = json.loads((tmp_path / "detector" / "detector.json").read_text())
    assert card["classes"] == list(detector.classes)
    assert card["encoder"] is None
    files = clips_of(small_factory, "hummer")[:4]
    rows = detector.score(files)
    assert nearfar.Detector.load(tmp_path / "detector").score(files) == rows
    assert rows[0].channels.keys() == {"near", "far"}


def test_a_model_that_saw_all_normal_recordings_promises_nothing(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    """And a run's model is used again where it was trained on the same recordings."""
    recipe = small_recipe.with_changes(**{"training.steps": 2, "scoring.channels": ["near"]})
    run_system(recipe, small_factory, tmp_path / "run")
    before = (tmp_path / "run" / "model" / "model.json").stat().st_mtime_ns
    detector = nearfar.Detector.fit(small_factory, recipe, model=tmp_path / "run" / "model")
    assert (tmp_path / "run" / "model" / "model.json").stat().st_mtime_ns == before
    assert not any(threshold.guaranteed for threshold in detector.thresholds)
    (run,) = [entry for entry in read_scores(tmp_path / "run" / "scores") if entry.machine == "whiner"]
    rows = detector.score(clips_of(small_factory, "whiner"))
    np.testing.assert_allclose([row.score for row in rows], run.scores, rtol=1e-4, atol=1e-6)


def test_a_random_encoder_is_kept_and_another_is_refused(small_factory: Path, tmp_path: Path) -> None:
    from nearfar.encoders import load_encoder, save_encoder

    recipe = load_recipe("tiny-near").with_changes(**TOKENS)
    detector = nearfar.Detector.fit(small_factory, recipe)
    detector.save(tmp_path / "detector")
    assert (tmp_path / "detector" / "encoder" / "model.safetensors").is_file()
    files = clips_of(small_factory, "hummer")[:2]
    assert nearfar.Detector.load(tmp_path / "detector").score(files) == detector.score(files)
    with pytest.raises(
        InputError, match=r"random:tiny:7: found an encoder with hash \w{12}; expected \w{12} \(random:"
    ):
        nearfar.Detector.load(tmp_path / "detector", encoder="random:tiny:7")

    # Of any other encoder, the folder says which it is, and where it was.
    save_encoder(load_encoder("random:tiny:3"), tmp_path / "weights")
    elsewhere = recipe.with_changes(**{"encoder.weights": str(tmp_path / "weights")})
    named = nearfar.Detector.fit(small_factory, elsewhere)
    named.save(tmp_path / "named")
    assert not (tmp_path / "named" / "encoder").exists()
    assert json.loads((tmp_path / "named" / "detector.json").read_text())["encoder"] == {
        "weights": str((tmp_path / "weights").resolve()),
        "revision": None,
        "hash": named.encoder.hash,
    }
    (tmp_path / "weights").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such file or folder"):
        nearfar.Detector.load(tmp_path / "named")
    moved = nearfar.Detector.load(tmp_path / "named", encoder=str(tmp_path / "moved"))
    assert moved.score(files) == named.score(files)
