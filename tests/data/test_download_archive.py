"""Archives cannot write outside their folder, and existing files are never lost."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from nearfar.data.download.archive import merge, unpack
from nearfar.errors import InputError

Usage = namedtuple("Usage", "total used free")


def write_zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    """An entry of exactly this name: ZipInfo would cut and translate it."""
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_and_folders_are_unpacked(tmp_path):
    big = bytes(range(256)) * 10_000
    archive = write_zip(
        tmp_path / "a.zip",
        ("fan/", b""),
        ("fan/train/", b""),
        ("./fan/train/clip..v2.wav", big),
        ("fan/attributes_00.csv", b"file_name\n"),
        ("empty", b""),
    )
    steps = []
    unpack(archive, tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert tree(tmp_path / "out") == {
        "fan/train/clip..v2.wav": big,
        "fan/attributes_00.csv": b"file_name\n",
        "empty": b"",
    }
    assert steps[-1] == (len(big) + 10, len(big) + 10)


@pytest.mark.parametrize(
    ("name", "objection"),
    [
        ("../evil.wav", "leaves the folder"),
        ("fan/../../evil.wav", "leaves the folder"),
        ("fan/..", "leaves the folder"),
        ("fan\\..\\..\\evil.wav", "leaves the folder"),
        ("/tmp/evil.wav", "absolute path"),
        ("//host/share/evil.wav", "absolute path"),
        ("\\evil.wav", "absolute path"),
        ("C:\\evil.wav", "absolute path"),
        ("c:evil.wav", "absolute path"),
        ("fan/clip.wav:stream", "colon"),
        ("fan\\clip.wav", "backslash"),
        ("fan/clip.wav\x00.txt", "control character"),
        ("fan/\x1b[2J.wav", "control character"),
        ("./", "empty name"),
    ],
)
def test_names_outside_the_folder_are_refused_and_nothing_is_written(tmp_path, name, objection):
    archive = write_zip(tmp_path / "a.zip", ("fan/good.wav", b"good"), (entry(name), b"evil"))
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(InputError, match=objection) as caught:
        unpack(archive, inside / "out")
    assert repr(name) in str(caught.value)
    assert "nothing of it was written" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "inside"]
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "objection"),
    [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a special file"), (stat.S_IFCHR, "a special file")],
)
def test_links_and_special_files_are_refused(tmp_path, kind, objection):
    link = entry("fan/train", kind | 0o777)
    archive = write_zip(tmp_path / "a.zip", (link, b"/etc"), ("fan/train/clip.wav", b"clip"))
    with pytest.raises(InputError, match=f"{objection}: 'fan/train'"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_file_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("fan/a.wav", b"one"), ("fan/./a.wav", b"two"))
    with pytest.raises(InputError, match=r"'fan/\./a\.wav' twice"):
        unpack(archive, tmp_path / "out")
    mixed = write_zip(tmp_path / "c.zip", ("fan", b"one"), ("fan/", b""))
    with pytest.raises(InputError, match="'fan/' twice"):
        unpack(mixed, tmp_path / "out")
    twice = write_zip(tmp_path / "b.zip", ("fan/", b""), ("fan/", b""), ("fan/a.wav", b"one"))
    unpack(twice, tmp_path / "out")
    assert tree(tmp_path / "out") == {"fan/a.wav": b"one"}


def test_an_encrypted_entry_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("fan/a.wav", b"one"))
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match="an encrypted entry"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip", "empty"])
def test_damaged_archives(tmp_path, damage):
    archive = write_zip(tmp_path / "a.zip", ("fan/a.wav", bytes(range(256)) * 40))
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    damaged = {"cut": content[:-30], "flipped": content, "no zip": b"<html>", "empty": b""}[damage]
    archive.write_bytes(damaged)
    with pytest.raises(InputError, match="found an archive that cannot be read"):
        unpack(archive, tmp_path / "out")


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", ("fan/a.wav", bytes(3_000_000)))
    assert archive.stat().st_size < 5000
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 102_000_000))
    with pytest.raises(InputError, match=r"found 0\.10 GB free; expected 0\.10 GB for the 1 entries of a\.zip"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 104_000_000))
    unpack(archive, tmp_path / "out")


def test_a_directory_that_understates_sizes_does_not_get_more_written(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("fan/a.wav", bytes(100_000)))
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 1000)
    archive.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        unpack(archive, tmp_path / "out")
    assert sum(len(written) for written in tree(tmp_path / "out").values()) <= 1000


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_merging_adds_new_files_and_keeps_existing_ones(tmp_path):
    target = fill(tmp_path / "out", {"fan/train/1.wav": b"1", "fan/train/mine.wav": b"m", "fan/a.csv": b"train"})
    source = fill(
        tmp_path / "aside",
        {"fan/train/1.wav": b"1", "fan/train/2.wav": b"2", "fan/test/3.wav": b"3", "fan/a.csv": b"test"},
    )
    merge(source, target, origin="fan_test")
    assert tree(target) == {
        "fan/train/1.wav": b"1",
        "fan/train/2.wav": b"2",
        "fan/train/mine.wav": b"m",
        "fan/test/3.wav": b"3",
        "fan/a.csv": b"train",
        "fan/a.fan_test.csv": b"test",
    }


@pytest.mark.parametrize(
    ("existing", "new"),
    [
        ({"fan/train/1.wav": b"mine"}, {"fan/train/1.wav": b"1"}),
        ({"fan/train": b"a file"}, {"fan/train/1.wav": b"1"}),
        ({"fan/1.wav/x": b"in a folder"}, {"fan/1.wav": b"1"}),
    ],
)
def test_merging_never_replaces(tmp_path, existing, new):
    target = fill(tmp_path / "out", existing)
    with pytest.raises(InputError, match="Move it and rerun the same command"):
        merge(fill(tmp_path / "aside", new), target, origin="fan")
    assert tree(target) == existing
