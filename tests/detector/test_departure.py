"""Explanations that agree with scores: region, sentence, numbers and verdict, on noise with known faults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

import nearfar
from nearfar.config import Recipe, load_recipe

RATE_HZ = 16_000


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    """(2, samples) independent noise of equal level in both channels."""
    return 0.02 * np.random.default_rng(seed).standard_normal((2, round(seconds * RATE_HZ)))


def band(samples: np.ndarray, low_hz: float, high_hz: float, gain: float) -> np.ndarray:
    """The same with the near channel amplified in a band."""
    out = samples.copy()
    spectrum, hz = np.fft.rfft(out[0]), np.fft.rfftfreq(out.shape[1], 1 / RATE_HZ)
    out[0] = np.fft.irfft(np.where((hz > low_hz) & (hz < high_hz), gain * spectrum, spectrum), out.shape[1])
    return out


def fitted(folder: Path, recipe: Recipe) -> nearfar.Detector:
    for seed in range(24):
        soundfile.write(folder / f"{seed:02d}.wav", noise(seed).T, RATE_HZ, subtype="FLOAT")
    return nearfar.Detector.fit(folder, recipe)


@pytest.fixture(scope="module")
def by_band(tmp_path_factory: pytest.TempPathFactory) -> nearfar.Detector:
    return fitted(tmp_path_factory.mktemp("bands"), load_recipe("frozen-near"))


@pytest.fixture(scope="module")
def with_level(tmp_path_factory: pytest.TempPathFactory) -> nearfar.Detector:
    recipe = load_recipe("frozen-near").with_changes(**{"features.remove_level": False})
    return fitted(tmp_path_factory.mktemp("level"), recipe)


@pytest.mark.parametrize(("gain", "word"), [(2.0, "louder"), (0.5, "quieter")])
def test_a_louder_and_a_quieter_band_are_named(by_band: nearfar.Detector, gain: float, word: str) -> None:
    score = by_band.score(band(noise(100), 1850, 2650, gain).astype(np.float32))
    found = score.departure
    assert score.anomalous
    assert found is not None
    assert found.notable
    assert (found.low_hz, found.high_hz) == (pytest.approx(1803, abs=1), pytest.approx(2709, abs=1))
    decibels = re.search(rf"1\.8 to 2\.7 kHz: (\d) dB {word} relative to the whole spectrum", found.sentence)
    assert decibels, found.sentence
    assert int(decibels[1]) in (5, 6), "6 dB in nearly all of the band's bins"
    level = [c for c in score.contributions if c.low_hz == found.low_hz and c.kind.startswith("level")]
    assert np.sign(level[0].difference_db) == (1 if gain > 1 else -1)


def test_contributions_add_up_and_the_share_is_theirs(by_band: nearfar.Detector) -> None:
    for samples in (noise(101), band(noise(102), 1850, 2650, 2.0), band(noise(103), 300, 6000, 1.5)):
        score = by_band.score(samples.astype(np.float32))
        shares = np.array([entry.share for entry in score.contributions])
        assert shares.sum() == pytest.approx(score.score, rel=1e-6)
        assert len(shares) == 8 * 4, "eight bands, the level and the changes over three lags"
        assert list(shares) == sorted(shares, reverse=True)
        found = score.departure
        inside = [c.share for c in score.contributions if found.low_hz <= c.low_hz and c.high_hz <= found.high_hz]
        assert found.share == pytest.approx(sum(inside) / shares[shares > 0].sum())


def test_sentence_and_numbers_name_the_same_region(by_band: nearfar.Detector) -> None:
    quiet = noise(104)
    quiet[0, 8_000:12_000] += 0.1 * np.sin(2 * np.pi * 3200 * np.arange(4_000) / RATE_HZ)
    score = by_band.score(quiet.astype(np.float32))
    found = score.departure
    assert score.anomalous
    assert found.low_hz < 3200 < found.high_hz
    assert found.begin_s == pytest.approx(0.5, abs=0.1)
    assert found.end_s == pytest.approx(0.75, abs=0.15)
    times = f"{found.begin_s:.1f} to {found.end_s:.1f} s"
    assert found.sentence.startswith(f"{times}, {found.low_hz / 1000:.1f} to {found.high_hz / 1000:.1f} kHz: ")
    assert f"{100 * found.share:.0f} % of the score" in found.sentence


def test_a_clip_that_is_merely_louder_is_called_louder(with_level: nearfar.Detector) -> None:
    for gain, word in ((2.0, "6 dB louder"), (0.5, "6 dB quieter")):
        samples = noise(105)
        samples[0] *= gain
        score = with_level.score(samples.astype(np.float32))
        assert score.anomalous
        assert f": {word} than the nearest normal recordings" in score.departure.sentence
        assert "relative to" not in score.departure.sentence


def test_a_normal_recording_is_not_said_to_be_anomalous(by_band: nearfar.Detector) -> None:
    scores = [by_band.score(noise(seed).astype(np.float32)) for seed in range(110, 118)]
    normal = [score for score in scores if not score.anomalous]
    assert len(normal) >= 6
    for score in scores:
        assert score.departure.notable == score.anomalous
        assert score.departure.sentence.startswith("Not anomalous; ") != score.anomalous
        assert "Nothing stands out" not in score.departure.sentence


def test_a_bank_that_does_not_vary_gives_no_contributions(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "0.wav", noise(0).T, RATE_HZ, subtype="FLOAT")
    score = nearfar.Detector.fit(tmp_path, "frozen-near").score(noise(1).astype(np.float32))
    assert score.score == 0.0
    assert score.threshold is None
    assert {entry.share for entry in score.contributions} == {0.0}
    assert score.departure.share is None


def test_the_most_anomalous_window_is_explained(by_band: nearfar.Detector) -> None:
    long = np.concatenate([noise(120, 3.0), band(noise(121), 1850, 2650, 2.0), noise(122, 2.0)], axis=1)
    score = by_band.score(long.astype(np.float32))
    assert score.anomalous
    assert 3.0 <= score.departure.begin_s < score.departure.end_s <= 4.0
    assert score.departure.low_hz == pytest.approx(1803, abs=1)
    assert sum(entry.share for entry in score.contributions) == pytest.approx(score.score, rel=1e-6)


@pytest.mark.parametrize("fusion", ["mean", "standardised"])
def test_contributions_of_several_views_add_up(tmp_path: Path, fusion: str) -> None:
    changes = {"scoring.views": ["near", "far"], "scoring.fusion": fusion}
    detector = fitted(tmp_path, load_recipe("frozen-near").with_changes(**changes))
    score = detector.score(band(noise(130), 1850, 2650, 2.0).astype(np.float32))
    assert score.anomalous
    assert {entry.view for entry in score.contributions} == {"near", "far"}
    assert sum(entry.share for entry in score.contributions) == pytest.approx(score.score, rel=1e-6)
    assert score.departure.low_hz == pytest.approx(1803, abs=1)
    assert "than the nearest normal recordings in the view near" in score.departure.sentence


@pytest.mark.parametrize("keep_bands", [False, True])
def test_tokens_are_explained_by_band_where_they_are_pooled_by_band(tmp_path: Path, keep_bands: bool) -> None:
    changes = {"encoder.weights": "random:tiny", "features.keep_bands": keep_bands, "scoring.views": ["near"]}
    detector = fitted(tmp_path, load_recipe("frozen-eat").with_changes(**changes))
    score = detector.score(band(noise(140), 1850, 2650, 4.0).astype(np.float32))
    assert score.anomalous
    assert sum(entry.share for entry in score.contributions) == pytest.approx(score.score, rel=1e-6)
    assert all(entry.difference_db is None for entry in score.contributions), "a token has no unit"
    sentence = score.departure.sentence
    assert "Nothing stands out" not in sentence
    if keep_bands:
        assert 0 < score.departure.share <= 1
        assert " unlike the nearest normal recordings" in sentence
    else:
        assert score.departure.share is None
        assert sentence.startswith("The least usual part of the spectrogram, ")
        assert [(entry.low_hz, entry.high_hz) for entry in score.contributions] == [(20.0, 8000.0)]


def test_contributions_are_written_as_json(by_band: nearfar.Detector) -> None:
    score = by_band.score(noise(150).astype(np.float32))
    tree = json.loads(json.dumps(score.to_json()))
    assert set(tree["contributions"][0]) == {"view", "low_hz", "high_hz", "kind", "share", "difference_db"}
    assert sum(entry["share"] for entry in tree["contributions"]) == pytest.approx(tree["score"], rel=1e-6)
    assert tree["departure"]["share"] == score.departure.share


def test_every_window_of_a_long_recording_can_be_explained(by_band: nearfar.Detector, tmp_path: Path) -> None:
    """Few of its spectrograms are kept: those of a file are computed again, and all of an array are kept."""
    for second in (0, 7, 18, 29):
        parts = [noise(200 + number) for number in range(30)]
        parts[second] = band(parts[second], 1850, 2650, 2.0)
        samples = np.concatenate(parts, axis=1).astype(np.float32)
        soundfile.write(tmp_path / "long.wav", samples.T, RATE_HZ, subtype="FLOAT")
        for source in (tmp_path / "long.wav", samples):
            score = by_band.score(source)
            assert len(score.windows) == 30
            found = score.departure
            assert found is not None, second
            assert second <= found.begin_s < found.end_s <= second + 1.1
            assert (found.low_hz, found.high_hz) == (pytest.approx(1803, abs=1), pytest.approx(2709, abs=1))
            assert found.sentence.startswith(f"{found.begin_s:.1f} to {found.end_s:.1f} s, 1.8 to 2.7 kHz: ")
