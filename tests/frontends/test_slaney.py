"""The baselines' log-mel against librosa, their published front end, and against figures worked out by hand."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch

from nearfar.data.audio import read_waveform
from nearfar.frontends.slaney import hz_to_mel, mel_bank, mel_to_hz, slaney_log_mel


def librosa_log_mel(waveform: np.ndarray) -> np.ndarray:
    """(samples,) to (frames, 128), with the parameters the baseline states and librosa's defaults for the rest."""
    mel = librosa.feature.melspectrogram(y=waveform, sr=16_000, n_fft=1024, hop_length=512, n_mels=128, power=2.0)
    return 10.0 * np.log10(np.maximum(mel, np.finfo(np.float64).eps)).T


def waveforms() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    time = np.arange(16_000) / 16_000.0
    gap = 0.1 * random.standard_normal(16_000)
    gap[5_000:11_000] = 0.0
    made = {
        "noise": 0.1 * random.standard_normal(16_000),
        "a tone on an offset": 0.2 + 0.5 * np.sin(2 * np.pi * 997.0 * time),
        "one sample short of a frame": 0.1 * random.standard_normal(15_871),
        "a whole number of hops": 0.1 * random.standard_normal(15_872),
        "full scale": np.sign(np.sin(2 * np.pi * 50.0 * time)),
        "faint": 3e-5 * random.standard_normal(16_000),
        "a gap of digital silence": gap,
        "impulse at the edge": np.where(np.arange(16_000) == 3, 1.0, 0.0),
    }
    return {name: waveform.astype(np.float32) for name, waveform in made.items()}


@pytest.mark.parametrize("name", waveforms())
def test_log_mel_equals_librosas(name: str) -> None:
    waveform = waveforms()[name]
    expected = librosa_log_mel(waveform)
    ours = slaney_log_mel(torch.from_numpy(waveform))
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape == (1 + len(waveform) // 512, 128)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-4)


def test_log_mel_of_a_real_recording_equals_librosas(shared) -> None:
    clip = next((shared / "data" / "realmix" / "motor" / "train").glob("*.flac"))
    waveform = read_waveform(clip, ("near",))[0]
    ours = slaney_log_mel(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(ours, librosa_log_mel(waveform), rtol=0, atol=1e-4)


def test_the_filters_equal_librosas() -> None:
    expected = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=128)
    np.testing.assert_allclose(mel_bank().numpy(), expected, rtol=1e-5, atol=1e-8)


def test_the_first_filter_by_hand() -> None:
    # 8 kHz is 15 + 27 ln 8 / ln 6.4 mel; 129 steps of a 129th of it, 66.67 Hz per mel so far down.
    step_hz = (15 + 27 * math.log(8) / math.log(6.4)) / 129 * 200 / 3
    assert step_hz == pytest.approx(23.383, abs=1e-3)
    height = 2 / (2 * step_hz)
    first = mel_bank()[0]
    assert first.nonzero().flatten().tolist() == [1, 2]  # bins at 15.625 and 31.25 Hz
    assert float(first[1]) == pytest.approx(height * 15.625 / step_hz)
    assert float(first[2]) == pytest.approx(height * (2 * step_hz - 31.25) / step_hz)


@pytest.mark.parametrize(("hz", "mel"), [(0.0, 0.0), (500.0, 7.5), (1_000.0, 15.0), (6_400.0, 42.0)])
def test_the_mel_scale_has_its_known_points(hz: float, mel: float) -> None:
    assert hz_to_mel(hz) == pytest.approx(mel)
    assert float(mel_to_hz(torch.tensor(mel, dtype=torch.float64))) == pytest.approx(hz)


@pytest.mark.parametrize(("seconds", "vectors"), [(6, 184), (10, 309), (11, 340), (12, 372), (16, 497)])
def test_frame_counts_give_the_published_numbers_of_vectors(seconds: int, vectors: int) -> None:
    assert len(slaney_log_mel(torch.zeros(16_000 * seconds))) - 4 == vectors


def test_digital_silence_lies_on_the_floor_of_double_precision() -> None:
    floor = 10 * math.log10(2.0**-52)
    assert floor == pytest.approx(-156.54, abs=0.01)
    assert torch.equal(slaney_log_mel(torch.zeros(2_000)), torch.full((4, 128), floor))


def test_a_batch_equals_its_clips() -> None:
    batch = 0.1 * torch.randn(3, 4_000, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.stack([slaney_log_mel(clip) for clip in batch])
    torch.testing.assert_close(slaney_log_mel(batch), one_by_one, rtol=0, atol=1e-4)


def test_an_empty_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="samples >= 1"):
        slaney_log_mel(torch.zeros(0))
