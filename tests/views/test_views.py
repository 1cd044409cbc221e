"""Views of a recording: what they need, how they are made, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from nearfar.cancellation import Cancellation, cancel
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.settings import PositiveFloat, Settings
from nearfar.views import (
    VIEWS,
    View,
    channels_of,
    combined_features,
    make_views,
    read_views,
    required_waveforms,
)
from nearfar.views.far_channel import Residual

RATE = 16_000


def noise(seed: int, samples: int = 8_000) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


class Gain(Settings):
    """``far_gain``: of the toy view."""

    far_gain: PositiveFloat = 2.0


@pytest.fixture
def toy() -> Iterator[None]:
    """A view of waveforms with settings, and a view of features that needs it and the residual."""
    VIEWS["louder-far"] = View(
        description="far times {far_gain:g}",
        settings=Gain,
        channels=("far",),
        waveform=lambda recorded, settings, rate: np.float32(settings.far_gain) * recorded["far"],
    )
    VIEWS["sum"] = View(
        description="sum of two views",
        views=("louder-far", "residual"),
        combine=lambda features, _: features["louder-far"] + features["residual"],
    )
    yield
    del VIEWS["louder-far"], VIEWS["sum"]


# --- what views are made of -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "waveforms", "channels"),
    [
        (["near"], ("near",), ("near",)),
        (["far"], ("far",), ("far",)),
        (["far", "near"], ("far", "near"), ("near", "far")),
        (["cancelled"], ("cancelled",), ("near", "far")),
        (["residual"], ("near", "far"), ("near", "far")),
        (["far", "residual"], ("far", "near"), ("near", "far")),
        (["louder-far"], ("louder-far",), ("far",)),
        (["sum"], ("louder-far", "near", "far"), ("near", "far")),
    ],
    ids=lambda names: "-".join(names),
)
@pytest.mark.usefixtures("toy")
def test_views_need_waveforms_and_these_need_channels(
    views: list[str], waveforms: tuple[str, ...], channels: tuple[str, ...]
) -> None:
    assert required_waveforms(views) == waveforms
    assert channels_of(views) == channels


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"view: found 'cancelle'; .*'pair', did you mean 'cancelled'\?"):
        required_waveforms(["near", "cancelle"])


# --- waveforms --------------------------------------------------------------------------------------------------


def test_rows_are_the_views_in_the_order_asked_for() -> None:
    near, far = noise(0), noise(1)
    made = make_views({"near": near, "far": far}, ("far", "cancelled", "near"))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.stack([far, cancel(near, far), near]))


@pytest.mark.usefixtures("toy")
def test_every_view_has_settings_of_its_own() -> None:
    near, far = noise(0), noise(1)
    limited = Cancellation(gain_limit=0.01)
    settings = {"cancelled": limited, "louder-far": Gain(far_gain=3.0)}
    made = make_views({"near": near, "far": far}, ("cancelled", "louder-far"), settings)
    np.testing.assert_array_equal(made, np.stack([cancel(near, far, limited), np.float32(3.0) * far]))
    default = make_views({"near": near, "far": far}, ("cancelled", "louder-far"))
    np.testing.assert_array_equal(default, np.stack([cancel(near, far), np.float32(2.0) * far]))
    assert not np.array_equal(made[0], default[0])


def test_the_sample_rate_reaches_the_search_for_a_delay() -> None:
    far = noise(2)
    near = np.roll(far, 40)
    near[:40] = 0.0
    settings = {"cancelled": Cancellation(window_samples=64, hop_samples=32, delay_search_ms=3.0)}
    left = {}
    for rate in (8_000, 16_000):  # 40 samples are 5 ms of one and 2.5 ms of the other
        left[rate] = float(
            np.square(make_views({"near": near, "far": far}, ("cancelled",), settings, rate)).mean()
        )
    assert left[16_000] < 0.1 * left[8_000]


@pytest.mark.parametrize(("near", "far"), [(0, 1), (1, 0), (2, 0)])
def test_a_file_s_channels_are_chosen(near: int, far: int, tmp_path: Path) -> None:
    path = tmp_path / "three.wav"
    sf.write(path, np.stack([noise(seed) for seed in range(3)], axis=1), RATE, subtype="FLOAT")
    channels = [noise(seed) for seed in range(3)]
    made = read_views(path, ("near", "far", "cancelled"), near=near, far=far)
    expected = [channels[near], channels[far], cancel(channels[near], channels[far])]
    np.testing.assert_allclose(made, np.stack(expected), atol=1e-6)


def test_a_mono_file_suffices_for_near_and_for_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mono.wav"
    sf.write(path, noise(0), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_views(path, ("near",))[0], noise(0), atol=1e-6)
    for view in ("far", "cancelled"):
        with pytest.raises(InputError, match=r"mono\.wav"):
            read_views(path, (view,))


def test_one_signal_in_both_channels_is_refused_where_it_would_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "twice.wav"
    sf.write(path, np.stack([noise(0)] * 2, axis=1), RATE)
    with pytest.raises(InputError, match=r"twice\.wav: found the same signal in the near and the far channel"):
        read_views(path, ("near", "cancelled"))
    near, far = read_views(path, ("near", "far"))
    np.testing.assert_array_equal(near, far)


# --- features ---------------------------------------------------------------------------------------------------


def test_the_residual_is_near_less_a_part_of_far() -> None:
    near, far = torch.ones(2, 1, 3), torch.full((2, 1, 3), 4.0)
    made = combined_features({"near": near, "far": far}, ("residual", "near"))
    assert list(made) == ["residual", "near"]
    torch.testing.assert_close(made["residual"], torch.full((2, 1, 3), -1.0))
    assert made["near"] is near
    quarter = combined_features(
        {"near": near, "far": far}, ("residual",), {"residual": Residual(residual_alpha=0.25)}
    )
    torch.testing.assert_close(quarter["residual"], torch.zeros(2, 1, 3))


@pytest.mark.usefixtures("toy")
def test_a_view_of_features_may_need_another_one() -> None:
    features = {name: torch.full((2, 1, 3), float(value)) for name, value in (("near", 5), ("far", 2))}
    features["louder-far"] = torch.full((2, 1, 3), 7.0)
    made = combined_features(features, ("sum",), {"residual": Residual(residual_alpha=2.0)})
    torch.testing.assert_close(made["sum"], torch.full((2, 1, 3), 7.0 + 5.0 - 2.0 * 2.0))


# --- in a recipe ------------------------------------------------------------------------------------------------


def test_a_recipe_gives_views_the_settings_of_their_tables() -> None:
    recipe = load_recipe("eat-near").with_changes(
        **{
            "scoring.views": ["residual", "near", "cancelled"],
            "scoring.residual_alpha": 0.25,
            "cancellation.gain_limit": 1.0,
        }
    )
    settings = recipe.view_settings()
    assert settings["residual"] == Residual(residual_alpha=0.25)
    assert settings["cancelled"] == Cancellation(gain_limit=1.0)
    assert recipe.waveform_views == ("near", "far", "cancelled")
    assert recipe.channels == ("near", "far")


def test_a_view_of_features_cannot_be_trained_on() -> None:
    with pytest.raises(InputError, match=r"training\.views = .*'near', 'far', 'cancelled' or 'pair'"):
        load_recipe("eat-near").with_changes(**{"training.views": ["near", "residual"]})
