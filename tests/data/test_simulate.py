"""A simulated factory as a whole: layout, determinism, fairness of levels, faults that can be learnt, refusals."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from sklearn.metrics import roc_auc_score

from nearfar.data.clips import Clip, parse_clip
from nearfar.data.simulate import FactoryPlan, machine_types, simulate_factory
from nearfar.errors import InputError

PLAN = FactoryPlan(
    machines=machine_types(), train_source=12, train_target=4, test_per_group=8, clip_seconds=2.0, seed=3
)
SMALL = FactoryPlan(
    machines=("valve", "fan"), train_source=2, train_target=1, test_per_group=2, clip_seconds=1.0, seed=7
)


class Factory(NamedTuple):
    """A rendered factory: clips with their samples, (samples, 2) float64, and the rows of truth.csv."""

    folder: Path
    clips: list[Clip]
    audio: list[np.ndarray]
    truth: dict[str, dict[str, str]]

    def of(self, machine: str, split: str) -> list[int]:
        return [at for at, clip in enumerate(self.clips) if (clip.machine, clip.split) == (machine, split)]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    folder = tmp_path_factory.mktemp("factory")
    simulate_factory(PLAN, folder)
    paths = sorted(folder.glob("*/*/*.wav"))
    clips = [parse_clip(path, path.parts[-3], path.parts[-2]) for path in paths]
    with (folder / "truth.csv").open(newline="") as file:
        truth = {row["file_name"]: row for row in csv.DictReader(file)}
    return Factory(folder, clips, [soundfile.read(path)[0] for path in paths], truth)


def test_every_file_has_the_folder_and_the_name_of_the_layout(factory):
    counts = Counter((clip.machine, clip.split, clip.domain, clip.label) for clip in factory.clips)
    for machine in PLAN.machines:
        assert counts[machine, "train", "source", "normal"] == 12
        assert counts[machine, "train", "target", "normal"] == 4
        for domain in ("source", "target"):
            assert counts[machine, "test", domain, "normal"] == 8
            assert counts[machine, "test", domain, "anomaly"] == 8
    assert sum(counts.values()) == PLAN.clips == 6 * 48
    info = soundfile.info(factory.clips[0].path)
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 2, "PCM_16", 32_000)


def test_target_domain_has_other_attributes_and_some_machines_have_none(factory):
    for machine in PLAN.machines:
        reported = {
            domain: {clip.attributes for clip in factory.clips if (clip.machine, clip.domain) == (machine, domain)}
            for domain in ("source", "target")
        }
        if machine in ("valve", "pump"):
            assert reported["source"] == reported["target"] == {()}
        else:
            assert reported["source"].isdisjoint(reported["target"])
            assert () not in reported["source"]


def test_attribute_table_repeats_the_attributes_of_names(factory):
    for machine in PLAN.machines:
        with (factory.folder / machine / "attributes_00.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 48
        for row in rows:
            clip = parse_clip(factory.folder / row["file_name"], machine, row["file_name"].split("/")[1])
            assert clip.path.is_file()
            pairs = [text for pair in clip.attributes for text in pair]
            assert list(row.values())[1:] == pairs


def test_the_folder_is_marked_as_simulated_and_lists_faults(factory):
    assert "were simulated by `nearfar simulate`" in (factory.folder / "SIMULATED.md").read_text()
    assert len(factory.truth) == len(factory.clips)
    for clip in factory.clips:
        row = factory.truth[clip.path.relative_to(factory.folder).as_posix()]
        if clip.label == "anomaly":
            assert 0.4 <= float(row["severity"]) <= 1.0
            assert 0 <= float(row["fault_low_hz"]) < float(row["fault_high_hz"]) <= 8000
        else:
            assert row["fault"] == row["severity"] == row["fault_low_hz"] == row["fault_intervals_s"] == ""
        assert 8.0 <= float(row["snr_db"]) <= 18.0
        assert 0.4 <= float(row["near_m"]) <= 0.6
        assert 2.5 <= float(row["far_m"]) <= 4.0


def test_normal_and_anomalous_clips_of_a_domain_have_the_same_conditions(factory):
    columns = ("snr_db", "level_dbfs", "noise", "noise_path", "noise_from", "noise_to", "speed", "load")
    lists: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for row in factory.truth.values():
        if row["split"] == "test":
            drawn = tuple(row[column] for column in columns)
            lists.setdefault((row["machine"], row["domain"], row["label"]), []).append(drawn)
    for machine in PLAN.machines:
        for domain in ("source", "target"):
            normal, anomaly = lists[machine, domain, "normal"], lists[machine, domain, "anomaly"]
            assert sorted(normal) == sorted(anomaly)
            assert normal != anomaly  # the order carries no information either


def test_no_clip_reaches_full_scale(factory):
    assert max(np.abs(audio).max() for audio in factory.audio) < 0.99


def test_near_channel_has_the_level_that_was_drawn(factory):
    for clip, audio in zip(factory.clips, factory.audio, strict=True):
        drawn = float(factory.truth[clip.path.relative_to(factory.folder).as_posix()]["level_dbfs"])
        assert 20 * np.log10(np.sqrt(np.mean(audio[:, 0] ** 2))) == pytest.approx(drawn, abs=0.02)


def level_scores(levels_db: np.ndarray, train_db: np.ndarray) -> dict[str, np.ndarray]:
    """What a classifier can make of the RMS of both channels, (clips, 2) in decibels, and nothing else."""
    distance = np.linalg.norm(levels_db[:, None] - train_db[None], axis=2)
    return {
        "near": levels_db[:, 0],
        "far": levels_db[:, 1],
        "near over far": levels_db[:, 0] - levels_db[:, 1],
        "nearest neighbour": distance.min(axis=1),
    }


def level_aucs(factory: Factory, tamper_db: float = 0.0) -> dict[str, list[float]]:
    """AUC of each level score for each machine; ``tamper_db`` makes anomalies louder far, for the counter-test."""
    aucs: dict[str, list[float]] = {}
    for machine in PLAN.machines:
        levels = {
            split: np.array(
                [
                    20 * np.log10(np.sqrt(np.mean(factory.audio[at] ** 2, axis=0)))
                    for at in factory.of(machine, split)
                ]
            )
            for split in ("train", "test")
        }
        anomalous = np.array([factory.clips[at].label == "anomaly" for at in factory.of(machine, "test")])
        levels["test"][anomalous, 1] += tamper_db
        for score, values in level_scores(levels["test"], levels["train"]).items():
            aucs.setdefault(score, []).append(float(roc_auc_score(anomalous, values)))
    return aucs


CHANCE_BAND = 3 * np.sqrt((2 * 16 + 1) / (12 * 16 * 16)) / np.sqrt(6)
"""Three standard deviations of the mean over 6 machines of an AUC of 16 against 16 clips without any signal."""


def test_a_classifier_of_levels_is_at_chance(factory):
    for score, aucs in level_aucs(factory).items():
        assert abs(np.mean(aucs) - 0.5) < CHANCE_BAND, (score, aucs)
    # the near levels are the same list for both labels, so there only rounding to 16 bits is left
    assert level_aucs(factory)["near"] == pytest.approx([0.5] * 6, abs=0.05)


def test_the_level_check_would_notice_two_decibels(factory):
    tampered = level_aucs(factory, tamper_db=2.0)
    assert abs(np.mean(tampered["near over far"]) - 0.5) > CHANCE_BAND


def log_mel_statistics(waveform: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of 128 log-mel bands: (256,)."""
    edges = 700 * (np.exp(np.linspace(np.log(1 + 20 / 700), np.log(1 + 8000 / 700), 130)) - 1)
    frequency = np.fft.rfftfreq(1024, 1 / 16_000)
    rising = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    mel = np.clip(np.minimum(rising, falling), 0, None)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160] * np.hanning(400)
    energy = np.log(np.abs(np.fft.rfft(frames, 1024)) ** 2 @ mel.T + 1e-10)
    return np.concatenate([energy.mean(axis=0), energy.std(axis=0)])


def test_faults_can_be_learnt_but_not_without_effort(factory):
    """Nearest normal clip in standardised mean+std log-mel of the near channel, AUC within each domain."""
    means = {}
    for machine in PLAN.machines:
        train, test = factory.of(machine, "train"), factory.of(machine, "test")
        features = {at: log_mel_statistics(factory.audio[at][:, 0]) for at in train + test}
        bank = np.stack([features[at] for at in train])
        centre, spread = bank.mean(axis=0), bank.std(axis=0)
        scores = [
            np.linalg.norm((features[at] - centre) / spread - (bank - centre) / spread, axis=1).min()
            for at in test
        ]
        aucs = []
        for domain in ("source", "target"):
            rows = [row for row, at in enumerate(test) if factory.clips[at].domain == domain]
            labels = [factory.clips[test[row]].label == "anomaly" for row in rows]
            aucs.append(roc_auc_score(labels, [scores[row] for row in rows]))
        means[machine] = np.mean(aucs)
    assert all(0.6 < auc < 0.97 for auc in means.values()), means
    assert 0.7 < np.mean(list(means.values())) < 0.9, means


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """The folder of the small plan, and the progress that was reported."""
    reported: list[tuple[int, int]] = []
    out = tmp_path_factory.mktemp("small") / "out"
    assert simulate_factory(SMALL, out, lambda done, total: reported.append((done, total))) == out
    return out, reported


def test_same_seed_gives_the_same_bytes_whatever_the_other_machines(small, tmp_path):
    both = digests(small[0])
    assert digests(simulate_factory(SMALL, tmp_path / "again")) == both
    others = FactoryPlan(**{**options(SMALL), "machines": ("pump", "valve")})
    beside = digests(simulate_factory(others, tmp_path / "beside"))
    kept = {name: digest for name, digest in both.items() if name.startswith("valve/")}
    assert len(kept) == 2 + 1 + 4 * 2 + 1
    assert {name: beside[name] for name in kept} == kept


def test_another_seed_gives_other_sounds(small, tmp_path):
    one = digests(small[0])
    other = digests(simulate_factory(FactoryPlan(**{**options(SMALL), "seed": 8}), tmp_path / "other"))
    sounds = [digest for made in (one, other) for name, digest in made.items() if name.endswith(".wav")]
    assert len(sounds) == 2 * SMALL.clips
    assert len(set(sounds)) == len(sounds)


def test_progress_is_reported_after_each_clip(small):
    _, reported = small
    assert reported == [(done, 22) for done in range(1, 23)]


def options(plan: FactoryPlan) -> dict:
    return {name: getattr(plan, name) for name in plan.__slots__}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("machines", ("fan", "tractor"), "tractor"),
        ("machines", (), "none"),
        ("machines", ("fan", "fan"), "fan, fan"),
        ("train_source", 0, "train_source"),
        ("train_target", 0, "train_target"),
        ("test_per_group", 0, "test_per_group"),
        ("test_per_group", 10_001, "10000"),
        ("clip_seconds", 0.99, "1 to 60 s"),
        ("clip_seconds", 60.5, "1 to 60 s"),
        ("clip_seconds", float("nan"), "1 to 60 s"),
        ("snr_db", (9.0, 3.0), "snr_db"),
        ("snr_db", (float("-inf"), 3.0), "snr_db"),
        ("severity", (0.0, 1.0), "severity"),
        ("severity", (0.5, 1.5), "severity"),
        ("seed", -1, "seed"),
    ],
)
def test_an_option_outside_its_range_is_refused(option, value, message):
    with pytest.raises(InputError, match=message) as caught:
        FactoryPlan(**{option: value})
    assert f"simulate {option}" in str(caught.value)


def test_nothing_that_is_there_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        simulate_factory(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="a file"):
        simulate_factory(SMALL, tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "keep"
