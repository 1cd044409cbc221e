"""The front end against torchaudio's Kaldi fbank (golden_arrays) and a float64 loop over frames (here)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nearfar.frontends.kaldi import (
    KaldiFbank,
    frame_count,
    mel_bank,
    mel_centres_hz,
    padded_frame_count,
)

FLOOR = math.log(2.0**-23)
EMPTY_FILTER = 3


def naive_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's fbank, one frame at a time, in float64: (samples,) to (frames, 128)."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    filters = np.zeros((128, 256))
    for channel in range(128):
        for bin_ in range(256):
            position = mel(bin_ * 16000.0 / 512.0)
            left, centre, right = edges[channel : channel + 3]
            if left < position <= centre:
                filters[channel, bin_] = (position - left) / (centre - left)
            elif centre < position < right:
                filters[channel, bin_] = (right - position) / (right - centre)
    x = waveform.astype(np.float64)
    x = x - x.mean()
    rows = []
    for start in range(0, len(x) - 399, 160):
        frame = x[start : start + 400] - x[start : start + 400].mean()
        emphasised = np.empty(400)
        emphasised[0] = frame[0] - 0.97 * frame[0]
        for i in range(1, 400):
            emphasised[i] = frame[i] - 0.97 * frame[i - 1]
        windowed = emphasised * np.hanning(400)
        power = np.abs(np.fft.rfft(windowed, 512)[:256]) ** 2
        rows.append(np.log(np.maximum(filters @ power, 2.0**-23)))
    return np.array(rows)


def assert_equal_but_for_rounding(ours: torch.Tensor, golden: torch.Tensor, atol: float) -> None:
    """Within ``atol`` everywhere, 2e-5 of the normalised scale on average, on the floor in the same cells."""
    assert ours.shape == golden.shape
    difference = (ours - golden).abs()
    assert difference.max() < atol
    assert difference.mean() < 2e-5 * (9.138 if atol > 1e-3 else 1.0)


@pytest.fixture(scope="module")
def short(golden_arrays) -> dict[str, torch.Tensor]:
    return load_file(golden_arrays / "fbank_1p3s.safetensors")


@pytest.fixture(scope="module")
def long(golden_arrays) -> dict[str, torch.Tensor]:
    return load_file(golden_arrays / "fbank_10s.safetensors")


def ten_seconds(long: dict[str, torch.Tensor]) -> torch.Tensor:
    """(1, 160000): the samples of the stored frames in their positions, and the clip's mean everywhere else.

    A frame depends on its own 400 samples and on the mean of the clip.
    """
    waveform = long["mean"].expand(160_000).clone()
    for frame, samples in zip(long["frames"].tolist(), long["samples"], strict=True):
        waveform[160 * frame : 160 * frame + 400] = samples
    return waveform[None]


def test_raw_log_mel_equals_kaldi(short, long):
    fbank, frames = KaldiFbank(), long["frames"]
    pairs = [
        (fbank.log_mel(short["waveform"][None])[0], short["fbank_raw"]),
        (fbank.log_mel(ten_seconds(long))[0, frames], long["fbank_raw"]),
    ]
    for raw, expected in pairs:
        assert_equal_but_for_rounding(raw, expected, atol=4e-3)
        on_floor = expected < FLOOR + 1e-5
        assert on_floor[:, EMPTY_FILTER].all()
        assert ((raw < FLOOR + 1e-5) == on_floor).all()


def test_normalised_fbank_equals_eat(short, long):
    fbank = KaldiFbank()(short["waveform"][None])
    assert fbank.shape == (1, 1, 128, 128)
    assert_equal_but_for_rounding(fbank[0, 0], short["fbank_norm_unpadded"], atol=5e-4)
    fbank = KaldiFbank()(ten_seconds(long))
    assert fbank.shape == (1, 1, 1008, 128)
    assert_equal_but_for_rounding(fbank[0, 0, long["frames"]], long["fbank_norm"], atol=5e-4)


def test_padding_frames_equal_eats_ten_second_block(short, long):
    ours = KaldiFbank()(ten_seconds(long))[0, 0]
    torch.testing.assert_close(ours[994:], long["fbank_norm_padded1024_last30"][:14], atol=5e-4, rtol=0)
    assert (ours[998:] == short["padding_frame"]).all()


def test_sixteen_seconds_have_1600_frames_of_which_two_are_padding(long):
    # The first ten seconds of the 16 s clip are the 10 s clip, so frames 0, 1 and 799 follow from the shorter clip
    # padded as a waveform; frame 1597 cannot be made.
    expected = long["fbank_norm_16s_frames_0_1_799_1597_1598_1599"]
    fbank = KaldiFbank()(torch.nn.functional.pad(ten_seconds(long), (0, 96_000)))
    assert fbank.shape == (1, 1, 1600, 128)
    torch.testing.assert_close(fbank[0, 0, [0, 1, 799]], expected[:3], atol=5e-4, rtol=0)
    assert (fbank[0, 0, [1598, 1599]] == expected[4:]).all()
    # What was padded as a waveform is silence, not a padding frame: a frame's own mean is subtracted from it.
    assert (fbank[0, 0, 1200:1598] - -1.27756).abs().max() < 1e-5


def test_mel_bank_window_and_centres_equal_kaldi(golden_arrays):
    arrays = load_file(golden_arrays / "mel_banks.safetensors")
    expected = torch.zeros(128, 256)
    expected[arrays["rows"], arrays["columns"]] = arrays["values"]
    torch.testing.assert_close(mel_bank(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(KaldiFbank().window, arrays["window_400"], atol=3e-7, rtol=0)
    torch.testing.assert_close(mel_centres_hz().float(), arrays["center_freqs_hz"], atol=0.01, rtol=1e-5)
    empty = (mel_bank().sum(dim=1) == 0).nonzero().flatten().tolist()
    assert empty == [EMPTY_FILTER]


@pytest.mark.parametrize("kind", ["noise", "tone on an offset", "impulse", "full scale"])
def test_log_mel_equals_a_float64_loop(kind):
    time = np.arange(8_000) / 16_000.0
    random = np.random.default_rng(7)
    waveform = {
        "noise": 0.1 * random.standard_normal(len(time)),
        "tone on an offset": 0.5 + 0.2 * np.sin(2 * np.pi * 997.0 * time),
        "impulse": np.where(np.arange(len(time)) == 4_000, 1.0, 0.0),
        "full scale": np.sign(np.sin(2 * np.pi * 50.0 * time)),
    }[kind].astype(np.float32)
    expected = naive_log_mel(waveform)
    ours = KaldiFbank().log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    assert ours.shape == expected.shape == (48, 128)
    # Relative to the loudest cell of a frame float32 keeps 1e-7; a cell far below it is rounding in either.
    audible = expected > np.maximum(expected.max(axis=1, keepdims=True) - 18.0, FLOOR + 1.0)
    assert audible.sum() > 200
    np.testing.assert_allclose(ours[audible], expected[audible], atol=4e-3)
    assert (ours >= np.float32(FLOOR)).all()


def test_a_batch_equals_its_clips_one_by_one():
    generator = torch.Generator().manual_seed(3)
    batch = torch.randn(4, 16_123, generator=generator) * torch.tensor([1.0, 0.1, 1e-3, 0.0])[:, None]
    fbank = KaldiFbank()
    one_by_one = torch.cat([fbank(clip[None]) for clip in batch])
    assert torch.equal(fbank(batch), one_by_one)  # to the bit, on a CPU


def test_an_offset_changes_nothing():
    waveform = 0.1 * torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(KaldiFbank()(waveform + 0.25), KaldiFbank()(waveform), atol=2e-3, rtol=0)


def test_mean_and_std_normalise_and_padding_is_zero_before_it():
    waveform = 0.1 * torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0))
    raw = KaldiFbank().log_mel(waveform)[0]
    fbank = KaldiFbank(mean=-6.627, std=5.359)(waveform)[0, 0]
    assert (len(raw), len(fbank)) == (23, 32)
    torch.testing.assert_close(fbank[:23], (raw + 6.627) / 10.718)
    torch.testing.assert_close(fbank[23:], torch.full((9, 128), 6.627 / 10.718))


@pytest.mark.parametrize(
    ("samples", "frames", "padded"),
    [(399, 0, 0), (400, 1, 16), (559, 1, 16), (560, 2, 16), (2_800, 16, 16), (2_960, 17, 32)]
    + [(s * 16_000, f, p) for s, f, p in [(6, 598, 608), (8, 798, 800), (10, 998, 1008)]]
    + [(s * 16_000, f, p) for s, f, p in [(12, 1198, 1200), (16, 1598, 1600), (18, 1798, 1808)]],
)
def test_frame_counts(samples, frames, padded):
    assert frame_count(samples) == frames
    assert padded_frame_count(samples) == padded
    if frames and samples < 100_000:
        assert KaldiFbank().log_mel(torch.zeros(1, samples)).shape == (1, frames, 128)


@pytest.mark.parametrize("shape", [(400,), (1, 399), (1, 2, 400)])
def test_a_waveform_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, samples >= 400\)"):
        KaldiFbank().log_mel(torch.zeros(shape))


def test_autocast_does_not_reach_the_front_end():
    waveform = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(1))
    plain = KaldiFbank()(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(KaldiFbank()(waveform), plain)
    assert plain.dtype == torch.float32


def test_nothing_of_the_front_end_is_saved_with_a_model():
    assert KaldiFbank().state_dict() == {}
