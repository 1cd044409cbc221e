"""The checks of nearfar doctor, each with something that is wrong and with everything in order."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.command import Nearfar
from tests.fixtures import write_clip

from nearfar.detector import Detector
from nearfar.watch import doctor
from nearfar.watch.config import checked_config
from nearfar.watch.doctor import Check, State, check_clock, check_disk, examine
from nearfar.web.access import token_sha256


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor")
    for number in range(24):
        write_clip(root / "pump" / f"{number:04d}.wav", 1.0, 440.0, number)
    Detector.fit(root / "pump").save(root / "detector")
    return root / "detector"


@pytest.fixture
def examined(detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Check]]:
    """The checks of a machine whose recorder writes into a folder, by subject."""
    monkeypatch.setattr(doctor, "WAIT_S", 1.0)

    def run(**table: Any) -> dict[str, Check]:
        machine = {"detector": str(detector), "folder": "in", "settle_seconds": 0.01, **table}
        config = checked_config({"machines": {"pump": machine}, "keep": {"audio_bytes": 1000}}, "test")
        return {check.subject: check for check in examine(config, tmp_path)}

    return run


def test_a_machine_in_order_is_good(examined: Callable[..., dict[str, Check]], tmp_path: Path) -> None:
    write_clip(tmp_path / "in" / "0001.wav", 1.0, 440.0, 77)
    checks = examined()
    assert checks["disk"].state is State.GOOD
    assert checks["pump: detector"].state is State.GOOD
    assert "24 normal scores" in checks["pump: detector"].text
    source = checks["pump: folder"]
    assert source.state is State.GOOD
    near, far = soundfile.read(tmp_path / "in" / "0001.wav")[0].T
    levels = [round(10 * np.log10(np.var(channel))) for channel in (near, far)]
    assert source.text == f"2 channels at 16000 Hz; near {levels[0]} dB, far {levels[1]} dB relative to full scale"


def test_no_recording_is_a_warning_and_no_folder_a_problem(
    examined: Callable[..., dict[str, Check]], tmp_path: Path
) -> None:
    missing = examined()["pump: folder"]
    assert missing.state is State.PROBLEM
    assert "there is no such folder" in missing.text
    (tmp_path / "in").mkdir()
    empty = examined()["pump: folder"]
    assert empty.state is State.WARNING
    assert "no sound within 1 s" in empty.text


@pytest.mark.parametrize(
    ("spoil", "state", "words"),
    [
        (lambda sound: sound * [0.0, 1.0], State.PROBLEM, "The near microphone gives no signal"),
        (lambda sound: np.clip(sound * 100, -1, 1), State.WARNING, "The near microphone is clipped"),
        (lambda sound: sound * 0.1, State.WARNING, "at the near microphone: check gain and position"),
        (lambda sound: sound[:, :1], State.PROBLEM, "1 channels, and no far = 1"),
    ],
    ids=["dead", "clipped", "quiet", "one channel"],
)
def test_a_microphone_that_is_not_in_order_is_named(
    examined: Callable[..., dict[str, Check]], tmp_path: Path, spoil: Any, state: State, words: str
) -> None:
    path = tmp_path / "in" / "0001.wav"
    write_clip(path, 1.0, 440.0, 77)
    soundfile.write(path, spoil(soundfile.read(path)[0]), 16_000, subtype="PCM_16")
    found = examined()["pump: folder"]
    assert found.state is state
    assert words in found.text


def test_a_file_that_is_no_recording_is_a_problem(
    examined: Callable[..., dict[str, Check]], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0001.wav").write_bytes(b"no sound")
    found = examined(incomplete_seconds=0.01)["pump: folder"]
    assert found.state is State.PROBLEM
    assert "0001.wav" in found.text


def test_a_detector_that_cannot_be_used_is_a_problem(
    examined: Callable[..., dict[str, Check]], tmp_path: Path
) -> None:
    found = examined(detector=str(tmp_path / "none"))
    assert found["pump: detector"].state is State.PROBLEM
    assert "pump: folder" not in found, "without a detector nobody knows the channels"


def test_a_full_disk_is_a_warning_and_one_that_is_read_only_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_disk(tmp_path, 1000).state is State.GOOD
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 999))  # type: ignore[attr-defined]
    full = check_disk(tmp_path, 2_000_000_000)
    assert full.state is State.WARNING
    assert "allows 2.0 GB of sound" in full.text
    (tmp_path / "file").write_text("")
    assert check_disk(tmp_path / "file", 1000).state is State.PROBLEM


@pytest.mark.parametrize(
    ("answer", "state"), [("yes\n", State.GOOD), ("no\n", State.WARNING), ("", State.GOOD), (None, State.GOOD)]
)
def test_a_clock_that_no_server_sets_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, answer: str | None, state: State
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == "timedatectl"
        if answer is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, answer)

    monkeypatch.setattr(subprocess, "run", run)
    assert check_clock().state is state


def test_the_command_exits_with_two_for_a_problem(
    nearfar_command: Nearfar, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WAIT_S", 1.0)
    monkeypatch.chdir(tmp_path)
    code, out, _ = nearfar_command("doctor")
    assert code == 0
    assert "disk: " in out
    config = tmp_path / "site.toml"
    config.write_text(f'[machines.pump]\ndetector = "{detector}"\nfolder = "in"\n', encoding="utf-8")
    code, out, _ = nearfar_command("doctor", config, "--json")
    assert code == 2
    states = {entry["subject"]: entry["state"] for entry in json.loads(out)}
    assert states["pump: folder"] == "problem"
    assert states["pump: detector"] == "good"


def test_a_token_is_printed_once_with_lines_for_the_configuration(nearfar_command: Nearfar) -> None:
    code, out, _ = nearfar_command("token", 'Ada "the" L.', "--role", "operate")
    assert code == 0
    secret = next(line.strip() for line in out.splitlines() if line.strip().startswith("nf_"))
    tables = tomllib.loads(out[out.index("[page.tokens") :])
    (entry,) = tables["page"]["tokens"].values()
    assert entry == {"role": "operate", "sha256": token_sha256(secret)}
    assert list(tables["page"]["tokens"]) == ['Ada "the" L.']
    assert secret not in out[out.index("[page.tokens") :]
    again = nearfar_command("token", "x").out
    assert secret not in again
    code, _, err = nearfar_command("token", "x", "--role", "operator")
    assert code == 2
    assert "did you mean 'operate'" in err
