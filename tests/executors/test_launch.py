"""The processes of a distributed launch share the tasks and give what one process gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.command import LAUNCH

from nearfar.evaluation.scorefiles import read_scores

pytestmark = pytest.mark.slow

VARYING = {"environment.json", "timing.json", "ablation.html", "detector.json", "log.jsonl", "model.json", ".lock"}
"""Files that hold dates, durations and numbers of processes."""

FACTS = ".facts.safetensors"
"""Facts of signals, which processes hand to the first one in files where features are not stored."""

LAUNCHER = ["-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "nearfar"]
AUTOENCODER = ("run", "ae-mse", "--set", "autoencoder.epochs=2")
TRAINED = (
    "run", "tiny-near", "--set", "training.steps=40", "--set", "training.batch_size=4",
    "--set", "training.warmup_steps=2", "--set", "training.checkpoint_every=4",
)  # fmt: skip
GRID = 'base = "nearfar-best"\n[axes]\n"features.keep_bands" = [true, false]\n"scoring.neighbours" = [1, 2]\n'


def start(*arguments: str | Path, processes: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, *(LAUNCHER if processes > 1 else ["-m", "nearfar"]), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in VARYING and not path.name.endswith(FACTS)
    }


@pytest.mark.parametrize("system", [("run", "auto"), AUTOENCODER], ids=["auto", "ae-mse"])
def test_runs_are_the_same_bit_for_bit(system: tuple[str, ...], small_factory: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        out = tmp_path / str(processes)
        printed = finish(start(*system, "--data", small_factory, "--out", out, processes=processes))
        assert printed.count("Everything is in") == 1, "the second process prints nothing"
    one, two = (contents(tmp_path / name) for name in "12")
    assert one.keys() == two.keys()
    assert any(name.startswith("scores/") for name in one)
    cards = {name for name in one if name.startswith("model/autoencoder_") and name.endswith(".json")}
    assert {name: two[name] for name in two if name not in cards} == {
        name: one[name] for name in one if name not in cards
    }


def test_detectors_scores_and_ablations_are_the_same(small_factory: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    printed = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        finish(start("fit", small_factory, "--out", out / "detector", processes=processes))
        grid = ("ablate", tmp_path / "grid.toml", "--data", small_factory, "--out", out / "grid")
        finish(start(*grid, processes=processes))
        files = ("score", out / "detector", small_factory, "--json")
        printed[processes] = finish(start(*files, processes=processes))
        embed = ("embed", small_factory / "hummer" / "test", "--encoder", "random:tiny", "--out", out / "e.npy")
        finish(start(*embed, processes=processes))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert printed[1] == printed[2]
    assert len(np.load(tmp_path / "2" / "e.npy")) == 8


def test_a_process_that_dies_ends_the_launch_and_it_resumes(small_factory: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        out = tmp_path / name
        launch = start(*TRAINED, "--data", small_factory, "--out", out)
        if name == "killed":
            log = out / "model" / "log.jsonl"
            end = time.monotonic() + 300
            while not (out / "model" / "checkpoint.safetensors").exists() and time.monotonic() < end:
                assert launch.poll() is None
                time.sleep(0.02)
            os.kill(children(launch.pid)[1], signal.SIGKILL)
            _, err = launch.communicate(timeout=300)
            assert launch.returncode != 0
            assert "SIGKILL" in err, "the launcher says which process died"
            assert 0 < log.read_text().count("\n") < 40
            assert not (out / "model" / "model.json").exists()
            launch = start(*TRAINED, "--data", small_factory, "--out", out)
        finish(launch)
    whole, killed = (read_scores(tmp_path / name / "scores") for name in ("whole", "killed"))
    for one, other in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


def test_an_error_of_one_process_is_printed_and_ends_all(small_factory: Path, tmp_path: Path) -> None:
    launch = start("score", tmp_path / "missing", small_factory)
    _, err = launch.communicate(timeout=300)
    assert launch.returncode != 0
    assert "missing: found no such folder; expected a detector's folder" in err


def children(pid: int) -> list[int]:
    """Processes that a process started, oldest first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append((int(fields[19]), int(stat.parent.name)))
    return [child for _, child in sorted(found)]
