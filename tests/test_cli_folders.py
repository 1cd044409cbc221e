"""One folder as people have it, through every command that reads folders: all find the same recordings."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from tests.command import Nearfar
from tests.fixtures import write_clip

from nearfar.data.recordings import find_recordings
from nearfar.files import as_path, as_text

APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 60


@pytest.fixture(scope="module")
def pump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of normal running, half of them below, among what computers and people leave."""
    root = tmp_path_factory.mktemp("files") / "pump"
    for index in range(10):
        write_clip(root / ("" if index < 5 else "2024-05") / f"{index}.wav", 1.0, 440.0, index)
    for name in ("._0.wav", "__MACOSX/._0.wav", ".Trash-1000/files/gone.wav", "2024-05/._5.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(APPLE)
    (root / "Thumbs.db").write_bytes(b"x")
    (root / "old.mp3").write_bytes(b"ID3")
    (root / "notes.txt").write_text("oiled on Monday")
    if sys.platform != "win32":
        (root / "latest").symlink_to("2024-05")
        (root / "2024-05" / "all").symlink_to("..")
        os.mkfifo(root / "pipe.wav")
    return root


def test_every_command_finds_the_same_recordings(
    pump: Path, tmp_path: Path, nearfar_command: Nearfar, caplog: pytest.LogCaptureFixture
) -> None:
    paths = {path for path in pump.rglob("*.wav") if path.stem.isdigit() and "latest" not in path.parts}
    expected = sorted(str(path) for path in paths if "all" not in path.parts)
    assert len(expected) == 10

    def messages() -> list[str]:
        found = list(caplog.messages)
        caplog.clear()
        return [message for message in found if "old.mp3" in message or "5 hidden or system entries" in message]

    fitted = nearfar_command("fit", pump, "--out", tmp_path / "detector")
    assert fitted.code == 0, fitted.err
    assert len(messages()) == 2  # what is left out is printed once
    assert json.loads(nearfar_command("threshold", tmp_path / "detector", "--json").out)[0]["recordings"] == 10
    summary = json.loads(nearfar_command("data", pump, "--json").out)
    assert [sum(group["clips"] for group in machine["clips"]) for machine in summary["machines"]] == [10]
    assert summary["hidden"] == 5
    assert any("notes.txt" in warning for warning in summary["warnings"])
    assert messages() == []
    scored = nearfar_command("score", tmp_path / "detector", pump, "--json")
    assert sorted(entry["file"] for entry in json.loads(scored.out)) == expected
    assert len(messages()) == 2
    embedded = nearfar_command("embed", pump, "--encoder", "random:tiny", "--out", tmp_path / "e.npy")
    assert (embedded.code, np.load(tmp_path / "e.npy").shape[0]) == (0, 10)
    assert len(messages()) == 2
    assert sorted(str(file.path) for file in find_recordings([pump])) == expected
    assert len(messages()) == 2


def test_carriage_returns_in_names(pump: Path, tmp_path: Path, nearfar_command: Nearfar) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names")
    machine = tmp_path / "own" / "pump"
    for part, count in (("normal", 6), ("test/normal", 2), ("test/leak", 2)):
        for index in range(count):
            write_clip(machine / part / f"{index}\rx.wav", 1.0, 440.0 if "normal" in part else 900.0, index)
    ran = nearfar_command("run", "nearfar-best", "--data", tmp_path / "own", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    evaluated = nearfar_command("evaluate", "--scores", tmp_path / "run")
    assert evaluated.code == 0, evaluated.err


@pytest.mark.parametrize("factor", [1e4, 1e18, 1e30])
def test_absurd_samples_are_an_error_of_the_recording(
    factor: float, pump: Path, tmp_path: Path, nearfar_command: Nearfar
) -> None:
    samples, rate = soundfile.read(pump / "0.wav", dtype="float32")
    soundfile.write(
        tmp_path / "pump.wav", samples * np.float32(factor / np.abs(samples).max()), rate, subtype="FLOAT"
    )
    embedded = nearfar_command(
        "embed", tmp_path / "pump.wav", "--encoder", "random:tiny", "--out", tmp_path / "e.npy"
    )
    assert embedded.code == 2
    assert f"pump.wav: found samples as large as {factor:.3g}" in embedded.err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_names_that_are_not_utf8(pump: Path, tmp_path: Path, nearfar_command: Nearfar) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfchle.wav"))
    path.write_bytes((pump / "0.wav").read_bytes())
    for out in ("e.npy", "e.safetensors"):
        embedded = nearfar_command("embed", path, "--encoder", "random:tiny", "--out", tmp_path / out)
        assert embedded.code == 0, embedded.err
    with safe_open(tmp_path / "e.safetensors", framework="pt") as file:
        assert file.metadata()["files"] == as_text(path)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_a_detector_of_odd_names(pump: Path, tmp_path: Path, nearfar_command: Nearfar) -> None:
    """Bytes that are no UTF-8, line feeds, control characters of a terminal, names as long as can be."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xfcmp"))
    folder.mkdir()
    odd = [b"\xff.wav", b"line\nfeed.wav", b"\x1b[31mred.wav", b"l" * 251 + b".wav"]
    for number, path in enumerate([*pump.glob("[0-9].wav"), *(pump / "2024-05").glob("[0-9].wav")]):
        name = odd[number] if number < len(odd) else b"%d\xfe.wav" % number
        (folder / os.fsdecode(name)).write_bytes(path.read_bytes())
    detector = tmp_path / "detector"
    assert nearfar_command("fit", folder, "--out", detector).code == 0
    files = [folder / os.fsdecode(name) for name in odd]
    shown = nearfar_command("score", detector, *files)
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out + shown.err
    assert r"\x1b[31mred.wav" in shown.out
    rows = json.loads(nearfar_command("score", detector, *files, "--json").out)
    assert [Path(row["file"]) for row in rows] == files  # reversible
    assert {row["machine"] for row in rows} == {r"p\udcfcmp"}
    table = list(csv.DictReader(io.StringIO(nearfar_command("score", detector, *files, "--csv").out, newline="")))
    assert [as_path(row["file"]) for row in table] == files
    copied = nearfar_command("add", detector, files[0], "--normal")
    assert copied.code == 2
    assert "which is there already" in copied.err
    assert nearfar_command("add", detector, files[0].parent / os.fsdecode(b"\xff.wav"), "--fault", "x").code == 2
    assert nearfar_command("undo", detector, "--list").code == 0
