"""Recordings with each fault, and without."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from pydantic import TypeAdapter
from scipy.signal import fftconvolve

from nearfar.data.audio import read_beginning, read_waveform
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.data.clips import Clip, parse_clip
from nearfar.data.layouts import Dataset, read_dataset
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.errors import InputError

RATE = 16_000
CLIPS = 6
Pair = tuple[np.ndarray, np.ndarray]
Fault = Callable[[np.ndarray, np.ndarray], Pair]


@functools.cache
def pair(seed: int, seconds: float = 3.0) -> Pair:
    """A machine at near, and at far 7 ms later with echoes; each channel has its own noise. Not to be changed."""
    random = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    sound = random.standard_normal(samples + 8_000)
    echoes = np.exp(-np.arange(3_000) / 800) * random.standard_normal(3_000) * 0.12
    response = np.concatenate([np.zeros(112), [1.0], echoes])
    far = fftconvolve(sound, response)[: len(sound)]
    near, far = (x[8_000:] + 0.2 * random.standard_normal(samples) for x in (sound, far))
    return 0.05 * near, 0.02 * far


def write(folder: Path, fault: Fault, machine: str = "pump") -> list[Clip]:
    clips = []
    for index in range(CLIPS):
        path = folder / machine / "train" / f"section_00_source_train_normal_{index:04d}_noAttribute.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.stack(fault(*pair(index)), axis=1), RATE, subtype="PCM_16")
        clips.append(parse_clip(path, machine, "train"))
    return clips


def of(clips: list[Clip]) -> Dataset:
    return Dataset(Path("recordings"), tuple(clips))


def late(near: np.ndarray, far: np.ndarray) -> Pair:
    return near[800:], far[:-800]


def early(near: np.ndarray, far: np.ndarray) -> Pair:
    return near[:-1_600], far[1_600:]


def drifting(near: np.ndarray, far: np.ndarray) -> Pair:
    time = np.arange(len(far))
    return near, np.interp(time * (1 - 150e-6), time, far)


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "dead far": ("dead", lambda near, far: (near, 0 * far), "the far channel is silent"),
    "far unplugged": ("dead", lambda near, far: (near, 0.002 * far), "the far channel is silent"),
    "dead near": ("dead", lambda near, far: (0 * near, far), "the near channel is silent"),
    "both dead": ("dead", lambda near, far: (0 * near, 0 * far), "both channels are silent"),
    "identical": ("identical", lambda near, far: (near, near), "the same signal but for a gain"),
    "identical but for gain and sign": ("identical", lambda near, far: (near, -0.4 * near), "the same signal"),
    "overdriven": ("clipped", lambda near, far: (np.clip(near, -0.1, 0.1), far), "the sound is clipped"),
    "far overdriven": ("clipped", lambda near, far: (near, np.clip(60 * far, -1, 1)), "the sound is clipped"),
    "far late": ("misaligned", late, "far is about 57 ms later than near, which is more than the 30 ms"),
    "far early": ("misaligned", early, "far is about 93 ms earlier than near"),
    "drift": ("drift", drifting, "far runs behind near by about 1"),
    "swapped": ("swapped", lambda near, far: (far, near), "the channels look swapped"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_gives_one_warning(name: str, tmp_path: Path) -> None:
    kind, fault, message = FAULTS[name]
    clips = write(tmp_path, fault)
    (warning,) = check_channels(of(clips))
    assert (warning.kind, warning.machine, warning.checked) == (kind, "pump", CLIPS)
    assert warning.files == tuple(clip.name for clip in clips)
    assert warning.message.startswith(f"In {CLIPS} of {CLIPS} recordings that were checked, such as section_00_")
    assert message in warning.message
    assert warning.remedy.endswith(".")
    assert str(warning) == f"pump: {warning.message} {warning.remedy}"


def test_good_recordings_have_no_warnings(tmp_path: Path) -> None:
    assert check_channels(of(write(tmp_path, lambda near, far: (near, far)))) == []


def test_a_louder_far_microphone_gives_no_warning(tmp_path: Path) -> None:
    assert check_channels(of(write(tmp_path, lambda near, far: (near, 4 * far)))) == []


def test_exchanged_channels_with_exchanged_numbers_have_no_warning(tmp_path: Path) -> None:
    clips = write(tmp_path, lambda near, far: (far, near))
    assert check_channels(of(clips), near=1, far=0) == []


def test_a_loud_tone_is_not_clipped(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 50 * np.arange(3 * RATE) / RATE)
    assert check_channels(of(write(tmp_path, lambda near, far: (0.1 * near + tone, far)))) == []


def test_only_recordings_with_the_fault_are_listed(tmp_path: Path) -> None:
    clips = write(tmp_path / "a", lambda near, far: (near, far))
    clips += write(tmp_path / "b", lambda near, far: (near, 0 * far), machine="fan")
    sf.write(clips[1].path, np.stack([pair(1)[0], np.zeros(3 * RATE)], axis=1), RATE, subtype="PCM_16")
    fan, pump = check_channels(of(clips))
    assert (pump.machine, pump.kind, pump.files) == ("pump", "dead", (clips[1].name,))
    assert (fan.machine, fan.kind, len(fan.files)) == ("fan", "dead", CLIPS)


def test_near_can_be_read_without_a_working_far_microphone(tmp_path: Path) -> None:
    clips = write(tmp_path, lambda near, far: (near, 0 * far))
    assert read_waveform(clips[0].path, ("near",)).shape == (1, 3 * RATE)
    with pytest.raises(InputError, match="a silent far channel"):
        read_waveform(clips[0].path)


def test_recordings_that_cannot_be_checked_are_skipped(tmp_path: Path) -> None:
    clips = write(tmp_path, lambda near, far: (near, far))
    clips[0].path.write_bytes(b"no sound at all")
    sf.write(clips[1].path, pair(1)[0], RATE)
    broken = np.stack(pair(2), axis=1)
    broken[5] = np.nan
    sf.write(clips[2].path, broken, RATE, subtype="FLOAT")
    sf.write(clips[3].path, np.stack(pair(3, 0.1), axis=1), RATE)
    sf.write(clips[4].path, np.stack(pair(4, 1.0), axis=1), 44_100)  # others have another rate
    assert check_channels(of(clips)) == []
    assert check_channels(of([])) == []


def test_a_sample_is_checked_and_progress_is_reported(tmp_path: Path) -> None:
    clips = write(tmp_path, lambda near, far: (near, 0 * far))
    many = [clip for _ in range(5) for clip in clips]
    steps: list[tuple[str, int, int]] = []
    (warning,) = check_channels(of(many), progress=lambda *step: steps.append(step))
    assert warning.checked == 10
    assert steps == [("checking channels", done, 10) for done in range(1, 11)]


def test_warnings_round_trip_through_json() -> None:
    warning = ChannelWarning("drift", "pump", ("a.wav", "b.wav"), 12, "It drifts.", "Stop it.")
    assert TypeAdapter(ChannelWarning).validate_json(json.dumps(warning.to_json())) == warning


def test_the_beginning_is_read_as_recorded(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.stack([*pair(0), np.zeros(3 * RATE)], axis=1), RATE, subtype="FLOAT")
    samples, rate_hz = read_beginning(tmp_path / "a.wav", 0.5)
    assert samples.shape == (3, RATE // 2)
    assert samples.dtype == np.float32
    assert rate_hz == RATE
    np.testing.assert_allclose(samples[1], pair(0)[1][: RATE // 2], atol=1e-7)
    assert read_beginning(tmp_path / "a.wav", 60.0)[0].shape == (3, 3 * RATE)


def test_simulated_factories_have_no_warnings(tmp_path: Path) -> None:
    plan = FactoryPlan(("gearbox", "valve", "pump"), 6, 4, 1, clip_seconds=2.0, snr_db=(-6.0, 10.0), seed=5)
    dataset = read_dataset(simulate_factory(plan, tmp_path / "factory"))
    assert check_channels(dataset) == []


def test_real_machines_in_noise_have_no_warnings(shared: Path) -> None:
    dataset = read_dataset(shared / "data" / "realmix")
    steps: list[int] = []
    assert check_channels(dataset, progress=lambda task, done, total: steps.append(total)) == []
    assert steps == [64] * 64
