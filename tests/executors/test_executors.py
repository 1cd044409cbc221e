"""Where tasks run changes nothing that they return; lost workers and errors are dealt with."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.executors import work

from nearfar.errors import InputError, MultipleInputError, NearfarError
from nearfar.executors import EXECUTORS, Executor, LocalExecutor, default_executor, local
from nearfar.executors.local import _LocalPool
from nearfar.progress import Progress
from nearfar.threads import set_jobs


@pytest.fixture
def two_jobs(monkeypatch: pytest.MonkeyPatch):
    set_jobs(2)
    yield
    set_jobs(None)


@pytest.fixture(scope="module")
def pool() -> Executor:
    return _LocalPool(2)


# --- in this process --------------------------------------------------------------------------------------------


def test_short_tasks_run_one_after_the_other_in_this_process(two_jobs: None) -> None:
    found = LocalExecutor().map(work.where, range(5), task="places")
    assert found == [(os.getpid(), str(Path.cwd()))] * 5


def test_progress_is_in_sizes(two_jobs: None) -> None:
    calls: list[tuple[str, int, int]] = []
    options = {"task": "squares", "progress": lambda *call: calls.append(call), "sizes": [2, 3, 1]}
    assert LocalExecutor().map(work.square, [1, 2, 3], **options) == [1, 4, 9]
    assert calls == [("squares", 2, 6), ("squares", 5, 6), ("squares", 6, 6)]


def test_a_task_reports_its_own_progress_in_this_process() -> None:
    calls: list[tuple[str, int, int]] = []

    def reports(number: int, progress: Progress) -> None:
        progress("within", number, 9)

    LocalExecutor().map(reports, [7], task="all", progress=lambda *call: calls.append(call))
    assert calls == [("within", 7, 9), ("all", 1, 1)]


def test_nothing_to_do() -> None:
    assert LocalExecutor().map(work.square, [], task="nothing") == []
    assert _LocalPool(2).map(work.square, [], task="nothing") == []


class _Counted(_LocalPool):
    """Counts what is handed to worker processes, and computes it in this one."""

    handed: list[int] = []  # noqa: RUF012

    def map(self, function, items: Sequence[int], **options: object) -> list[int]:  # type: ignore[override]
        type(self).handed = [*items]
        return [function(item, lambda *_: None) for item in items]


@pytest.mark.parametrize(
    ("seconds", "options", "handed"),
    [
        (10.0, {}, [1, 2, 3, 4]),
        (7.0, {}, []),
        (10.0, {"uses_all_cores": True}, []),
    ],
    ids=["40 s are left", "28 s are left", "a task uses all cores"],
)
def test_worker_processes_are_started_once_much_is_left(
    seconds: float, options: dict[str, bool], handed: list[int], two_jobs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(100))
    monkeypatch.setattr(local.time, "perf_counter", lambda: seconds * next(now))
    monkeypatch.setattr(local, "_LocalPool", _Counted)
    _Counted.handed = []
    assert LocalExecutor().map(work.square, range(5), task="squares", **options) == [0, 1, 4, 9, 16]
    assert _Counted.handed == handed


def test_one_job_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_jobs(1)
    monkeypatch.setattr(local, "WORTH_SECONDS", -1.0)
    try:
        assert {pid for pid, _ in LocalExecutor().map(work.where, range(3), task="places")} == {os.getpid()}
    finally:
        set_jobs(None)


# --- in worker processes ----------------------------------------------------------------------------------------


def test_long_work_is_handed_to_workers_which_run_in_the_same_folder(
    two_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "WORTH_SECONDS", -1.0)
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, int, int]] = []
    found = LocalExecutor().map(
        work.where, range(40), task="places", progress=lambda *call: calls.append(call), sizes=[2] * 40
    )
    assert found[0][0] == os.getpid()
    assert os.getpid() not in {pid for pid, _ in found[1:]}
    assert {folder for _, folder in found} == {str(tmp_path)}
    assert calls[-1] == ("places", 80, 80)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_tasks_of_a_killed_worker_run_again(
    pool: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / str(number) for number in range(6)] + [tmp_path / "last"]
    (tmp_path / "last").mkdir()
    found = pool.map(work.one_is_killed, folders, task="names")
    assert found == [*"012345", "last"]
    assert (tmp_path / "last" / "killed").exists()
    assert "names: a worker was lost" in caplog.text


def test_workers_that_are_always_killed_end_with_an_error(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.executors.base.MOST_LOSSES", 1)
    with pytest.raises(NearfarError, match="doomed: workers ended 2 times in a row without a result"):
        pool.map(work.always_killed, range(2), task="doomed")


def test_an_error_in_a_worker_arrives_as_it_is(pool: Executor) -> None:
    with pytest.raises(MultipleInputError, match=r"two of two\na.wav: found noise; expected sound") as caught:
        pool.map(work.fails, range(3), task="errors")
    assert [error.remedy for error in caught.value.errors] == ["Record again"] * 2


def test_warnings_of_workers_are_logged_once(pool: Executor, caplog: pytest.LogCaptureFixture) -> None:
    assert pool.map(work.warns, range(4), task="warnings") == [0, 1, 2, 3]
    assert sorted(record.getMessage() for record in caplog.records) == ["of 0", "of 1", "the same of all"]


def test_a_worker_without_the_folder_says_so(
    pool: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setattr("nearfar.executors.base.Path.cwd", lambda: gone)
    gone.rmdir()
    with pytest.raises(NearfarError, match="gone: a worker cannot use it"):
        pool.map(work.square, range(2), task="squares")


# --- the table --------------------------------------------------------------------------------------------------


def test_the_default_is_this_process() -> None:
    assert isinstance(default_executor(), LocalExecutor)
    assert isinstance(default_executor(ray=None, dask=None), LocalExecutor)
    assert set(EXECUTORS) == {"local", "launch", "ray", "dask"}


def test_one_cluster_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="ray: found several places"):
        default_executor(ray="auto", dask="tcp://127.0.0.1:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="ray: found several places"):
        default_executor(ray="auto")


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, {"ray": "ray", "dask": "distributed"}[name], None)
    with pytest.raises(InputError, match=rf"{name}: found no .* Run pip install 'nearfar\[{name}\]'"):
        default_executor(**{name: "127.0.0.1:1"})


def test_nothing_at_the_address_of_a_ray_cluster() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"ray: found no cluster at 127\.0\.0\.1:9 "):
        default_executor(ray="127.0.0.1:9")


# --- errors of other processes ----------------------------------------------------------------------------------


def test_errors_survive_pickling() -> None:
    one = InputError(Path("a.wav"), found="f", expected="e", remedy="R")
    several = MultipleInputError([one, InputError("key", found="x", expected="y?", remedy="Z")], ["line"])
    for error in (one, several):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert (copy.where, copy.found, copy.expected, copy.remedy) == (
            error.where,
            error.found,
            error.expected,
            error.remedy,
        )
    assert [str(error) for error in pickle.loads(pickle.dumps(several)).errors] == list(map(str, several.errors))
