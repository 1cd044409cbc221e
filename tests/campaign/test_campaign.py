"""The oracle of the campaign refuses what it should; a short campaign finds nothing wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaign.commands import COMMANDS
from tests.campaign.harm import FLIPS, TRUNCATIONS, damage, sound_begins
from tests.campaign.oracle import MESSAGE, UNHARMED, Unharmed, WrongError, judge, require_whole
from tests.campaign.processes import Finished

ROOT = Path(__file__).resolve().parents[2]
HEAD = "file,score,status\n"
SCORE = COMMANDS["score --csv"]


def unharmed(out: str = f"{HEAD}a.wav,0.5,ok\nb.wav,0.25,ok\n", code: int = 0) -> Unharmed:
    return Unharmed(code, SCORE.numbers(Path(), out), {}, {}, 1.0, 1)


def outcome(code: int | None, out: str, err: str = "") -> str:
    return judge(SCORE, Finished(code, out, err, 1.0), Path(), [unharmed()], ["banks.safetensors"])


def test_right_numbers_and_messages_that_name_the_file_are_allowed() -> None:
    assert outcome(0, f"{HEAD}a.wav,0.5,ok\nb.wav,0.25,ok\n") == UNHARMED
    assert outcome(2, "", "nearfar: d/banks.safetensors: found a file that cannot be read") == MESSAGE
    failed = f"{HEAD}a.wav,,error\nb.wav,0.25,ok\n"
    assert outcome(2, failed, "nearfar: banks.safetensors") == MESSAGE


@pytest.mark.parametrize(
    ("code", "out", "err", "match"),
    [
        (0, f"{HEAD}a.wav,0.5,ok\nb.wav,0.26,ok\n", "", "another b.wav"),
        (0, f"{HEAD}a.wav,0.5,ok\n", "", "no b.wav"),
        (0, f"{HEAD}a.wav,0.5,ok\nb.wav,0.25,ok\nc.wav,1.0,ok\n", "", "c.wav, which should not be there"),
        (2, f"{HEAD}a.wav,0.5,ok\nb.wav,0.26,ok\n", "banks.safetensors", "another b.wav"),
        (2, "", "nearfar: something is wrong", "names none of banks.safetensors"),
        (1, f"{HEAD}a.wav,0.5,ok\nb.wav,0.25,ok\n", "", "exit code 1"),
        (2, "", "Traceback (most recent call last): banks.safetensors", "a traceback"),
        (-11, "", "", "signal 11"),
        (None, "", "", "did not end"),
    ],
)
def test_everything_else_is_wrong(code: int | None, out: str, err: str, match: str) -> None:
    with pytest.raises(WrongError, match=match):
        outcome(code, out, err)


def test_what_was_complete_must_stay_or_become_what_it_should() -> None:
    entry = Unharmed(0, {}, {"a": "old", "b": "kept"}, {"a": "new", "b": "kept", "c": "new"}, 1.0, 1)
    for state in ({"a": "old", "b": "kept"}, {"a": "new", "b": "kept", "c": "new"}):
        require_whole(state, entry)
    for state, match in (
        ({"a": "old"}, "b is lost"),
        ({"a": "half", "b": "kept"}, "a is changed"),
        ({"a": "new", "b": "kept", "c": "half"}, "c is not whole"),
    ):
        with pytest.raises(WrongError, match=match):
            require_whole(state, entry)


def test_damage_is_repeatable_and_says_whether_it_is_of_samples_alone(tmp_path: Path) -> None:
    header = b"RIFF\x2c\x00\x00\x00WAVEdata\x20\x00\x00\x00"
    path = tmp_path / "a.wav"
    found = set()
    for seed in range(200):
        results = []
        for _ in range(2):
            path.write_bytes(header + bytes(range(32)))
            words, only_samples = damage(path, random.Random(seed), FLIPS + TRUNCATIONS)
            results.append((words, only_samples, path.read_bytes()))
        assert results[0] == results[1]
        content = results[0][2]
        found.add(only_samples)
        assert only_samples == (content[: len(header)] == header and len(content) == len(header) + 32)
    assert found == {True, False}
    assert sound_begins(path, header) == len(header)


@pytest.mark.slow
def test_a_short_campaign_finds_nothing_wrong(tmp_path: Path) -> None:
    arguments = [
        "--quick",
        "--faults",
        "40",
        "--seconds",
        "45",
        "--seed",
        "1",
        "--wrong",
        tmp_path / "wrong.jsonl",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all |" in done.stdout
