"""The identity of a list of recordings: their content and names, not where they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nearfar.data.clips import Clip, parse_clip
from nearfar.data.fingerprint import clips_key


def make_clip(folder: Path, index: int, content: bytes, machine: str = "fan") -> Clip:
    path = folder / machine / "train" / f"section_00_source_train_normal_{index:04d}_spd_1.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return parse_clip(path, machine, "train")


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [make_clip(tmp_path / "data", index, f"content {index}".encode()) for index in range(3)]


def test_the_key_is_the_documented_hash(clips: list[Clip]) -> None:
    text = b"".join(
        f"fan/train/{clip.path.name}\n".encode() + hashlib.sha256(clip.path.read_bytes()).digest()
        for clip in clips
    )
    assert clips_key(clips) == hashlib.sha256(text).hexdigest()


def test_the_same_recordings_elsewhere_have_the_same_key(clips: list[Clip], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = [replace(clip, path=tmp_path / "moved" / clip.path.relative_to(tmp_path / "data")) for clip in clips]
    for clip in moved:
        os.utime(clip.path, (1, 1))
    assert clips_key(moved) == clips_key(clips)
    assert clips_key(iter(moved)) == clips_key(clips)


def test_any_change_to_the_recordings_changes_the_key(clips: list[Clip], tmp_path: Path) -> None:
    keys = {
        "as they are": clips_key(clips),
        "one fewer": clips_key(clips[:2]),
        "another order": clips_key(clips[::-1]),
        "one twice": clips_key([*clips, clips[0]]),
        "another machine": clips_key([replace(clips[0], machine="pump"), *clips[1:]]),
        "another split": clips_key([replace(clips[0], split="test"), *clips[1:]]),
        "another name": clips_key([make_clip(tmp_path / "other", 7, b"content 0"), *clips[1:]]),
        "none": clips_key([]),
    }
    clips[0].path.write_bytes(b"content X")  # as long as before
    keys["another content"] = clips_key(clips)
    assert len(set(keys.values())) == len(keys)


def test_a_file_is_read_once_for_many_keys(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    key = clips_key(clips)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
    assert clips_key(clips) == key


def test_a_file_that_changed_is_read_again(clips: list[Clip]) -> None:
    key = clips_key(clips)
    before = clips[1].path.stat()
    clips[1].path.write_bytes(b"content X")
    os.utime(clips[1].path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    changed = clips_key(clips)
    assert changed != key
    clips[1].path.write_bytes(b"longer content")
    os.utime(clips[1].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert clips_key(clips) not in {key, changed}
