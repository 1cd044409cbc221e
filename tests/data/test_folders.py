"""A person's own folder: labels from folders, attributes from folders and a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.data.layouts import read_dataset, require_training_clips
from nearfar.data.summary import summarise
from nearfar.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    touch(
        folder / "pump 7",
        "normal/a.wav",
        "normal/Monday/speed=1200/load=High/b.flac",
        "normal/domain=target/c.wav",
        "test/normal/a.wav",
        "test/worn bearing/a.wav",
        "test/worn bearing/late/a.wav",
        "test/Leak/speed=900/b.wav",
    )
    touch(folder / "lathe", "normal/1.wav", "normal/2.wav")
    return folder


def by_name(clips):
    return {clip.name: clip for clip in clips}


def test_folders_give_labels_and_attributes(root):
    dataset = read_dataset(root)
    assert dataset.layout == "own"
    assert dataset.machines == ("lathe", "pump 7")
    assert dataset.warnings == ()
    train = by_name(dataset.train("pump 7"))
    assert list(train) == ["Monday/speed=1200/load=High/b.flac", "a.wav", "domain=target/c.wav"]
    assert train["Monday/speed=1200/load=High/b.flac"].attributes == (("speed", "1200"), ("load", "high"))
    assert {name: clip.domain for name, clip in train.items()} == dict.fromkeys(train, "source") | {
        "domain=target/c.wav": "target"
    }
    assert train["domain=target/c.wav"].attributes == ()
    assert {clip.label for clip in train.values()} == {"normal"}
    test = by_name(dataset.test("pump 7"))
    assert {name: clip.label for name, clip in test.items()} == {
        "normal/a.wav": "normal",
        "worn bearing/a.wav": "anomaly",
        "worn bearing/late/a.wav": "anomaly",
        "Leak/speed=900/b.wav": "anomaly",
    }
    assert test["Leak/speed=900/b.wav"].attributes == (("speed", "900"),)
    assert {(clip.section, clip.index, clip.split) for clip in test.values()} == {("00", None, "test")}


def test_a_machine_with_only_normal_recordings(root):
    dataset = read_dataset(root / "lathe")
    assert dataset.machines == ("lathe",)
    assert dataset.test("lathe") == ()
    require_training_clips(dataset, ["lathe"])


def test_a_machine_with_only_test_recordings(tmp_path):
    touch(tmp_path / "lathe", "test/normal/1.wav", "test/worn/1.wav")
    dataset = read_dataset(tmp_path)
    assert [clip.label for clip in dataset.test("lathe")] == ["normal", "anomaly"]
    with pytest.raises(InputError, match=r"normal recordings into the folder lathe/normal"):
        require_training_clips(dataset, ["lathe"])


def test_the_target_domain_is_not_missed(root):
    write_table(root / "lathe", "file_name,domain", "normal/1.wav,source")
    (lathe, _) = summarise(read_dataset(root))
    assert not any("of the target domain" in warning for warning in lathe.warnings)


def write_table(machine: Path, *lines: str) -> Path:
    path = machine / "attributes.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_attributes_from_a_table(root):
    table = write_table(
        root / "pump 7",
        "file_name,speed,oil,domain",
        "normal/a.wav,1200,New,target",
        'test/worn bearing/a.wav,"900",,',
    )
    assert table.is_file()
    dataset = read_dataset(root)
    assert dataset.warnings == ()
    clip = by_name(dataset.train("pump 7"))["a.wav"]
    assert (clip.attributes, clip.domain) == ((("speed", "1200"), ("oil", "new")), "target")
    clip = by_name(dataset.test("pump 7"))["worn bearing/a.wav"]
    assert (clip.attributes, clip.domain) == ((("speed", "900"),), "source")


@pytest.mark.parametrize(
    ("lines", "found", "expected"),
    [
        (["name,speed", "normal/a.wav,1"], "the header 'name,speed'", "file_name"),
        (["file_name,speed,speed"], "the header", "file_name"),
        ([""], "the header ''", "file_name"),
        (["file_name,speed", "normal/a.wav"], "'normal/a.wav' in row 2", "a row for each recording"),
        (["file_name,speed", "normal/a.wav,1", "normal/a.wav,2"], "in row 3", "a row for each recording"),
        (["file_name,speed", "a.wav,1"], "a.wav, which is no recording", "such as normal/"),
        (["file_name,domain", "normal/a.wav,both"], "the domain 'both'", "source or target"),
        (
            ["file_name,speed", "normal/Monday/speed=1200/load=High/b.flac,1"],
            "the attribute 'speed' twice",
            "once, from a folder or from attributes.csv",
        ),
    ],
)
def test_tables_that_cannot_be_used(root, lines, found, expected):
    table = write_table(root / "pump 7", *lines)
    with pytest.raises(InputError) as caught:
        read_dataset(root)
    assert found in caught.value.found
    assert expected in caught.value.expected
    assert caught.value.remedy
    assert Path(caught.value.where).is_relative_to(table.parent)


def test_files_that_are_not_read_give_warnings(root):
    touch(root, "notes.txt")
    touch(root / "lathe", "photos/1.jpg", "readme.md", "setup.pdf", "test/empty/x.txt")
    assert read_dataset(root).warnings == (
        "recordings: files that are not read (1), such as notes.txt",
        "lathe: folders that are not read (1), such as photos",
        "lathe: files that are not read (1), such as setup.pdf",
        "lathe/test/empty holds no WAV or FLAC file",
    )


def test_recordings_in_other_formats_give_a_warning(tmp_path):
    touch(
        tmp_path / "fan", "normal/1.wav", "normal/a/2.MP3", "test/worn/3.m4a", "test/worn/4.flac", "normal/._5.mp3"
    )
    dataset = read_dataset(tmp_path)
    assert [clip.name for clip in dataset.clips] == ["1.wav", "worn/4.flac"]
    assert dataset.warnings == (
        "fan: 2 recordings that are neither WAV nor FLAC and not read, such as normal/a/2.MP3",
    )


def test_a_table_may_have_the_paths_of_windows(tmp_path):
    touch(tmp_path / "fan", "normal/a/1.wav")
    write_table(tmp_path / "fan", "file_name,speed", r"normal\a\1.wav,900")
    (clip,) = read_dataset(tmp_path).clips
    assert clip.attributes == (("speed", "900"),)


@pytest.mark.parametrize(
    ("files", "where", "found", "remedy"),
    [
        (["normal/readme.txt"], "normal", "without WAV or FLAC", "Copy them there"),
        (["normal/=1/1.wav"], "normal/=1", "the folder name '=1'", "Rename"),
        (["normal/1.wav", "test/normal/1.wav", "test/normal/1.flac"], "test/normal/1.wav", "1.flac", "Remove one"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, where, found, remedy):
    touch(tmp_path / "fan", *files)
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)
    assert caught.value.where == tmp_path / "fan" / where
    assert found in caught.value.found
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(("unlabelled", "words"), [(1, "1 test recording is"), (3, "3 test recordings are")])
def test_test_recordings_without_label_are_left_out_and_named(tmp_path, unlabelled, words):
    touch(tmp_path / "fan", "normal/1.wav", "Test/worn/1.wav", *(f"Test/{n}.wav" for n in range(unlabelled)))
    dataset = read_dataset(tmp_path)
    assert [clip.name for clip in dataset.clips] == ["1.wav", "worn/1.wav"]
    assert [
        line for line in dataset.warnings if f"fan: {words} in no folder" in line and "such as Test/0.wav" in line
    ]


def test_one_name_in_two_folders_is_no_duplicate(tmp_path):
    touch(tmp_path / "fan", "normal/a/1.wav", "normal/b/1.flac", "normal/b/1.wav")
    assert len(read_dataset(tmp_path).clips) == 3


def test_the_challenge_s_layout_beside_it_is_refused(root):
    touch(root / "fan", "train/section_00_source_train_normal_0000_noAttribute.wav")
    with pytest.raises(InputError, match=r"lathe, laid out as your own folder, beside fan") as caught:
        read_dataset(root)
    assert "separate data folders" in caught.value.remedy


@pytest.mark.parametrize("inside", ["pump 7/normal", "pump 7/test"])
def test_a_folder_inside_a_machine_is_sent_one_up(root, inside):
    with pytest.raises(InputError) as caught:
        read_dataset(root / inside)
    assert caught.value.remedy == f"Give {root / 'pump 7'} instead"


def test_a_folder_above_the_machines_is_sent_down(root):
    with pytest.raises(InputError) as caught:
        read_dataset(root.parent)
    assert caught.value.remedy == f"Give {root} instead"
