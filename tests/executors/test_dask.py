"""A Dask cluster of two workers gives what one process gives, also when a worker is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.executors import work

from nearfar.executors import Executor, default_executor

pytest.importorskip("distributed", reason="needs the extra nearfar[dask]")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    script = Path(__file__).with_name("dask_workers.py")
    path = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])  # for tests.executors.work
    cluster = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        assert cluster.stdout is not None
        yield cluster.stdout.readline().strip()
    finally:
        cluster.communicate(timeout=60)


@pytest.fixture
def executor(address: str) -> Iterator[Executor]:
    found = default_executor(dask=address)
    yield found
    found.client.close()  # type: ignore[attr-defined]


def test_tasks_of_a_killed_worker_run_again(executor: Executor, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(6)] + [tmp_path / "last"]
    (tmp_path / "last").mkdir()
    assert executor.map(work.one_is_killed, folders, task="names") == [*"012345", "last"]
    assert (tmp_path / "last" / "killed").exists()


def test_runs_and_detectors_are_those_of_one_process(address: str, small_factory: Path, tmp_path: Path) -> None:
    for name, more in (("one", ()), ("dask", ("--dask", address))):
        out = tmp_path / name
        for arguments in (
            ("fit", small_factory, "--out", out / "detector"),
            ("run", "ae-mse", "--set", "autoencoder.epochs=2", "--data", small_factory, "--out", out / "run"),
        ):
            command = [sys.executable, "-m", "nearfar", *map(str, (*arguments, *more))]
            finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
            assert finished.returncode == 0, finished.stderr
    for pattern in ("detector/banks.safetensors", "detector/calibration.json", "run/scores/*.csv"):
        expected = sorted((tmp_path / "one").glob(pattern))
        assert expected
        for path in expected:
            assert (tmp_path / "dask" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes(), path
