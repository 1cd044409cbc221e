"""Loaded detectors stay within a bound of memory, are the saved ones, and follow changes of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

import nearfar
from nearfar.config import load_recipe
from nearfar.detector import Detector
from nearfar.detector.loaded import COPIES, LoadedDetectors
from nearfar.errors import InputError


@pytest.fixture
def folders(fitted: Detector, tmp_path: Path) -> list[Path]:
    out = [tmp_path / str(number) for number in range(4)]
    for folder in out:
        fitted.save(folder)
    return out


def bank_bytes(folder: Path) -> int:
    return (folder / "banks.safetensors").stat().st_size


def test_the_ones_used_longest_ago_are_dropped(folders: list[Path]) -> None:
    size = COPIES * bank_bytes(folders[0])
    loaded = LoadedDetectors(3 * size)
    first = [loaded.get(folder) for folder in folders[:3]]
    assert (len(loaded), loaded.loads, loaded.nbytes) == (3, 3, 3 * size)
    assert loaded.get(folders[0]) is first[0]
    loaded.get(folders[3])  # drops 1, as 0 was used since
    assert (len(loaded), loaded.loads) == (3, 4)
    assert loaded.get(folders[0]) is first[0]
    assert loaded.get(folders[1]) is not first[1]
    assert loaded.loads == 5
    assert loaded.nbytes <= loaded.most_bytes


def test_a_detector_larger_than_the_bound_is_loaded_alone(folders: list[Path]) -> None:
    loaded = LoadedDetectors(1)
    for folder in folders:
        loaded.get(folder)
        assert len(loaded) == 1
    assert loaded.get(folders[-1]) is loaded.get(str(folders[-1]))


def test_scores_are_those_of_the_detector(fitted: Detector, folders: list[Path], small_factory: Path) -> None:
    files = sorted((small_factory / "hummer" / "test").iterdir())
    expected = [score.score for score in fitted.score_many(files)]
    assert [score.score for score in LoadedDetectors().get(folders[0]).score_many(files)] == expected


def test_a_detector_that_was_changed_is_loaded_again(fitted: Detector, folders: list[Path]) -> None:
    loaded = LoadedDetectors()
    before = loaded.get(folders[0])
    changed = fitted.with_thresholds(0.5)
    changed.save(folders[0], replace=True)
    after = loaded.get(folders[0])
    assert after is not before
    assert after.thresholds == changed.thresholds != before.thresholds
    assert len(loaded) == 1


def test_missing_folders_and_bounds_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing: found no such folder"):
        LoadedDetectors().get(tmp_path / "missing")
    with pytest.raises(InputError, match="most_bytes: found 0"):
        LoadedDetectors(0)


def test_detectors_of_one_frozen_encoder_share_it(small_factory: Path, tmp_path: Path) -> None:
    tokens = {"features.source": "tokens", "features.pooling": "mean", "encoder.weights": "eat-tiny"}
    recipe = load_recipe("frozen-near").with_changes(**tokens)
    detector = nearfar.Detector.fit(small_factory, recipe, machine="hummer")
    for name in "ab":
        detector.save(tmp_path / name)
    loaded = LoadedDetectors()
    encoders = [loaded.get(tmp_path / name)._fitted.extractor.parts.encoder for name in "ab"]
    assert encoders[0] is not None
    assert encoders[0] is encoders[1]
