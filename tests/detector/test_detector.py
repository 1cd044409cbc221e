"""Detectors: fitted on recordings, scoring recordings, saved and loaded."""

from __future__ import annotations

import json
import re
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
from nearfar.files import without_signature

TOKENS = {
    "training.adaptation": "none",
    "features.source": "tokens",
    "features.keep_bands": True,
    "scoring.views": ["near"],
}


def clips_of(factory: Path, machine: str) -> list[Path]:
    return sorted((factory / machine / "test").glob("*.wav"))


def scores_of(detector: nearfar.Detector, files: list[Path]) -> list[nearfar.Score]:
    return list(detector.score_many(files))


def record(path: Path, seconds: float, channels: int = 2, seed: int = 0, tone_hz: float = 440.0) -> Path:
    random = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    tone = 0.1 * np.sin(2 * np.pi * tone_hz * time + random.uniform(0, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.array([1.0, 0.2])[:channels]  # the far microphone picks up little of the machine
    sf.write(path, levels * tone[:, None] + 0.02 * random.standard_normal((len(time), channels)), 16_000)
    return path


# --- scores -----------------------------------------------------------------------------------------------------


COMPARED: dict[str, tuple[str, dict[str, object]]] = {
    "nearfar-best": ("nearfar-best", {}),
    "eat-tiny": ("frozen-eat", {"encoder.weights": "eat-tiny"}),
    "trained": ("tiny-near", {"training.steps": 2, "training.batch_size": 4, "training.warmup_steps": 1}),
    "random encoder": ("tiny-near", TOKENS),
    "two views": ("nearfar-best", {"scoring.views": ["near", "cancelled"], "scoring.fusion": "standardised"}),
}


@pytest.mark.parametrize("name", COMPARED)
def test_scores_and_thresholds_are_those_of_a_run_of_the_same_recipe(
    name: str, small_factory: Path, tmp_path: Path
) -> None:
    base, changes = COMPARED[name]
    recipe = load_recipe(base).with_changes(
        **changes, **{"threshold.rule": "conformal", "threshold.false_alarm_rate": 0.2}
    )
    run = run_system(recipe, small_factory, tmp_path)
    assert run is not None
    detector = nearfar.Detector.fit(small_factory, recipe, model=tmp_path / "model" if recipe.trains else None)
    for entry in run.scores:
        scored = list(detector.score_many(clips_of(small_factory, entry.machine), entry.machine))
        assert [Path(row.file).name for row in scored] == list(entry.names)
        np.testing.assert_allclose([row.score for row in scored], entry.scores, rtol=1e-4, atol=1e-5)
    of_run = [without_signature(row) for row in json.loads((tmp_path / "thresholds.json").read_text())]
    own = [entry.model_dump(mode="json") for entry in detector.thresholds]
    assert [entry.pop("value") for entry in own] == pytest.approx([e.pop("value") for e in of_run], rel=1e-5)
    assert own == of_run


def test_a_record_says_what_its_numbers_are(fitted: nearfar.Detector, small_factory: Path) -> None:
    files = clips_of(small_factory, "hummer")
    calibration = fitted.calibrations[0]
    for row in fitted.score_many(files):
        assert row.machine == "hummer"
        assert row.threshold == fitted.thresholds[0].value
        assert row.margin == pytest.approx(row.score - row.threshold)
        assert row.anomalous == (row.margin > 0)
        assert row.p_value == (1 + (calibration.scores() >= row.score).sum()) / (len(calibration.recordings) + 1)
        assert row.views.keys() == {"near", "cancelled"}
        assert min(row.views.values()) <= row.score <= max(row.views.values())
        assert row.nearest in fitted._fitted.machines[0].recordings
        assert Path(row.nearest_file) == small_factory.resolve() / "hummer" / "train" / row.nearest
        assert row.windows[0].end_s == 1.0
        assert 0 <= row.departure.begin_s < row.departure.end_s <= 1.0
        assert 0 < row.departure.low_hz < row.departure.high_hz <= 8000
        assert json.loads(json.dumps(row.to_json()))["departure"]["sentence"] == row.departure.sentence


def test_the_nearest_normal_recording_is_the_recording_itself_where_it_is_known(
    fitted: nearfar.Detector, small_factory: Path
) -> None:
    files = sorted((small_factory / "whiner" / "train").glob("*.wav"))
    assert [row.nearest for row in fitted.score_many(files)] == [file.name for file in files]


def test_anomalies_score_above_normal_recordings(fitted: nearfar.Detector, small_factory: Path) -> None:
    """Faults of the small factory are tones nearly three times as high: every one is above every normal clip."""
    for machine in ("hummer", "whiner"):
        scores = {Path(row.file).name: row for row in fitted.score_many(clips_of(small_factory, machine))}
        faults = [row for name, row in scores.items() if "_anomaly_" in name]
        assert len(faults) == 4
        # The whiner runs at two speeds: of 10 recordings, one is the only one like it, and sets the threshold.
        assert machine == "whiner" or all(row.anomalous for row in faults)
        assert any(row.anomalous for row in faults)
        normal = [row.score for name, row in scores.items() if "_normal_" in name]
        assert min(row.score for row in faults) > max(normal)


def test_arrays_score_as_their_files(fitted: nearfar.Detector, small_factory: Path) -> None:
    files = clips_of(small_factory, "hummer")[:3]
    arrays = [read_waveform(file) for file in files]
    from_files, from_arrays = list(fitted.score_many(files)), list(fitted.score_many(arrays, "hummer"))
    assert [row.file for row in from_arrays] == ["array 0", "array 1", "array 2"]
    assert [row.score for row in from_arrays] == [row.score for row in from_files]
    assert fitted.score(arrays[1], "hummer").score == from_files[1].score
    faster = fitted.score(np.repeat(arrays[0], 3, axis=1), "hummer", sample_rate_hz=48_000)
    assert faster.windows[0].end_s == 1.0


def test_scores_are_in_the_order_of_the_files(fitted: nearfar.Detector, small_factory: Path) -> None:
    mixed = [
        file
        for pair in zip(*(clips_of(small_factory, m) for m in ("whiner", "hummer")), strict=True)
        for file in pair
    ]
    done: list[tuple[str, int, int]] = []
    rows = list(fitted.score_many(mixed, progress=lambda task, *counts: done.append((task, *counts))))
    assert [row.file for row in rows] == [str(file) for file in mixed]
    assert [row.machine for row in rows] == ["whiner", "hummer"] * 8
    assert done[-1] == ("scoring recordings", 16, 16)


# --- windows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_second(tmp_path_factory: pytest.TempPathFactory) -> tuple[nearfar.Detector, Path]:
    """A detector of a plain folder of one-second recordings."""
    folder = tmp_path_factory.mktemp("pump 7")
    for seed in range(12):
        record(folder / f"{seed:02d}.wav", 1.0, seed=seed)
    return nearfar.Detector.fit(folder), folder


def test_a_long_recording_is_cut_into_windows_and_judged_by_the_most_anomalous(one_second, tmp_path: Path) -> None:
    detector, folder = one_second
    assert detector.machines == (folder.name,)
    parts = [
        sf.read(record(tmp_path / f"{seed}.wav", 1.0, seed=seed, tone_hz=hz))[0].T
        for seed, hz in ((50, 440.0), (51, 2000.0), (52, 440.0))
    ]
    whole = np.concatenate([*parts, parts[0][:, :8000]], axis=1)
    row = detector.score(whole)
    assert [(w.begin_s, w.end_s) for w in row.windows] == [(0, 1), (1, 2), (2, 3), (2.5, 3.5)]
    separate = [detector.score(part).score for part in (*parts, whole[:, -16_000:])]
    np.testing.assert_allclose([w.score for w in row.windows], separate, rtol=1e-5)
    assert row.score == row.windows[1].score == max(w.score for w in row.windows)
    assert row.anomalous
    assert 1.0 <= row.departure.begin_s < row.departure.end_s <= 2.0
    # A tone that is there and should not be, or the one that should be there and is not.
    assert any(row.departure.low_hz < hz < row.departure.high_hz for hz in (440, 2000))
    assert f"{row.departure.begin_s:.1f} to" in row.departure.sentence


def test_the_hop_is_the_recipes(one_second) -> None:
    _, folder = one_second
    recipe = load_recipe("nearfar-best").with_changes(**{"audio.hop_seconds": 0.5})
    row = nearfar.Detector.fit(folder, recipe).score(np.random.default_rng(0).normal(size=(2, 40_000)) * 0.1)
    assert [w.begin_s for w in row.windows] == [0, 0.5, 1, 1.5]


def test_a_short_recording_is_padded_and_one_below_a_frame_refused(one_second) -> None:
    detector, _ = one_second
    noise = np.random.default_rng(0).normal(size=(2, 16_000)) * 0.1
    row = detector.score(noise[:, :4000])
    assert [(w.begin_s, w.end_s) for w in row.windows] == [(0, 0.25)]
    assert detector.score(noise[:, :2000]).departure is None  # shorter than a patch
    with pytest.raises(InputError, match=r"array 0: found a recording of 0\.01875 s; expected at least one frame"):
        detector.score(noise[:, :300])


def test_normal_recordings_may_be_long_as_well(tmp_path: Path) -> None:
    """Each is one score of the calibration, that of its most anomalous window in a bank without any of its own."""
    for seed in range(6):
        record(tmp_path / "pump" / f"{seed}.wav", 3.0, seed=seed)
    recipe = load_recipe("nearfar-best").with_changes(**{"audio.clip_seconds": 1.0})
    detector = nearfar.Detector.fit(tmp_path / "pump", recipe)
    (bank,), (calibration,) = detector._fitted.machines, detector.calibrations
    assert len(bank.features["cancelled"]) == 18
    assert [entry.file for entry in calibration.recordings] == [f"{seed}.wav" for seed in range(6)]
    row = detector.score(tmp_path / "pump" / "4.wav")
    assert [(w.nearest, w.nearest_begin_s) for w in row.windows] == [("4.wav", second) for second in (0, 1, 2)]
    rest = [path for path in sorted((tmp_path / "pump").glob("*.wav")) if path.name != "4.wav"]
    without = nearfar.Detector.fit(rest, recipe).score(tmp_path / "pump" / "4.wav")
    assert calibration.recordings[4].score == pytest.approx(without.score, rel=1e-4)


def test_recordings_of_about_one_length_are_cut_to_the_shortest(tmp_path: Path) -> None:
    for seed, seconds in enumerate((1.0, 1.05, 1.02, 1.0)):
        record(tmp_path / "pump" / f"{seed}.wav", seconds, seed=seed)
    detector = nearfar.Detector.fit(tmp_path / "pump")
    assert detector.recipe.audio.clip_seconds == 1.0
    assert len(detector._fitted.machines[0].recording) == 4
    record(tmp_path / "pump" / "long.wav", 2.5, seed=9)
    with pytest.raises(InputError, match=r"0\.wav: found 1 s beside a recording of 2\.5 s.*audio\.clip_seconds"):
        nearfar.Detector.fit(tmp_path / "pump")


# --- mono, sections, domains ------------------------------------------------------------------------------------


def test_mono_recordings_are_scored_by_near_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(5):
        record(tmp_path / "pump" / f"{seed}.wav", 1.0, channels=1, seed=seed)
    detector = nearfar.Detector.fit(tmp_path / "pump")
    assert (detector.recipe.name, detector.recipe.scoring.views) == ("auto", ("near",))
    assert "all recordings are mono" in caplog.text
    assert detector.score(np.random.default_rng(0).normal(size=16_000) * 0.1).views.keys() == {"near"}
    assert detector.score(record(tmp_path / "stereo.wav", 1.0, seed=9)).anomalous is not None
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
    by_name = detector.score(of_01, "fan")
    assert by_name.machine == "fan/01"
    assert by_name == detector.score(of_01, "fan/01")
    assert detector.score(of_01, "fan/00").score > by_name.score
    with pytest.raises(InputError, match="could be of several machines"):
        detector.score(record(tmp_path / "monday.wav", 1.0), "fan")


def test_domains_may_have_thresholds_of_their_own(small_factory: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"threshold.domains": "separate"})
    detector = nearfar.Detector.fit(small_factory, recipe)
    assert [(t.machine, t.domain, t.recordings) for t in detector.thresholds[:2]] == [
        ("hummer", "source", 8),
        ("hummer", "target", 2),
    ]
    file = clips_of(small_factory, "hummer")[0]
    by_domain = {domain: detector.score(file, domain=domain) for domain in ("source", "target", None)}
    for index, domain in enumerate(("source", "target")):
        row = by_domain[domain]
        assert (row.domain, row.threshold) == (domain, detector.thresholds[index].value)
        scores = detector.calibrations[0].scores(domain)
        assert row.p_value == (1 + (scores >= row.score).sum()) / (len(scores) + 1)
    nearest = detector._fitted.machines[0]
    position = nearest.recordings.index(by_domain[None].nearest)
    assert by_domain[None].domain == ("target" if nearest.target[position] else "source")


def test_a_split_keeps_what_it_calibrates_on_out_of_the_bank(small_factory: Path) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"calibration.method": "split"})
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer")
    (bank,), (calibration,) = detector._fitted.machines, detector.calibrations
    held = {entry.file for entry in calibration.recordings}
    assert len(bank.recordings) == 7
    assert held.isdisjoint(bank.recordings)
    assert len(held) == 3
    rows = list(detector.score_many([small_factory / "hummer" / "train" / name for name in sorted(held)]))
    scores = {entry.file: entry.score for entry in calibration.recordings}
    assert [row.score for row in rows] == pytest.approx([scores[name] for name in sorted(held)], rel=1e-5)
    assert detector.thresholds[0].guaranteed


def test_channel_warnings_are_saved(tmp_path: Path) -> None:
    for seed in range(4):
        sound = 0.1 * np.random.default_rng(seed).normal(size=16_000)
        (tmp_path / "pump").mkdir(exist_ok=True)
        sf.write(tmp_path / "pump" / f"{seed}.wav", np.stack([sound, sound], axis=1), 16_000)
    recipe = load_recipe("frozen-near").with_changes(**{"scoring.views": ["near", "far"]})
    detector = nearfar.Detector.fit(tmp_path / "pump", recipe)
    (warning,) = detector.channel_warnings
    assert (warning.kind, warning.machine) == ("identical", "pump")
    detector.save(tmp_path / "detector")
    assert nearfar.Detector.load(tmp_path / "detector").channel_warnings == detector.channel_warnings


def test_a_recording_with_one_signal_in_both_channels_is_refused(fitted: nearfar.Detector, tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).normal(size=16_000)
    sf.write(tmp_path / "twice.wav", np.stack([sound, sound], axis=1), 16_000)
    with pytest.raises(InputError, match=r"twice\.wav: found the same signal in the near and the far channel"):
        fitted.score(tmp_path / "twice.wav", machine="hummer")
    with pytest.raises(InputError, match="the same signal"):
        fitted.score(np.stack([sound, sound]).astype(np.float32), machine="hummer")
    with pytest.raises(InputError, match="the same signal"):
        nearfar.Detector.fit(tmp_path)


# --- saved and loaded -------------------------------------------------------------------------------------------


def test_a_trained_detector_carries_its_model(small_factory: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = small_recipe.with_changes(
        **{"training.steps": 2, "calibration.method": "split", "training.adaptation": "lora"}
    )
    detector = nearfar.Detector.fit(small_factory, recipe)
    assert {name.rpartition("|")[2] for name in detector._fitted.classes} == {"near", "far"}
    assert not any(threshold.guaranteed is False for threshold in detector.thresholds)
    detector.save(tmp_path / "detector")
    names = {path.name for path in (tmp_path / "detector" / "model").iterdir()}
    assert names == {"model.json", "head.safetensors", "adapter", "base"}
    card = json.loads((tmp_path / "detector" / "detector.json").read_text())
    assert card["classes"] == list(detector._fitted.classes)
    assert card["encoder"] is None
    files = clips_of(small_factory, "hummer")[:4]
    rows = list(detector.score_many(files))
    assert list(nearfar.Detector.load(tmp_path / "detector").score_many(files)) == rows
    assert rows[0].views.keys() == {"near", "far"}


def test_a_model_trained_on_all_normal_recordings_gives_no_bound(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    """And a run's model is used again where it was trained on the same recordings."""
    recipe = small_recipe.with_changes(**{"training.steps": 2, "scoring.views": ["near"]})
    run_system(recipe, small_factory, tmp_path / "run")
    before = (tmp_path / "run" / "model" / "model.json").stat().st_mtime_ns
    detector = nearfar.Detector.fit(small_factory, recipe, model=tmp_path / "run" / "model")
    assert (tmp_path / "run" / "model" / "model.json").stat().st_mtime_ns == before
    assert not any(threshold.guaranteed for threshold in detector.thresholds)
    (run,) = [entry for entry in read_scores(tmp_path / "run" / "scores") if entry.machine == "whiner"]
    rows = detector.score_many(clips_of(small_factory, "whiner"))
    np.testing.assert_allclose([row.score for row in rows], run.scores, rtol=1e-4, atol=1e-6)


def test_a_random_encoder_is_saved_and_another_is_refused(small_factory: Path, tmp_path: Path) -> None:
    from nearfar.encoders import load_encoder, save_encoder

    recipe = load_recipe("tiny-near").with_changes(**TOKENS)
    detector = nearfar.Detector.fit(small_factory, recipe)
    detector.save(tmp_path / "detector")
    assert (tmp_path / "detector" / "encoder" / "model.safetensors").is_file()
    files = clips_of(small_factory, "hummer")[:2]
    assert scores_of(nearfar.Detector.load(tmp_path / "detector"), files) == scores_of(detector, files)
    with pytest.raises(
        InputError, match=r"random:tiny:7: found an encoder with hash \w{12}; expected \w{12} \(random:"
    ):
        nearfar.Detector.load(tmp_path / "detector", encoder="random:tiny:7")

    # Of any other encoder, the folder holds the path and hash.
    save_encoder(load_encoder("random:tiny:3"), tmp_path / "weights")
    elsewhere = recipe.with_changes(**{"encoder.weights": str(tmp_path / "weights")})
    named = nearfar.Detector.fit(small_factory, elsewhere)
    named.save(tmp_path / "named")
    assert not (tmp_path / "named" / "encoder").exists()
    assert json.loads((tmp_path / "named" / "detector.json").read_text())["encoder"] == {
        "weights": str((tmp_path / "weights").resolve()),
        "revision": None,
        "hash": named._fitted.encoder.hash,
    }
    (tmp_path / "weights").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no such file or folder"):
        nearfar.Detector.load(tmp_path / "named")
    moved = nearfar.Detector.load(tmp_path / "named", encoder=str(tmp_path / "moved"))
    assert scores_of(moved, files) == scores_of(named, files)


# --- arguments and errors ---------------------------------------------------------------------------------------


def test_one_recording_has_one_score_and_many_an_iterator(fitted: nearfar.Detector, small_factory: Path) -> None:
    files = clips_of(small_factory, "hummer")[:2]
    one = fitted.score(files[0])
    assert isinstance(one, nearfar.Score)
    many = fitted.score_many(files)
    assert iter(many) is many
    assert next(many) == one
    with pytest.raises(InputError, match="found a list of recordings; expected one recording"):
        fitted.score(files)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="recordings: found none"):
        fitted.score_many([])
    with pytest.raises(InputError, match="domain: found 'sorce'; expected 'source' or 'target'"):
        fitted.score_many(files, domain="sorce")
    with pytest.raises(InputError, match="machine: found 'lathe'; expected one of hummer, whiner"):
        fitted.score_many(files, "lathe")


def test_unknown_rules_are_refused_with_the_names_that_there_are(fitted: nearfar.Detector) -> None:
    expected = "found 'gama'; expected 'conformal', 'gamma' or 'empirical', did you mean 'gamma'?"
    with pytest.raises(InputError, match=re.escape(expected)):
        fitted.with_thresholds(0.2, "gama")
    with pytest.raises(InputError, match=r"false_alarm_rate: found 1\.5; expected a number between 0 and 1"):
        fitted.with_thresholds(1.5)
    with pytest.raises(InputError, match="domains: found 'both'; expected 'pooled' or 'separate'"):
        fitted.with_thresholds(0.2, domains="both")
    assert {entry.rule for entry in fitted.with_thresholds(0.2, "empirical").thresholds} == {"empirical"}
    assert {entry.rule for entry in fitted.thresholds} == {"conformal"}


def test_representations_are_short(fitted: nearfar.Detector, small_factory: Path) -> None:
    assert repr(fitted) == "Detector('auto', machines: hummer, whiner; 20 normal recordings)"
    shown = repr(fitted.score(clips_of(small_factory, "hummer")[0]))
    assert shown.startswith("Score(file=")
    assert "windows" not in shown
    assert "tensor" not in shown
    assert len(shown) < 1000


def test_networks_run_on_the_device_that_is_given(small_factory: Path, tmp_path: Path) -> None:
    recipe = load_recipe("tiny-near").with_changes(**TOKENS)
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer", device="cpu")
    detector.save(tmp_path / "detector")
    file = clips_of(small_factory, "hummer")[0]
    score = detector.score(file)
    assert nearfar.Detector.load(tmp_path / "detector", device="cpu").score(file, device="cpu") == score
    for wrong in (  # no computation is possible on the meta device
        lambda: nearfar.Detector.fit(small_factory, recipe, machine="hummer", device="meta"),
        lambda: nearfar.Detector.load(tmp_path / "detector", device="meta").score(file),
        lambda: nearfar.Detector.load(tmp_path / "detector").score(file, device="meta"),
    ):
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            wrong()


def test_a_detector_of_autoencoders(small_factory: Path, tmp_path: Path) -> None:
    """It needs recordings that are held out, as an autoencoder cannot leave one of its recordings out."""
    recipe = load_recipe("ae-mse").with_changes(**{"autoencoder.epochs": 2})
    with pytest.raises(InputError, match=r"calibration\.method: found 'leave-one-out'.*to 'split'"):
        nearfar.Detector.fit(small_factory, recipe.with_changes(**{"calibration.method": "leave-one-out"}))
    detector = nearfar.Detector.fit(small_factory, recipe)
    assert {entry.normals for entry in detector.thresholds} == {"held out"}
    assert all(entry.value is not None for entry in detector.thresholds)
    files = clips_of(small_factory, "hummer")[:3]
    scores = scores_of(detector, files)
    assert len({entry.score for entry in scores}) == 3
    assert all((entry.nearest, entry.nearest_file, entry.windows[0].nearest) == (None,) * 3 for entry in scores)
    assert all(entry.anomalous is not None and entry.departure is not None for entry in scores)
    detector.save(tmp_path / "detector")
    assert {path.suffix for path in (tmp_path / "detector" / "model").iterdir()} == {".json", ".safetensors"}
    assert scores_of(nearfar.Detector.load(tmp_path / "detector"), files) == scores


def test_advice_for_mono_recordings_can_be_followed(tmp_path: Path) -> None:
    """Errors name the folder that was given, and a recipe that fit accepts."""
    folder = tmp_path / "pump"
    for seed in range(4):
        record(folder / f"{seed}.wav", 1.0, channels=1, seed=seed)
    with pytest.raises(InputError) as caught:
        nearfar.Detector.fit(folder, "nearfar-best")
    assert str(caught.value).startswith(f"{folder}/0.wav: found one channel")
    advised = re.search(r"such as ([a-z-]+)", caught.value.remedy)
    assert advised is not None
    assert nearfar.Detector.fit(folder, advised[1]).recipe.name == "frozen-near"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError) as caught:
        nearfar.Detector.fit(tmp_path / "nothing")
    assert str(caught.value).startswith(f"{tmp_path / 'nothing'}: ")


def test_short_representations(fitted: nearfar.Detector, small_factory: Path) -> None:
    file = clips_of(small_factory, "hummer")[0]
    score = fitted.score(file)
    assert repr(score) == (
        f"Score(file={str(file)!r}, machine='hummer', score={score.score:.4g}, threshold={score.threshold:.4g}, "
        f"anomalous={score.anomalous})"
    )
    assert repr(load_recipe("eat-near")).startswith("Recipe('eat-near', 'System 3")
    assert max(len(repr(each)) for each in (fitted, score, load_recipe("eat-near"))) < 300
