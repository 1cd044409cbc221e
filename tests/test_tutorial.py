"""Every command of the tutorial, run in order in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar import cli

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
SMALLER = (
    "--train-source 60 --train-target 10 --test 8 --seconds 2",
    "--train-source 20 --train-target 5 --test 4 --seconds 1",
)
"""What the tutorial simulates, and the smaller factory of the test."""


def blocks() -> list[tuple[str, str]]:
    """Language and text of every block that has a language."""
    return re.findall(
        r"^```(bash|python)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def run_line(line: str, patch: pytest.MonkeyPatch) -> int:
    """A line of bash; a plain nearfar command runs in this process, which has loaded torch already."""
    if not line.startswith("nearfar ") or re.search(r"[|>&;]", line):
        return subprocess.run(["bash", "-c", line], check=False, capture_output=True).returncode
    words = []
    for word in shlex.split(line):
        words += sorted(map(str, Path().glob(word))) if re.search(r"[*?[]", word) else [word]
    patch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.mark.slow
def test_every_command_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "nearfar").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nearfar "$@"\n')
    (commands / "nearfar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    found = blocks()
    assert SMALLER[0] in found[0][1]
    ran = 0
    for language, text in found:
        if language == "python":
            exec(compile(text, str(TUTORIAL), "exec"), {})
            continue
        for line in text.replace(*SMALLER).splitlines():
            # 25 recordings do not support a rate of 0.02.
            code = run_line(line.replace("--false-alarm-rate 0.02", "--false-alarm-rate 0.1"), monkeypatch)
            assert code == 0, line
            ran += 1
    assert ran > 15
    assert Path("scores.csv").read_text().count("anomaly") >= 16
    assert Path("pump7-python/detector.json").is_file()
