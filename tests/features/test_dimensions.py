"""What sources state about their dimensions, against features of sounds that differ in one band and quantity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nearfar.explain.dimensions import Group
from nearfar.features import SOURCES, EncoderParts, WindowBatch

RATE_HZ, SECONDS = 16_000, 2.0
TIME = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ


def noise(seed: int = 0) -> np.ndarray:
    return 0.02 * np.random.default_rng(seed).standard_normal(len(TIME))


def tone(hz: float, pulses_hz: float = 0.0) -> np.ndarray:
    """A tone, by choice switched on and off."""
    on = 1.0 if not pulses_hz else (np.sin(2 * np.pi * pulses_hz * TIME) > 0).astype(float)
    return np.asarray(0.1 * on * np.sin(2 * np.pi * hz * TIME))


def features(source: str, settings: Any, waveform: np.ndarray) -> torch.Tensor:
    batch = WindowBatch(torch.from_numpy(waveform.astype(np.float32))[None], torch.tensor([len(waveform)]))
    return SOURCES[source].extract(batch, EncoderParts(), [settings])[0]


def most_different(source: str, settings: Any, fault: np.ndarray) -> tuple[Group, float]:
    """The group of the dimension that a fault changes most, and by how much."""
    change = (features(source, settings, noise() + fault) - features(source, settings, noise()))[0]
    dimensions = SOURCES[source].dimensions(settings, (change.shape[0], change.shape[1]))
    assert dimensions.index.shape == change.shape
    largest = int(change.abs().argmax())
    return dimensions.groups[int(dimensions.index.flatten()[largest])], float(change.flatten()[largest])


LOG_MEL = [{"lags": lags, "keep_bands": bands} for lags in ((), (1, 4, 16)) for bands in (False, True)]


@pytest.mark.parametrize("changes", LOG_MEL)
@pytest.mark.parametrize("hz", [500.0, 3200.0, 6500.0])
def test_a_steady_tone_raises_the_level_of_its_band(changes: dict[str, Any], hz: float) -> None:
    group, change = most_different("log-mel", SOURCES["log-mel"].settings(**changes), tone(hz))
    assert group.low_hz < hz < group.high_hz
    assert (group.quantity.name, group.quantity.more) == (
        "level relative to the whole spectrum",
        "louder relative to the whole spectrum",
    )
    assert change > 0


@pytest.mark.parametrize(("changes", "expected"), [(LOG_MEL[0], "variation"), (LOG_MEL[3], "change over 160 ms")])
def test_a_tone_that_is_switched_varies_in_its_band(changes: dict[str, Any], expected: str) -> None:
    # On for 200 ms and off for 200 ms: half of the frames 160 ms apart differ by the whole tone.
    settings = SOURCES["log-mel"].settings(**changes, remove_level=False)
    steady = features("log-mel", settings, noise() + 0.5 * tone(3200.0))
    switched = features("log-mel", settings, noise() + tone(3200.0, 2.5))
    change = (switched - steady)[0]
    dimensions = SOURCES["log-mel"].dimensions(settings, (change.shape[0], change.shape[1]))
    group = dimensions.groups[int(dimensions.index.flatten()[int(change.argmax())])]
    assert group.low_hz < 3200 < group.high_hz
    assert (group.quantity.name, group.quantity.more) == (expected, "more variable")


def test_without_removal_the_level_is_not_relative() -> None:
    group, _ = most_different("log-mel", SOURCES["log-mel"].settings(remove_level=False), tone(3200.0))
    assert (group.quantity.name, group.quantity.more, group.quantity.less) == ("level", "louder", "quieter")


def test_frames_of_the_autoencoders_front_end_have_the_band_of_their_mel_bin() -> None:
    group, change = most_different("slaney", SOURCES["slaney"].settings(), tone(3200.0))
    assert group.low_hz < 3200 < group.high_hz
    assert change > 0
    assert group.quantity.to_db == 1.0, "its frames are in dB"


def test_tokens_that_are_not_kept_by_band_are_of_the_whole_spectrum() -> None:
    for name in ("embedding", "tokens"):
        found = SOURCES[name].dimensions(SOURCES[name].settings(), (2, 6))
        assert [(group.low_hz, group.high_hz) for group in found.groups] == [(20.0, 8000.0)]
        assert found.index.tolist() == [[0] * 6] * 2
    layered = SOURCES["tokens"].settings(layers=(2, 4), keep_bands=True)
    found = SOURCES["tokens"].dimensions(layered, (16, 6))
    assert found.groups[int(found.index[9, 0])].quantity.name == "tokens of block 4"
    assert found.groups[int(found.index[9, 0])].low_hz == found.groups[int(found.index[1, 0])].low_hz
