"""Maps of departures against naive loops, and on bursts and simulated faults at known times and frequencies."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nearfar.data.audio import read_waveform
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.encoders.eat import EATConfig, PatchEmbed
from nearfar.explain import localisation
from nearfar.explain.localisation import (
    PatchBank,
    band_edges_hz,
    clip_level,
    cut_patches,
    departures,
    fit_normal_patches,
    fit_patches,
    patch_facts,
    patch_features,
    smoothed,
    time_edges_s,
)
from nearfar.frontends.kaldi import KaldiFbank


def random_clips(count: int, frames: int = 50, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(frames, 128, generator=generator) * 2 - 6 for _ in range(count)]


def test_a_patch_is_the_token_of_the_same_index() -> None:
    embed = PatchEmbed(EATConfig(embed_dim=256, num_heads=4))
    with torch.no_grad():  # a projection that passes the patch on as it is, row by row
        embed.proj.weight.copy_(torch.eye(256).reshape(256, 1, 16, 16))
        embed.proj.bias.zero_()
        fbank = random_clips(1, frames=48)[0]
        tokens = embed(fbank[None, None])[0]
    for column, band in ((0, 0), (1, 3), (2, 7)):
        assert torch.equal(tokens[column * 8 + band].reshape(16, 16), cut_patches(fbank)[column, band])


def test_features_and_facts_are_those_of_a_naive_loop() -> None:
    clip = random_clips(1)[0]
    features, facts = patch_features(clip), patch_facts(clip)
    assert features.shape == (3, 8, 32)
    assert facts.shape == (3, 8, 3)
    used = np.arange(128) != 3  # filter 3, from 0, holds no FFT bin
    values = clip.double().numpy()
    values = np.where(used, values - values[:, used].mean(), 0.0)
    for column in range(3):
        for band in range(8):
            patch = values[column * 16 : column * 16 + 16, band * 16 : band * 16 + 16]
            np.testing.assert_allclose(features[column, band, :16], patch.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(features[column, band, 16:], patch.std(axis=0), atol=1e-5)
            energy, spectrum = patch.mean(axis=1), patch.mean(axis=0)
            expected = [energy.mean(), energy.std(), spectrum.std()]
            np.testing.assert_allclose(facts[column, band], expected, atol=1e-5)


def test_a_clips_level_changes_nothing() -> None:
    clip = random_clips(1)[0]
    torch.testing.assert_close(patch_features(clip + 3.0), patch_features(clip), atol=1e-5, rtol=0)


def test_the_map_is_that_of_a_naive_loop() -> None:
    clips = [patch_features(clip) for clip in random_clips(4)]
    query = patch_features(random_clips(1, seed=9)[0])
    normal, own = fit_normal_patches(clips)

    def nearest(patch: Tensor, band: int, others: list[int]) -> float:
        return min(math.dist(patch.tolist(), theirs.tolist()) for i in others for theirs in clips[i][:, band])

    expected = torch.zeros(3, 8)
    for band in range(8):
        alone = [
            [nearest(patch, band, [other for other in range(4) if other != i]) for patch in clips[i][:, band]]
            for i in range(4)
        ]
        typical = sorted(value for clip in alone for value in clip)[5]  # the lower of the middle two of 12
        assert normal.typical[band] == pytest.approx(typical, rel=1e-4)
        expected[:, band] = torch.tensor([nearest(patch, band, [0, 1, 2, 3]) for patch in query[:, band]])
        expected[:, band] = expected[:, band] / typical - 1
        alone_map = smoothed(torch.tensor(alone[1])[:, None] / typical - 1)[:, 0]
        torch.testing.assert_close(own[1][:, band], alone_map, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(departures(query, normal), smoothed(expected), atol=1e-3, rtol=1e-3)


def test_smoothing_by_hand() -> None:
    grid = torch.tensor([[4.0], [0.0], [8.0]])
    assert smoothed(grid).tolist() == [[3.0], [3.0], [6.0]]
    assert smoothed(torch.tensor([[5.0, 1.0]])).tolist() == [[5.0, 1.0]]


def test_of_many_patches_those_are_kept_that_cover_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localisation, "MOST_PATCHES", 5)
    clips = [patch_features(clip) for clip in random_clips(4)]
    normal, _ = fit_normal_patches(clips)
    assert normal.patches.shape == (8, 5, 32)
    for band in range(8):
        points = torch.cat(clips)[:, band].double().numpy()
        chosen = [0]
        while len(chosen) < 5:
            distances = [min(np.linalg.norm(point - points[kept]) for kept in chosen) for point in points]
            chosen.append(int(np.argmax(distances)))
        np.testing.assert_allclose(normal.patches[band], points[chosen], atol=1e-5)
        assert normal.owners[band].tolist() == [index // 3 for index in chosen]


def test_a_single_clip_and_digital_silence_give_finite_maps() -> None:
    silence = torch.full((50, 128), -15.942385)
    for clips in ([random_clips(1)[0]], [silence, silence], [silence]):
        bank = fit_patches(clips)
        for query in (clips[0], random_clips(1, seed=3)[0]):
            assert torch.isfinite(departures(patch_features(query), bank)).all()


def test_many_clips_are_thinned_and_counted_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localisation, "MOST_CLIPS", 4)
    clips = random_clips(7)
    bank = fit_patches(clips)
    assert len(bank.peaks) == 4
    assert set(bank.owners.flatten().tolist()) == {0, 2, 4, 6}
    torch.testing.assert_close(bank.levels, torch.stack([clip_level(clips[i]) for i in (0, 2, 4, 6)]))


def test_a_bank_comes_back_from_its_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bank = fit_patches(random_clips(3))
    save_file(bank.tensors(), tmp_path / "bank.safetensors")
    again = PatchBank.from_tensors(load_file(tmp_path / "bank.safetensors"))
    assert all(torch.equal(again.tensors()[name], value) for name, value in bank.tensors().items())


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one normal clip"):
        fit_patches([])
    with pytest.raises(ValueError, match="at least 16 frames, got 15"):
        patch_features(torch.zeros(15, 128))


def test_bands_meet_where_their_filters_are_equally_high() -> None:
    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    points = np.linspace(mel(20.0), mel(8000.0), 130)  # filter m rises from m, peaks at m + 1, ends at m + 2
    for band, hz in enumerate(band_edges_hz()[1:-1], start=1):
        lower, upper = 16 * band - 1, 16 * band
        falling = (points[lower + 2] - mel(hz)) / (points[lower + 2] - points[lower + 1])
        rising = (mel(hz) - points[upper]) / (points[upper + 1] - points[upper])
        assert falling == pytest.approx(0.5, abs=1e-9)
        assert rising == pytest.approx(0.5, abs=1e-9)


def test_a_burst_shows_at_its_time_and_frequency() -> None:
    random = np.random.default_rng(0)
    edges = band_edges_hz()
    fbank = KaldiFbank()

    def log_mel(waveform: np.ndarray) -> Tensor:
        return fbank.log_mel(torch.from_numpy(waveform.astype(np.float32))[None])[0]

    bank = fit_patches([log_mel(0.05 * random.standard_normal(32_000)) for _ in range(6)])
    time = np.arange(32_000) / 16_000
    for column, band in ((2, 6), (5, 4), (9, 2)):
        begin, end = time_edges_s(12)[column : column + 2]
        hz = math.sqrt(edges[band] * edges[band + 1])
        burst = 0.1 * np.sin(2 * np.pi * hz * time) * ((time >= begin) & (time < end))
        grid = departures(patch_features(log_mel(burst + 0.05 * random.standard_normal(32_000))), bank)
        assert divmod(int(grid.argmax()), 8) == (column, band)


@pytest.mark.slow
def test_simulated_faults_are_found_well_above_chance(tmp_path: Path) -> None:
    """A cell is inside where its column meets an interval of the fault and half its band lies in the fault's."""
    plan = FactoryPlan(
        machines=("slider", "bearing"),
        train_source=20,
        train_target=4,
        test_per_group=8,
        clip_seconds=3.0,
        seed=11,
    )
    root = simulate_factory(plan, tmp_path / "factory")
    fbank, edges, times = KaldiFbank(), band_edges_hz(), time_edges_s(18)

    def log_mel(path: Path) -> Tensor:
        return fbank.log_mel(torch.from_numpy(read_waveform(path, ("near",))))[0]

    hits, shares = [], []
    with (root / "truth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for machine in plan.machines:
        bank = fit_patches([log_mel(path) for path in sorted((root / machine / "train").glob("*.wav"))])
        for row in (row for row in rows if row["machine"] == machine and row["fault"]):
            low, high = float(row["fault_low_hz"]), float(row["fault_high_hz"])
            spans = [tuple(map(float, s.split("-"))) for s in row["fault_intervals_s"].split(";") if s] or [(0, 9)]
            columns = [any(times[c] < end and times[c + 1] > start for start, end in spans) for c in range(18)]
            bands = [
                min(high, edges[b + 1]) - max(low, edges[b]) >= 0.5 * (edges[b + 1] - edges[b]) for b in range(8)
            ]
            inside = np.outer(columns, bands)
            grid = departures(patch_features(log_mel(root / row["file_name"])), bank)
            hits.append(bool(inside.flatten()[int(grid.argmax())]))
            shares.append(inside.mean())
    assert len(hits) == 32
    assert 0.3 < np.mean(shares) < 0.5
    assert np.mean(hits) > np.mean(shares) + 0.25
