"""The number of threads and workers, and that they change no result and no setting of the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nearfar import threads
from nearfar.errors import InputError
from nearfar.threads import jobs, one_thread, parallel_map, set_jobs, several_threads, usable_cores


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in ("NEARFAR_JOBS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    torch.set_num_threads(4)
    yield
    set_jobs(None)
    torch.set_num_threads(before)


# --- how many ---------------------------------------------------------------------------------------------------


def test_jobs_are_the_usable_cores() -> None:
    assert jobs() == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_number_of_threads_limits_jobs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3,2")
    assert jobs() == 3
    monkeypatch.setenv(name, "8")
    assert jobs() == 4


def test_torchs_number_of_threads_limits_jobs_also_within_a_context() -> None:
    torch.set_num_threads(2)
    assert jobs() == 2
    with one_thread():
        assert torch.get_num_threads() == 1
        assert jobs() == 2
        with several_threads():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_variable_comes_before_limits_and_the_flag_before_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NEARFAR_JOBS", "6")
    assert jobs() == 6
    set_jobs(5)
    assert jobs() == 5


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_variable_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_JOBS", value)
    with pytest.raises(InputError, match="NEARFAR_JOBS"):
        jobs()


def test_a_wrong_number_is_refused() -> None:
    with pytest.raises(InputError, match="jobs"):
        set_jobs(0)


# --- usable cores -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_usable_cores_follow_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from nearfar.threads import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        # The quota of a group above counts; in a container the root is the own group.
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2.0),
        ("0::/elsewhere", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000"}, 0.5),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "250000"}, 2.5),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, None),
        ("3:cpuset:/job", {"cpuset/job/cpu.cfs_quota_us": "50000"}, None),
    ],
)
def test_quotas_of_control_groups(
    lines: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(lines + "\n")
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        if path.name == "cpu.cfs_quota_us":
            (path.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert threads._quota(tmp_path / "cgroup", tmp_path) == expected


def test_no_quota_without_control_groups(tmp_path: Path) -> None:
    assert threads._quota(tmp_path / "missing", tmp_path) is None


# --- contexts ---------------------------------------------------------------------------------------------------


def in_new_thread() -> int:
    return int(threads._in_new_thread(torch.get_num_threads))


def test_contexts_change_the_calling_thread_alone_and_only_for_their_time() -> None:
    torch.set_num_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
        assert in_new_thread() == 3
    assert (torch.get_num_threads(), in_new_thread()) == (3, 3)
    with pytest.raises(ZeroDivisionError), several_threads():
        raise ZeroDivisionError
    assert (torch.get_num_threads(), in_new_thread()) == (3, 3)


def test_several_threads_are_as_many_as_jobs() -> None:
    set_jobs(2)
    with several_threads():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4


# --- the map ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_map_keeps_the_order_and_the_callers_setting(count: int) -> None:
    set_jobs(count)
    seen = []
    for value in parallel_map(lambda item: (item, torch.get_num_threads(), jobs()), iter(range(20))):
        seen.append(value)
        assert torch.get_num_threads() == 4
    assert (torch.get_num_threads(), in_new_thread()) == (4, 4)
    assert seen == [(item, 1, count if count == 1 else 1) for item in range(20)]


def test_map_spreads_items_over_workers() -> None:
    set_jobs(2)
    both = threading.Barrier(2, timeout=30)
    assert list(parallel_map(lambda item: both.wait() * 0 + item, [1, 2])) == [1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_map_reads_no_further_ahead_than_asked(count: int) -> None:
    set_jobs(count)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = parallel_map(lambda item: item, items(), ahead=3)
    assert next(results) == 0
    assert len(taken) == (1 if count == 1 else 4)
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 10


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_in_the_place_of_its_result(count: int) -> None:
    set_jobs(count)
    results = parallel_map(lambda item: 6 // item, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_map_within_a_worker_has_no_workers() -> None:
    set_jobs(2)

    def inner(_: int) -> set[str]:
        return set(parallel_map(lambda item: threading.current_thread().name, range(4)))

    names = list(parallel_map(inner, range(2)))
    assert all(len(found) == 1 for found in names)
    assert all(name.startswith("nearfar-worker") for found in names for name in found)


# --- commands ---------------------------------------------------------------------------------------------------


def test_the_flag_of_commands(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from nearfar.cli import app

    done = CliRunner().invoke(app, ["data", str(tmp_path / "none"), "--jobs", "0"])
    assert done.exit_code == 2
    assert "--jobs" in done.output
    done = CliRunner().invoke(app, ["data", str(tmp_path / "none"), "--jobs", "3"])
    assert "none" in done.output
    assert jobs() == 3
