"""Groups of recordings from attributes, folders, names, time stamps and the order of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nearfar.data import grouping
from nearfar.data.clips import Clip, normal_clip
from nearfar.data.grouping import GROUPINGS, caution_of, find_groups
from nearfar.errors import InputError


def clips(*names: str) -> list[Clip]:
    return [normal_clip(Path("/data/pump/normal") / name, "pump") for name in names]


def numbered(count: int) -> list[Clip]:
    return clips(*(f"{index:04d}.wav" for index in range(count)))


def with_attribute(key: str, values: list[str]) -> list[Clip]:
    return [
        Clip(
            Path(f"/data/pump/normal/{index}.wav"),
            "pump",
            "00",
            "train",
            "source",
            "normal",
            None,
            ((key, value),),
        )
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("names", "expected", "found_by"),
    [
        ([f"rec{i // 4:02d}_{i % 4}.wav" for i in range(16)], 4, "name"),
        ([f"2024-05-{1 + i // 4:02d}/{i:03d}.wav" for i in range(16)], 4, "folder"),
        ([f"pump_2024-05-{1 + i // 4:02d}_14-0{i % 4}-00.wav" for i in range(16)], 4, "time"),
        ([f"20240501T{8 + i:02d}0000.wav" for i in range(12)], 12, "recording"),  # steadily, all of one day
        ([f"speed{1200 + 300 * (i % 3)}_{i:03d}.wav" for i in range(16)], 16, "recording"),  # conditions
        ([f"{i:03d}.wav" for i in range(16)], 16, "recording"),
    ],
)
def test_groups_by_names(names: list[str], expected: int, found_by: str) -> None:
    groups = find_groups(clips(*names))
    assert (groups.count, groups.found_by) == (expected, GROUPINGS[found_by].description)


def test_an_attribute_that_names_sessions_comes_first() -> None:
    groups = find_groups(with_attribute("session", ["a", "a", "b", "c"]))
    assert groups.labels == ("a", "a", "b", "c")
    assert find_groups(with_attribute("speed", ["1", "2", "3", "3"])).count == 4
    assert find_groups(with_attribute("speed", ["1", "2", "3", "3"]), "speed").count == 3


def test_a_pattern_gives_the_group() -> None:
    assert find_groups(clips("a-1.wav", "a-2.wav", "b-1.wav"), r"/(\w)-\d").labels == ("a", "a", "b")
    with pytest.raises(InputError, match=r"b-1\.wav: found a path that the pattern"):
        find_groups(clips("a-1.wav", "b-1.wav"), r"/(a)-\d")
    with pytest.raises(InputError, match="group_by: found"):
        find_groups(clips("a-1.wav"), "(")
    with pytest.raises(InputError, match="no attribute 'shift' of every recording"):
        find_groups(clips("a-1.wav"), "shift")


def test_two_sessions_limit_what_is_promised() -> None:
    groups = find_groups(clips(*(f"day{1 + i // 4}/{i}.wav" for i in range(8))))
    assert groups.count == 8
    assert groups.remark is not None
    assert "only 2 sessions" in groups.remark


def test_runs_of_recordings_that_are_alike_are_found_in_any_order_of_the_clips() -> None:
    random = np.random.default_rng(0)
    session = np.repeat(np.arange(12), 6)
    features = 2 * random.normal(size=(12, 20))[session] + random.normal(size=(72, 20))
    order = random.permutation(72)
    entries = numbered(72)
    groups = find_groups([entries[index] for index in order], features=features[order])
    assert groups.found_by == GROUPINGS["order"].description
    labels = np.array(groups.labels)
    same = labels[:, None] == labels[None]
    assert (same == (session[order][:, None] == session[order][None])).mean() > 0.98


def test_independent_recordings_form_no_runs() -> None:
    random = np.random.default_rng(1)
    found = [find_groups(numbered(60), features=random.normal(size=(60, 20))).count for _ in range(50)]
    assert found.count(60) >= 48


def test_recordings_sorted_by_operating_condition_form_no_runs() -> None:
    random = np.random.default_rng(2)
    speeds = np.repeat(np.arange(3), 20)
    features = 5 * random.normal(size=(3, 20))[speeds] + random.normal(size=(60, 20))
    assert find_groups(with_attribute("speed", [str(speed) for speed in speeds]), features=features).count == 60


def test_operating_conditions_without_a_name_do_not_hide_sessions() -> None:
    random = np.random.default_rng(3)
    session = np.repeat(np.arange(20), 5)
    conditions = 6 * random.normal(size=(4, 20))
    for condition in (np.arange(100) % 4, random.integers(4, size=100)):
        features = conditions[condition] + random.normal(size=(100, 20))
        assert find_groups(numbered(100), features=features).count == 100
        features += 2 * random.normal(size=(20, 20))[session]
        labels = np.array(find_groups(numbered(100), features=features).labels)
        assert 12 <= len(set(labels.tolist())) <= 30
        same = labels[:, None] == labels[None]
        assert same[session[:, None] == session[None]].mean() > 0.7


@pytest.mark.parametrize(("name", "words"), [("recording", "no sessions are known"), ("order", "do not show")])
def test_what_groups_do_not_show_is_said_unless_names_give_them(name: str, words: str) -> None:
    assert words in (caution_of(GROUPINGS[name].description) or "")
    assert caution_of(GROUPINGS["folder"].description) is None
    assert caution_of("the pattern (.*)_") is None


def test_distances_in_blocks_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(50, 6))
    monkeypatch.setattr(grouping, "_TOGETHER", 7 * 50)
    found = list(grouping._distances(values))
    assert [distances.shape for _, distances in found] == [(7, 50)] * 7 + [(1, 50)]
    every = cdist(values, values)
    for rows, distances in found:
        np.testing.assert_allclose(distances, every[rows], atol=1e-7)
    runs = np.repeat([3, 1, 2], [20, 1, 29])
    same = np.triu(runs[:, None] == runs[None], 1)
    expected = np.diagonal(every, 1)[np.diagonal(same, 1)].mean() / every[same].mean()
    assert grouping._ratio(values, runs) == pytest.approx(expected)


@pytest.mark.parametrize("sessions", [1, 12])
def test_runs_do_not_depend_on_the_size_of_blocks(sessions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    session = np.repeat(np.arange(sessions), 120 // sessions)
    features = 2 * random.normal(size=(sessions, 20))[session] + random.normal(size=(120, 20))
    whole = find_groups(numbered(120), features=features)
    assert whole.count == 120 if sessions == 1 else 10 <= whole.count < 30
    monkeypatch.setattr(grouping, "_TOGETHER", 11 * 120)
    assert find_groups(numbered(120), features=features) == whole
