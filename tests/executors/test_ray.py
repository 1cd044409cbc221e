"""A real Ray cluster of two nodes gives what one process gives, also when parts of it are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra nearfar[ray]")
pytestmark = pytest.mark.slow

VARYING = {"environment.json", "timing.json", "ablation.html", "detector.json", "log.jsonl", "model.json", ".lock"}
"""Files that hold dates and durations."""

RUN = ("run", "tiny-near", "--seeds", "0-2")
SETTINGS = {
    "training.steps": 60,
    "training.batch_size": 4,
    "training.warmup_steps": 2,
    "training.checkpoint_every": 5,
}
RUN += tuple(text for key, value in SETTINGS.items() for text in ("--set", f"{key}={value}"))
GRID = """
base = "nearfar-best"
[axes]
"scoring.backend" = ["nearest-neighbours", "mahalanobis"]
"features.keep_bands" = [true, false]
"""


class Cluster:
    """The nodes of ``cluster.py``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("cluster.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet()
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address

    def remove_second_node(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == "removed"

    def workers(self) -> list[int]:
        """Process ids of workers that compute tasks."""
        return [pid for pid in descendants(self.process.pid) if title(pid).startswith("ray::PoolActor")]

    def end(self) -> None:
        pids = descendants(self.process.pid)
        try:
            self.process.communicate(timeout=60)
        finally:
            self.process.kill()
            for pid in pids:  # only those that this test has started
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def quiet() -> dict[str, str]:
    """The environment of all processes; with the last variable, Ray listens on the loopback address alone."""
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}
    return os.environ | own | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    started = Cluster()
    try:
        yield started
    finally:
        started.end()


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nearfar", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet())


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until something is so, while a command is at work."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if condition():
            assert process.poll() is None, "the command ended before it could be disturbed"
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in VARYING
    }


def assert_same(one: Path, two: Path) -> None:
    expected, found = contents(one), contents(two)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


@pytest.fixture(scope="module")
def local_run(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    finish(start(*RUN, "--data", small_factory, "--out", out))
    scores = [*out.glob("seed_*/tiny-near/scores/*.csv")]
    assert len(scores) == 12, "scores and decisions of three seeds and two machines"
    assert "±" in (out / "table.md").read_text(encoding="utf-8")
    return out


def logs(out: Path) -> list[Path]:
    """Logs of trainings that have written a checkpoint and are not near their end."""
    found = [path for path in out.glob("models/*/log.jsonl") if (path.parent / "checkpoint.safetensors").exists()]
    return [path for path in found if path.read_text().count("\n") < SETTINGS["training.steps"] - 10]


def test_a_killed_worker_changes_nothing(
    cluster: Cluster, local_run: Path, small_factory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = start(*RUN, "--data", small_factory, "--out", out, "--ray", cluster.address)
    wait_for(lambda: logs(out) and cluster.workers(), command)
    os.kill(cluster.workers()[0], signal.SIGKILL)
    _, err = command.communicate(timeout=600)
    assert command.returncode == 0, err
    assert "runs: a worker was lost" in err
    assert_same(local_run, out)


def test_a_killed_command_continues_where_it_was(
    cluster: Cluster, local_run: Path, small_factory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = (*RUN, "--data", small_factory, "--out", out, "--ray", cluster.address)
    command = start(*arguments)
    wait_for(lambda: logs(out), command)
    command.kill()
    command.communicate()
    assert not (out / "table.json").exists()
    finish(start(*arguments))
    assert_same(local_run, out)


def test_a_host_that_is_lost_changes_nothing(
    cluster: Cluster, local_run: Path, small_factory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = start(*RUN, "--data", small_factory, "--out", out, "--ray", cluster.address)
    wait_for(lambda: len(logs(out)) > 1, command)
    cluster.remove_second_node()
    finish(command)
    assert_same(local_run, out)


def test_detectors_and_ablations_are_those_of_one_process(
    cluster: Cluster, small_factory: Path, tmp_path: Path
) -> None:
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    on_ray = ("--ray", cluster.address)
    for name, more in (("one", ()), ("ray", on_ray)):
        finish(start("fit", small_factory, "--out", tmp_path / name / "detector", *more))
        finish(
            start(
                "ablate", tmp_path / "grid.toml", "--data", small_factory, "--out", tmp_path / name / "grid", *more
            )
        )
    assert_same(tmp_path / "one", tmp_path / "ray")
    assert not (tmp_path / "ray" / "detector-parts").exists()
    files = ("score", tmp_path / "one" / "detector", small_factory, "--json")
    assert finish(start(*files, *on_ray)) == finish(start(*files))
