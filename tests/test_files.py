"""Files are there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar.errors import InputError, NearfarError
from nearfar.files import (
    exchange,
    exclusive,
    read_json,
    require_signature,
    reset_permissions,
    whole_file,
    write_json,
    write_signed_json,
    write_text,
)


def test_a_file_takes_its_place_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "anomaly_score_fan.csv"
    with whole_file(path) as partial:
        partial.write_bytes(b"first")
        assert not path.exists()
        assert partial.parent == path.parent
        assert partial.suffix == ".csv"  # numpy and matplotlib choose the format by it
        assert not list(path.parent.glob("anomaly_score_*"))  # no reader takes it for a file of scores
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"before")

    def write_half() -> None:
        with whole_file(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"before")
    code = (
        "import os, pathlib, sys; from nearfar.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
    assert path.read_bytes() == b"before"


def test_what_a_killed_program_left_is_removed_in_time(tmp_path: Path) -> None:
    path = tmp_path / "check[1].safetensors"
    old, new = (tmp_path / f".check[1].{pid}.partial.safetensors" for pid in (11, 12))
    other = tmp_path / ".checkpoint.11.partial.safetensors"
    for partial in (old, new, other):
        partial.write_bytes(b"half")
    for partial in (old, other):
        os.utime(partial, (1e9, 1e9))
    with whole_file(path) as partial:
        partial.write_bytes(b"whole")
    assert set(tmp_path.iterdir()) == {path, new, other}


def test_text_and_json_are_utf8_and_replace_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.md", "0,5 µV – ä")
    assert (tmp_path / "a.md").read_bytes() == "0,5 µV – ä".encode()
    for tree in ({"where": Path("a"), "ä": [1.5, None]}, {"b": 1}):
        write_json(tmp_path / "a.json", tree)
        read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert read == {key: str(value) if isinstance(value, Path) else value for key, value in tree.items()}


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NearfarError, match=r"a\.md: cannot write it \(.+\)\. Free some space or choose another"):
        write_text(tmp_path / "file" / "a.md", "text")


def test_permissions_follow_the_umask_whatever_a_library_sets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.safetensors") as partial:
            partial.unlink()
            partial.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


def test_permissions_of_a_folder_can_be_reset(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").touch(mode=0o600)
    reset_permissions(tmp_path)
    (tmp_path / "new").touch()
    assert (tmp_path / "below" / "file").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_signed_object_is_refused_once_it_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_signed_json(path, {"seconds": 1.25, "where": Path("ä")})
    tree = read_json(path)
    require_signature(tree)
    assert tree["seconds"] == 1.25
    assert tree["where"] == "ä"
    with pytest.raises(ValueError, match="SHA-256"):
        require_signature({**tree, "seconds": 1.26})
    require_signature({"seconds": 1.25})  # of an earlier version
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="a list"):
        read_json(path)


HOLD = (
    "import pathlib, sys; from nearfar.files import exclusive\n"
    "with exclusive(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_until_the_first_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for end in ("close", "kill"):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(InputError, match=r"run: found another nearfar process"), exclusive(folder):
                pass
            if end == "kill":
                other.kill()
            else:
                other.stdin.close()
            other.wait()
        with exclusive(folder):
            assert folder.is_dir()
        assert (end == "kill") == folder.exists()  # a killed process cannot remove the folder that it made


def test_a_locked_folder_holds_nothing_else_afterwards(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a" / "b"), exclusive(tmp_path / "c"):
        (tmp_path / "c" / "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c", "file"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_folders_are_exchanged(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    assert not exchange(tmp_path / "one", tmp_path / "missing")
    assert (tmp_path / "one" / "other").exists()
