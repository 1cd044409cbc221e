"""The parts of exported graphs against the code that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nearfar.cancellation import Cancellation, cancel
from nearfar.errors import InputError
from nearfar.export.features import log_mel_statistics
from nearfar.export.fourier import RealDFT
from nearfar.export.signals import Cancelled, KaldiSpectrogram, LogMel, exported_frontend
from nearfar.frontends import Frontend, KaldiFbank
from nearfar.frontends.beats import BEATsFbank
from nearfar.frontends.dasheng import DashengLogMel
from nearfar.pooling import log_mel_statistics as reference_statistics

RATE_HZ = 16_000


@pytest.mark.parametrize("size", [2, 6, 16, 250, 1024, 8192])
def test_transforms_are_those_of_numpy(size: int) -> None:
    signals = np.random.default_rng(size).standard_normal((3, size)).astype(np.float32)
    dft, expected = RealDFT(size), np.fft.rfft(signals.astype(np.float64))
    found = dft(torch.from_numpy(signals)).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, atol=1e-6 * scale)
    pairs = torch.view_as_real(torch.from_numpy(expected)).float()
    np.testing.assert_allclose(dft.inverse(pairs).numpy(), signals, atol=1e-5)


def test_odd_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="even length, got 9"):
        RealDFT(9)


@pytest.mark.parametrize("samples", [400, 16_000, 80_123])
@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_log_mel_is_that_of_the_front_end(samples: int, level: float) -> None:
    waveform = level * 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(1)) + 0.01
    torch.testing.assert_close(LogMel()(waveform), KaldiFbank().log_mel(waveform), rtol=0, atol=2e-3)
    difference = (LogMel()(waveform) - KaldiFbank().log_mel(waveform)).abs().mean()
    assert difference < 2e-6


@pytest.mark.parametrize("samples", [8_000, 16_000])
def test_spectrograms_are_padded_as_clips(samples: int) -> None:
    waveform, frontend = 0.1 * torch.randn(2, samples), KaldiFbank(-4.0, 4.0)
    padded = frontend(F.pad(waveform, (0, 16_000 - samples)))
    found = KaldiSpectrogram(frontend, 16_000, own_length=False)(waveform)
    torch.testing.assert_close(found, padded, rtol=0, atol=2e-3)
    own = KaldiSpectrogram(frontend, 16_000, own_length=True)(waveform)
    columns = -(-frontend.frame_count(samples) // 16)
    torch.testing.assert_close(own, padded[:, :, : 16 * columns], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("frontend", "patch_frames"), [(BEATsFbank(), 16), (DashengLogMel(), 4)], ids=["beats", "dasheng"]
)
@pytest.mark.parametrize("samples", [400, 640, 8_000, 16_123])
def test_spectrograms_of_other_families_are_those_of_their_front_ends(
    frontend: Frontend, patch_frames: int, samples: int
) -> None:
    waveform = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    padded = frontend(F.pad(waveform, (0, 16_123 - samples)))
    found = exported_frontend(frontend, 16_123, own_length=False)(waveform)
    torch.testing.assert_close(found, padded, rtol=0, atol=2e-3)
    own = exported_frontend(frontend, 16_123, own_length=True)(waveform)
    columns = max(1, frontend.frame_count(samples) // patch_frames)
    torch.testing.assert_close(own, padded[:, :, : patch_frames * columns], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "settings",
    [Cancellation(), Cancellation(window_samples=8192, hop_samples=2048, gain_limit=1.0)],
    ids=["w1", "nearfar-best"],
)
@pytest.mark.parametrize("samples", [5_000, 16_384, 50_001])
def test_cancellation_is_that_of_waveforms(settings: Cancellation, samples: int) -> None:
    random = np.random.default_rng(2)
    far = random.standard_normal((2, samples)).astype(np.float32)
    near = (0.4 * np.roll(far, 30, axis=1) + random.standard_normal((2, samples))).astype(np.float32)
    found = Cancelled(settings)({"near": torch.from_numpy(near), "far": torch.from_numpy(far)}).numpy()
    expected = np.stack([cancel(one, other, settings) for one, other in zip(near, far, strict=True)])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - near).max() > 0.1


@pytest.mark.parametrize(
    "changes", [{"taps": 2}, {"smooth_frames": 3}, {"smooth_bins": 1}, {"delay_search_ms": 1.0}]
)
def test_other_cancellations_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="taps, smoothing or a delay search"):
        Cancelled(Cancellation.model_validate(changes))


@pytest.mark.parametrize("lags", [(), (1, 4)])
@pytest.mark.parametrize("remove_level", [True, False])
def test_statistics_are_those_of_each_window(lags: tuple[int, ...], remove_level: bool) -> None:
    log_mel = torch.randn(3, 50, 128)
    log_mel[:, :, 3] = -15.9  # an empty filter
    found = log_mel_statistics(log_mel, lags, remove_level=remove_level)
    expected = torch.stack([reference_statistics(one, lags, remove_level=remove_level) for one in log_mel])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
