"""Recordings that are brought to the coherence and the ratio of energies of a preset."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import coherence, lfilter

from nearfar.data.simulate import PRESETS, FactoryPlan
from nearfar.data.simulate.acoustics import BANDS_HZ, Relation, measured, related
from nearfar.data.simulate.factory import plan_clips, rooms_of, simulate_clip
from nearfar.errors import InputError

RATE = 16_000


def pair(seed: int = 0, shared: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    common, *own = random.normal(0, 0.1, (3, 6 * RATE))
    return np.stack([shared * common + own[0], lfilter([0.3, 0.2, 0.1], 1, shared * common) + 0.3 * own[1]])


def test_the_coherence_is_that_of_scipy_and_the_ratio_a_median_over_frames() -> None:
    one = pair()
    hz, values = coherence(*one, RATE, nperseg=1024)
    found = measured(one)
    for (low, high), value in zip(BANDS_HZ, found.coherence, strict=True):
        assert value == pytest.approx(values[(hz >= low) & (hz < high)].mean(), rel=1e-9)
    assert measured(one * [[1.0], [0.5]]).far_to_near == pytest.approx(0.25 * found.far_to_near)


@pytest.mark.parametrize("wanted", [(0.6, 0.3, 0.28), (0.1, 0.5, 0.1), (0.3, 0.3, 0.3)])
@pytest.mark.parametrize("shared", [0.3, 1.0, 3.0])
def test_a_recording_is_brought_to_a_relation_and_keeps_its_mean_spectrum(
    wanted: tuple[float, float, float], shared: float
) -> None:
    one = pair(shared=shared)
    out = related(one, Relation(wanted, 0.8), np.random.default_rng(1))
    found = measured(out)
    assert found.coherence == pytest.approx(wanted, abs=0.04)
    assert found.far_to_near == pytest.approx(0.8)
    before, after = (np.abs(np.fft.rfft(x[0]).reshape(-1)[1:]) ** 2 for x in (one, out))
    shape = [np.log(power[: len(power) // 64 * 64].reshape(64, -1).mean(axis=1)) for power in (before, after)]
    for low, high in ((0, 8), (8, 32), (32, 64)):  # within a band all frequencies gain alike
        gain = shape[1][low:high] - shape[0][low:high]
        assert np.ptp(gain) < 0.6


@pytest.mark.parametrize("machine", ["fan", "pump"])
def test_recordings_of_the_preset_have_its_relations_whatever_their_label(machine: str) -> None:
    preset = PRESETS["dcase2026"]
    counts = {"train_source": 1, "train_target": 1, "test_per_group": 3}
    ranges = {"snr_db": preset.snr_db, "severity": preset.severity}
    plan = FactoryPlan(machines=(machine,), clip_seconds=4.0, preset="dcase2026", **counts, **ranges)
    rooms = rooms_of(plan, machine)
    relations = {"normal": [], "anomaly": []}
    for clip in plan_clips(plan, machine):
        wanted = clip.condition.relation
        assert wanted is not None
        audio, _ = simulate_clip(plan, clip, rooms[clip.domain])
        found = measured(audio.T / 32768)
        assert found.coherence == pytest.approx(wanted.coherence, abs=0.05)
        assert found.far_to_near == pytest.approx(wanted.far_to_near, rel=0.05)
        low, high = preset.acoustics[machine].far_to_near
        assert low <= wanted.far_to_near <= high
        if clip.split == "test":
            relations[clip.label].append((clip.domain, wanted))
    assert sorted(relations["normal"], key=repr) == sorted(relations["anomaly"], key=repr)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(InputError, match="preset: found dcase2027; expected one of plain, dcase2026"):
        FactoryPlan(preset="dcase2027")
