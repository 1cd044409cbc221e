"""The command nearfar watch: folders, pipes, configurations, exit codes, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.command import Nearfar
from tests.watch.sounds import RATE_HZ, machine_sound, write_sound

from nearfar import Detector, load_recipe
from nearfar.files import exclusive
from nearfar.watch.memory import Memory


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    for number in range(24):
        write_sound(root / "mill" / f"{number:02d}.wav", machine_sound(number))
    recipe = load_recipe("frozen-near").with_changes(**{"calibration.group_by": "recording"})
    Detector.fit(root / "mill", recipe, machine="mill").save(root / "mill.detector")
    return root / "mill.detector"


def write_recordings(folder: Path, kinds: str, first: int = 100) -> None:
    now_s = time.time() - 10.0 * len(kinds) - 10.0
    for number, kind in enumerate(kinds, first):
        path = write_sound(folder / f"{number}.wav", machine_sound(number, fault=kind == "F"))
        os.utime(path, (now_s + 10.0 * number, now_s + 10.0 * number - 2000.0))


def configuration(path: Path, detector: Path, **tables: str) -> Path:
    lines = [
        'memory = "memory.sqlite"', "[alarm]", "count = 2", "of = 3", "clear_count = 2", "raise_level = 1.0",
        "clear_level = 0.9", "[machines.'mill 3']", f"detector = '{detector}'",
        *(f"{key} = {value}" for key, value in tables.items()),
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nearfar", *map(str, arguments)]


def test_one_machine_from_a_folder(nearfar_command: Nearfar, detector: Path, tmp_path: Path) -> None:
    write_recordings(tmp_path / "rec", "NN")
    arguments = ("watch", detector, "--folder", tmp_path / "rec", "--once", "--json", "--fail-on-alarm")
    code, out, err = nearfar_command(*arguments)
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["window"] for line in lines if line["kind"] == "window") == [1, 2]
    memory = Memory.open(tmp_path / "watch.sqlite")
    assert [entry.machine for entry in memory.machines()] == ["rec"]
    memory.close()
    assert nearfar_command(*arguments).out == ""  # nothing is new


def test_an_open_alarm_is_exit_code_1_if_asked_for(
    nearfar_command: Nearfar, detector: Path, tmp_path: Path
) -> None:
    config = configuration(tmp_path / "watch.toml", detector, folder="'rec'", once="true")
    write_recordings(tmp_path / "rec", "NFFF")
    assert nearfar_command("watch", config).code == 0
    code, out, _ = nearfar_command("watch", config, "--fail-on-alarm")
    assert (code, out) == (1, "")


def test_samples_of_a_pipe_are_watched_until_it_is_closed(detector: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "watch.toml", detector, source='"stdin"', sample_rate_hz=str(RATE_HZ))
    sound = (machine_sound(5, seconds=3.2).T * 32768).astype("<i2").tobytes()
    done = subprocess.run(command("watch", config, "--json"), input=sound, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert kinds.count("window") == 4  # the last fifth of a second is behind a window that ends with the sound


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watch_stops_when_it_is_told_to(detector: Path, tmp_path: Path, number: signal.Signals) -> None:
    config = configuration(tmp_path / "watch.toml", detector, folder="'rec'", settle_seconds="0.1")
    write_recordings(tmp_path / "rec", "NNN")
    with subprocess.Popen(
        command("watch", config, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        lines = [watch.stdout.readline() for _ in range(3)]
        watch.send_signal(number)
        assert watch.wait(60) == 0
        assert watch.stderr.read() == b""
    assert all(lines)
    memory = Memory.open(tmp_path / "memory.sqlite")
    assert memory.machine("mill 3").windows == 3
    memory.close()


def test_two_watches_of_one_memory_are_refused(nearfar_command: Nearfar, detector: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "watch.toml", detector, folder="'rec'", once="true")
    write_recordings(tmp_path / "rec", "N")
    with exclusive(tmp_path, tmp_path / "memory.sqlite.lock"):
        code, _, err = nearfar_command("watch", config)
    assert code == 2
    assert "another nearfar process" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{detector}"], "--folder"),
        (["{config}", "--once"], "--once"),
        (["missing.toml"], "missing.toml"),
        (["{detector}", "--folder", "{folder}", "--machine", "fan"], "no 'fan'"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    nearfar_command: Nearfar, detector: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    config = configuration(tmp_path / "watch.toml", detector, folder="'rec'")
    (tmp_path / "rec").mkdir()
    names = {"detector": detector, "config": config, "folder": tmp_path / "rec"}
    code, _, err = nearfar_command("watch", *(argument.format(**names) for argument in arguments))
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("count = 9", "alarm.count = 9; expected at most of = 3"),
        ("alrm = 1", "the unknown key alarm.alrm"),
        ("latching = 3", "alarm.latching = 3; expected true or false"),
    ],
)
def test_a_wrong_key_is_named(
    nearfar_command: Nearfar, detector: Path, tmp_path: Path, line: str, words: str
) -> None:
    config = configuration(tmp_path / "watch.toml", detector, folder="'rec'")
    text = config.read_text(encoding="utf-8")
    key = line.split(" ")[0]
    lines = [entry for entry in text.splitlines() if not entry.startswith(f"{key} =")]
    lines.insert(lines.index("[alarm]") + 1, line)
    config.write_text("\n".join(lines), encoding="utf-8")
    code, _, err = nearfar_command("watch", config)
    assert code == 2
    assert words in err
    assert "docs/watch.md" in err
