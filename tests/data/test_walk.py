"""What is in a folder: links, hidden entries, other formats, and folders that are left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nearfar.data import read_dataset, read_normals
from nearfar.data.walk import found_recordings, walk
from nearfar.errors import InputError
from nearfar.files import as_path, as_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_files_by_kind_and_in_order(tmp_path: Path) -> None:
    root = touch(tmp_path / "pump", "b.wav", "a/2.FLAC", "a/10.wav", "a.wav", "c.mp3", "a/d.M4A", "notes.txt")
    walked = walk(root)
    assert names(root, walked.files) == ["a/10.wav", "a/2.FLAC", "a.wav", "b.wav"]
    assert names(root, walked.foreign) == ["a/d.M4A", "c.mp3"]
    assert names(root, walked.others) == ["notes.txt"]
    assert walked.hidden == 0
    assert walked.warnings("pump", ("readme",)) == [
        "pump: 2 recordings that are neither WAV nor FLAC and not read, such as a/d.M4A",
        "pump: files that are not read (1), such as notes.txt",
    ]


HIDDEN = (
    "._0.wav", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._0.wav", ".Trash-1000/files/gone.wav",
    "$RECYCLE.BIN/x.wav", "System Volume Information/y.wav", "a/@eaDir/z.wav", "a/.hidden/deep/w.wav",
)  # fmt: skip


def test_hidden_and_system_entries_are_counted(tmp_path: Path) -> None:
    root = touch(tmp_path / "pump", "0.wav", "a/1.wav", *HIDDEN)
    walked = walk(root)
    assert names(root, walked.files) == ["0.wav", "a/1.wav"]
    assert walked.hidden == len(HIDDEN)


def test_a_hidden_folder_is_read_when_it_is_the_one_that_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path / ".Trash-1000" / "files", "gone.wav")
    assert len(walk(root).files) == 1


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root = touch(tmp_path / "pump", "normal/a.wav", "normal/z/b.wav")
    touch(tmp_path / "elsewhere", "c.wav")
    normal = root / "normal"
    (normal / "again").symlink_to(".")
    (normal / "up").symlink_to("..")
    (normal / "top").symlink_to(tmp_path)
    (normal / "first").symlink_to("z")  # before z, which keeps its own path
    (normal / "other").symlink_to(tmp_path / "elsewhere")
    walked = walk(normal)
    assert names(normal, walked.files) == ["a.wav", "other/c.wav", "z/b.wav"]
    assert names(normal, walked.repeated) == ["again", "first", "top", "up"]
    (text,) = walked.warnings("pump")
    assert text == "pump: 4 links to folders that are read under other paths, and not followed, such as again"
    (tmp_path / "link").symlink_to(normal)
    assert walk(tmp_path / "link").files[0] == tmp_path / "link" / "a.wav"


def test_a_link_into_a_folder_that_is_left_out(tmp_path: Path) -> None:
    root = touch(tmp_path / "pump", "normal/a.wav", "test/leak/b.wav", "normal/Test/c.wav")
    (root / "normal" / "more").symlink_to(Path("..") / "test" / "leak")
    walked = walk(root / "normal", exclude={"test"})
    assert names(root, walked.files) == ["normal/a.wav"]
    assert names(root, walked.excluded) == ["normal/Test", "normal/more"]


def test_pipes_and_folders_that_cannot_be_listed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touch(tmp_path / "pump", "a.wav", "locked/b.wav")
    os.mkfifo(root / "pipe.wav")
    iterdir = Path.iterdir

    def refusing(folder: Path):
        if folder.name == "locked":
            raise PermissionError
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refusing)
    walked = walk(root)
    assert names(root, walked.files) == ["a.wav"]
    assert sorted(names(root, walked.unreadable)) == ["locked", "pipe.wav"]
    assert walked.warnings("pump")[0].startswith("pump: 2 entries that are unreadable, such as ")


def test_a_broken_link_is_a_recording_that_cannot_be_read(tmp_path: Path) -> None:
    root = touch(tmp_path / "pump", "a.wav")
    (root / "b.wav").symlink_to("nowhere.wav")
    dataset = read_normals(root)
    assert [clip.name for clip in dataset.clips] == ["a.wav", "b.wav"]
    error = dataset.headers()[root / "b.wav"]
    assert isinstance(error, InputError)
    assert "No such file" in error.found


def test_files_and_folders_are_found_once_and_what_is_left_out_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = touch(tmp_path / "pump", "b.wav", "a.wav", "c.mp3", "._a.wav")
    files, (folder,) = found_recordings([root / "b.wav", root])
    assert files == [root / "b.wav", root / "a.wav"]
    assert folder.root == root
    assert caplog.messages == [
        f"{root}: 1 recording that is neither WAV nor FLAC and not read, such as c.mp3",
        f"{root}: 1 hidden or system entry is left out",
    ]


# --- machines' folders ------------------------------------------------------------------------------------------


def shape(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    dataset = read_dataset(root)
    return {
        machine: ([c.name for c in dataset.train(machine)], [c.name for c in dataset.test(machine)])
        for machine in dataset.machines
    }


@pytest.mark.parametrize(
    ("normal", "test", "healthy"), [("Normal", "Test", "normal"), ("NORMAL", "test", "Normal")]
)
def test_parts_of_a_machine_in_any_case(tmp_path: Path, normal: str, test: str, healthy: str) -> None:
    touch(tmp_path / "own" / "pump", f"{normal}/1.wav", f"{test}/{healthy}/2.wav", f"{test}/leak/3.wav")
    expected = {"pump": (["1.wav"], sorted([f"{healthy}/2.wav", "leak/3.wav"]))}
    assert shape(tmp_path / "own") == shape(tmp_path / "own" / "pump") == expected
    labels = {clip.name: clip.label for clip in read_dataset(tmp_path / "own").clips}
    assert (labels[f"{healthy}/2.wav"], labels["leak/3.wav"]) == ("normal", "anomaly")


def test_the_table_of_attributes_and_parts_in_another_case(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "Normal/Lu\u0308fter.wav", "Normal/2.wav")
    table = "file_name,speed\n./normal/L\u00fcfter.wav,1200\n,\n\nNORMAL//2.wav,900\n"
    (tmp_path / "pump" / "attributes.csv").write_text(table, encoding="utf-8")
    assert {clip.attributes for clip in read_dataset(tmp_path).clips} == {
        (("speed", "1200"),),
        (("speed", "900"),),
    }


def test_the_challenge_s_folders_in_another_case(tmp_path: Path) -> None:
    train, test = "section_00_source_train_normal_0000_noAttribute.wav", "section_00_0000.wav"
    touch(tmp_path / "fan", f"Train/{train}", f"TEST/{test}")
    assert shape(tmp_path) == {"fan": ([train], [test])}


def test_two_spellings_of_a_part_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "normal/1.wav", "Normal/2.wav")
    if len(list((tmp_path / "pump").iterdir())) == 1:
        pytest.skip("this file system does not distinguish case")
    with pytest.raises(InputError, match="found the folders Normal and normal; expected one folder normal"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["Test", "TEST", "Normal"])
def test_a_part_is_never_a_machine(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "pump" / name, "normal/1.wav", "leak/2.wav", "3.wav")
    with pytest.raises(InputError):
        read_normals(tmp_path / "pump" / name)


def test_test_recordings_are_never_normal_ones(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "1.wav", "2024-05/2.wav", "2024-05/Test/3.wav", "2024-05/tests/4.wav")
    dataset = read_normals(tmp_path / "pump")
    assert [clip.name for clip in dataset.clips] == ["1.wav", "2024-05/2.wav"]
    assert dataset.warnings == ("pump: 2 folders of test recordings, and not read, such as 2024-05/Test",)


def test_a_test_folder_beside_plain_recordings_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "all" / "pump", "1.wav", "Test/2.wav")
    touch(tmp_path / "all" / "TEST", "3.wav")
    for root in (tmp_path / "all", tmp_path / "all" / "pump"):
        dataset = read_normals(root)
        assert [(clip.machine, clip.name) for clip in dataset.clips] == [("pump", "1.wav")]
        assert any("not read" in warning and "est" in warning for warning in dataset.warnings)


def test_normal_recordings_beside_a_test_folder_that_labels_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "1.wav", "test/normal/2.wav", "test/leak/3.wav")
    with pytest.raises(InputError, match=r"found 1 recordings beside the folders .* 1\.wav.* Move them there"):
        read_normals(tmp_path / "pump")


def test_other_formats_alone_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "may/1.mp3", "may/2.m4a")
    with pytest.raises(InputError, match=r"other formats \(2\), such as may/1.mp3; .* Convert them"):
        read_normals(tmp_path / "pump")


def test_several_plain_folders_are_machines(tmp_path: Path) -> None:
    touch(tmp_path / "all", "pump 7/1.wav", "pump 7/may/2.wav", "lathe/1.wav", "photos/1.jpg", "plan.pdf")
    assert shape(tmp_path / "all") == {"lathe": (["1.wav"], []), "pump 7": (["1.wav", "may/2.wav"], [])}
    assert read_normals(tmp_path / "all", "lathe").machines == ("lathe",)
    assert read_dataset(tmp_path / "all").warnings == (
        "all: folders that are not read (1), such as photos",
        "all: files that are not read (1), such as plan.pdf",
    )


@pytest.mark.parametrize("layout", ["own", "plain"])
def test_a_link_to_another_machine_is_not_followed(tmp_path: Path, layout: str) -> None:
    inside = "normal/" if layout == "own" else ""
    root = touch(tmp_path, f"fan/{inside}0.wav", f"pump/{inside}1.wav", f"pump/{inside}old/2.wav")
    (root / "fan" / inside / "pump").symlink_to(root / "pump")
    (root / "fan" / inside / "old").symlink_to(root / "pump" / inside / "old")
    dataset = read_dataset(root)
    assert sorted(str(clip.path.relative_to(root)) for clip in dataset.clips) == [
        f"fan/{inside}0.wav",
        f"pump/{inside}1.wav",
        f"pump/{inside}old/2.wav",
    ]
    assert any("2 links to folders that are read under other paths" in warning for warning in dataset.warnings)


@pytest.mark.parametrize("part", ["", "normal"])
def test_links_between_machines_are_no_machines(tmp_path: Path, part: str) -> None:
    root = tmp_path / "all"
    touch(root / "pump" / part, "1.wav")
    touch(tmp_path / "elsewhere" / part, "2.wav")
    (root / "again").symlink_to("pump")
    (root / "loop").symlink_to(".")
    (root / "lathe").symlink_to(tmp_path / "elsewhere")
    assert shape(root) == {"lathe": (["2.wav"], []), "pump": (["1.wav"], [])}
    assert read_dataset(root).warnings == ("all: folders that are not read (2), such as again",)


def test_a_link_between_faults_is_no_fault(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "normal/1.wav", "test/normal/2.wav", "test/leak/3.wav")
    (tmp_path / "pump" / "test" / "again").symlink_to("leak")
    (tmp_path / "pump" / "test" / "up").symlink_to("..")
    assert shape(tmp_path) == {"pump": (["1.wav"], ["leak/3.wav", "normal/2.wav"])}


@pytest.mark.parametrize("days", [("2024-05", "2024-06"), ("speed=900", "speed=1200")])
def test_days_and_attributes_are_no_machines(tmp_path: Path, days: tuple[str, str]) -> None:
    touch(tmp_path / "pump", *(f"{day}/1.wav" for day in days))
    assert shape(tmp_path / "pump") == {"pump": (sorted(f"{day}/1.wav" for day in days), [])}


def test_a_folder_of_anomalies_in_a_plain_folder_is_refused_with_all_its_files(tmp_path: Path) -> None:
    touch(tmp_path / "pump", "1.wav", "Abnormal/2.wav", "Abnormal/3.wav")
    with pytest.raises(InputError) as caught:
        read_normals(tmp_path / "pump")
    assert [Path(error.where).name for error in caught.value.errors] == ["2.wav", "3.wav"]


def test_all_defects_of_names_are_listed(tmp_path: Path) -> None:
    touch(tmp_path / "fan" / "train", "a.wav", "section_00_source_train_normal_0000_noAttribute.wav", "b.wav")
    touch(tmp_path / "valve" / "train", "section_00_source_train_normal_0000_speed.wav")
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)
    assert [Path(error.where).parts[-3] for error in caught.value.errors] == ["fan", "fan", "valve"]


def test_names_that_are_not_utf8_are_texts_in_clips_and_files_as_they_are(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xfcmp"))
    try:
        touch(folder, os.fsdecode(b"M\xfchle.wav"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (clip,) = read_normals(folder).clips
    assert (clip.machine, clip.name) == (r"p\udcfcmp", r"M\udcfchle.wav")
    assert clip.path.is_file()
    assert as_path(as_text(clip.path)) == clip.path
    assert read_normals(folder, folder.name).machines == (r"p\udcfcmp",)


def test_machines_are_named_by_the_path_as_given(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "4711", "1.wav")
    (tmp_path / "pump").symlink_to(tmp_path / "store" / "4711")
    assert read_normals(tmp_path / "pump").machines == ("pump",)
