"""Datasets: the clips of a folder in any layout, and the headers of their files.

The challenge's layouts are ``<root>/<machine>/{train,test}/*.{wav,flac}``, and in 2021 ``source_test`` and
``target_test`` instead of ``test``; :mod:`nearfar.data.folders` describes one's own. The layout is recognised from
folders and file names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mode
from typing import Literal

from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader, read_headers
from nearfar.data.clips import PARSERS, Clip, Edition, Split, edition_of, is_name_of_2020, normal_clip
from nearfar.data.folders import (
    NORMAL,
    RESERVED,
    SPLIT_FOLDERS,
    SPLIT_FOLDERS_2021,
    TESTS_2021,
    Found,
    audio_files,
    folder_name,
    hidden_entries,
    is_machine_folder,
    is_own_folder,
    part_of,
    plain_folders,
    read_challenge_machine,
    read_own_machine,
    read_plain_folder,
    sub_folders,
    unread,
    visible,
)
from nearfar.data.walk import walk
from nearfar.errors import InputError, map_errors, raise_errors
from nearfar.files import as_text

Layout = Literal[Edition, "own"]
LAYOUT = "<root>/<machine>/{train,test}/*.{wav,flac}"


@dataclass(frozen=True)
class Dataset:
    """The clips of a folder and the headers of their files.

    Attributes:
        root: the folder.
        clips: by machine, training before test, each sorted by name.
        warnings: sentences about files in the folder that are not read.
        layout: the layout of all machines' folders.
        hidden: number of hidden and system entries that are left out.
    """

    root: Path
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()
    layout: Layout = "dcase2022"
    hidden: int = 0
    _headers: dict[Path, AudioHeader | InputError] = field(default_factory=dict, repr=False, compare=False)
    """The headers read so far, shared with every selection of this dataset."""

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types, sorted."""
        return tuple(sorted({clip.machine for clip in self.clips}))

    def train(self, machine: str) -> tuple[Clip, ...]:
        """A machine's training clips, sorted by name; empty if it only has test clips."""
        return _by_name(self.select(machine, "train").clips)

    def test(self, machine: str) -> tuple[Clip, ...]:
        """A machine's test clips, sorted by name; empty if it only has training clips."""
        return _by_name(self.select(machine, "test").clips)

    def groups(self) -> dict[tuple[str, str], tuple[tuple[Clip, ...], tuple[Clip, ...]]]:
        """Training and test clips by machine and section, sorted, each by name; either may be empty."""
        grouped: dict[tuple[str, str], tuple[list[Clip], list[Clip]]] = {}
        for clip in self.clips:
            grouped.setdefault((clip.machine, clip.section), ([], []))[clip.split == "test"].append(clip)
        return {unit: (_by_name(grouped[unit][0]), _by_name(grouped[unit][1])) for unit in sorted(grouped)}

    def select(self, machine: str | None = None, split: Split | None = None) -> Dataset:
        """The same dataset with the clips of one machine, one split or both."""
        machine = None if machine is None else as_text(machine)
        clips = (clip for clip in self.clips if machine in (None, clip.machine) and split in (None, clip.split))
        return self.with_clips(clips)

    def with_clips(self, clips: Iterable[Clip]) -> Dataset:
        """The same dataset with other clips. Headers that were read are not read again."""
        return replace(self, clips=tuple(clips))

    def headers(self) -> dict[Path, AudioHeader | InputError]:
        """The header of every clip's file, or the error on reading it, by path in the order of clips.

        Each file is read once for a dataset and all its selections.
        """
        missing = list(dict.fromkeys(clip.path for clip in self.clips if clip.path not in self._headers))
        self._headers.update(zip(missing, read_headers(missing), strict=True))
        return {clip.path: self._headers[clip.path] for clip in self.clips}

    def require_headers(self) -> dict[Path, AudioHeader]:
        """The header of every clip's file, by path in the order of clips.

        Raises:
            InputError: listing the files whose headers cannot be read.
        """
        headers = self.headers()
        raise_errors([error for error in headers.values() if isinstance(error, InputError)])
        return {path: header for path, header in headers.items() if isinstance(header, AudioHeader)}


def _by_name(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    return tuple(sorted(clips, key=lambda clip: clip.name))


def read_dataset(root: Path | str) -> Dataset:
    """Read the clips of a data folder from folder and file names.

    Hidden files (``.DS_Store``, ``._*``) are counted. Other files that are not clips give warnings, and so do the
    ``supplemental`` recordings of 2025 (only the machine, or only noise), which are no training or test clips.

    Args:
        root: a folder of machines' folders, or one machine's folder. A folder of recordings that is laid out in no
            way holds normal recordings of one machine; see :func:`nearfar.data.folders.plain_folders`.

    Raises:
        InputError: if the folder is missing or holds no machine, or machines in one's own layout beside the
            challenge's, or a name is not UTF-8; or as :func:`nearfar.data.folders.read_challenge_machine` and
            :func:`nearfar.data.folders.read_own_machine`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            root,
            found="a file" if root.exists() else "no such folder",
            expected=f"a folder laid out as {LAYOUT}",
            remedy="Check the path, or unpack the data there",
        )
    if plain := plain_folders(root):
        return _plain_dataset(root, plain)
    folders = _machine_folders(root)
    layout = _recognise(root, folders)
    is_one = folders == [root]
    warnings = [] if is_one else unread(root, folder_name(root), {folder.name for folder in folders})
    subfolders = SPLIT_FOLDERS_2021 if layout == "dcase2021" else SPLIT_FOLDERS

    def read(folder: Path) -> Found:
        if layout == "own":
            return read_own_machine(folder, folders)
        return read_challenge_machine(folder, subfolders, PARSERS[layout])

    dataset = _joined(root, layout, map_errors(read, folders), warnings, 0 if is_one else hidden_entries(root))
    if not dataset.clips:
        raise _no_machine(root, f"no WAV or FLAC file in {folders[0] / 'test'}")
    return dataset


def _plain_dataset(root: Path, folders: Sequence[Path], machine: str | None = None) -> Dataset:
    """The recordings of plain folders of machines, all normal; ``machine`` is the name where it is one folder."""
    found = map_errors(lambda folder: read_plain_folder(folder, machine, folders), folders)
    is_one = list(folders) == [root]
    warnings = [] if is_one else unread(root, folder_name(root), {folder.name for folder in folders})
    return _joined(root, "own", found, warnings, 0 if is_one else hidden_entries(root))


def _joined(root: Path, layout: Layout, found: Iterable[Found], warnings: list[str], hidden: int) -> Dataset:
    machines = list(found)
    clips = [clip for machine in machines for clip in machine.clips]
    warnings = warnings + [warning for machine in machines for warning in machine.warnings]
    return Dataset(
        root, tuple(clips), tuple(warnings), layout, hidden + sum(machine.hidden for machine in machines)
    )


def read_normals(
    source: Dataset | Path | str | Sequence[Clip | Path | str], machine: str | None = None
) -> Dataset:
    """Normal recordings to fit a detector on: the training clips of a folder, or the listed files.

    Args:
        source: a folder that :func:`read_dataset` reads; clips or files; or a dataset.
        machine: the machine to select; for a plain folder or files, the name of the machine.

    Returns:
        training clips only; ``root`` is the folder, or the common parent of the listed files.

    Raises:
        InputError: if there are no normal recordings, or none of the machine; or as :func:`read_dataset`.
    """
    if not isinstance(source, Dataset | Path | str):
        return _listed_normals(source, machine)
    if not isinstance(source, Dataset):
        root = Path(source)
        if plain_folders(root) == [root]:
            return _plain_dataset(root, [root], machine)
        source = read_dataset(root)
    normals = source.select(split="train")
    chosen = normals.select(machine)
    if not chosen.clips:
        if beside := audio_files(source.root):
            raise InputError(
                source.root,
                found=f"{len(beside)} recordings beside the folders of the machine, such as {beside[0].name}",
                expected=f"normal recordings in the folder {NORMAL}",
                remedy="Move them there, if they are of normal operation",
            )
        raise InputError(
            source.root,
            found="no normal recordings" if machine is None else f"no normal recordings of {machine}",
            expected=f"those of {', '.join(normals.machines)}" if normals.clips else "at least one",
            remedy="Check the spelling" if normals.clips else "Record some; docs/layouts.md describes the folders",
        )
    return chosen


def _listed_normals(source: Sequence[Clip | Path | str], machine: str | None) -> Dataset:
    name = machine or "machine"
    clips = [entry if isinstance(entry, Clip) else normal_clip(Path(entry), name) for entry in source]
    expected = "recordings of normal operation"
    if not clips:
        raise InputError("recordings", found="none", expected=expected, remedy="Give some")
    for clip in clips:
        if clip.split != "train":
            raise InputError(clip.path, found="a test clip", expected=expected, remedy="Leave it out")
    parents = {clip.path.parent.absolute() for clip in clips}
    return Dataset(Path(os.path.commonpath(parents)), tuple(clips), (), "own")


def require_training_clips(dataset: Dataset, machines: Iterable[str]) -> None:
    """Require training clips of each machine, without which its test clips cannot be scored.

    Raises:
        InputError: naming the first machine that has none.
    """
    folder = NORMAL if dataset.layout == "own" else "train"
    for machine in machines:
        if not dataset.train(machine):
            tests = len(dataset.test(machine))
            raise InputError(
                dataset.root,
                found=f"{tests} test clips and no training clips of the machine {machine}",
                expected="training clips of every machine that is to be scored, to compare its test clips with",
                remedy=f"Copy its normal recordings into the folder {machine}/{folder}, or leave the machine out",
            )


def machine_lengths(
    dataset: Dataset, headers: Mapping[Path, AudioHeader], sample_rate_hz: int = SAMPLE_RATE_HZ
) -> tuple[dict[str, float], list[InputError]]:
    """The most common length of each machine's clips in seconds, and an error for every clip of another length.

    Lengths are compared in samples after resampling.
    """
    lengths, errors = {}, []
    for machine in dataset.machines:
        paths = [clip.path for clip in dataset.clips if clip.machine == machine]
        frames = {path: headers[path].frames_at(sample_rate_hz) for path in paths}
        usual = mode(frames.values())
        like = next(path for path, count in frames.items() if count == usual)
        lengths[machine] = usual / sample_rate_hz
        errors += [
            InputError(
                path,
                found=f"a clip of {count / sample_rate_hz:.6g} s ({count} samples at {sample_rate_hz} Hz)",
                expected=f"{usual / sample_rate_hz:.6g} s ({usual} samples) like {like}, "
                f"as clips of one machine ({machine}) have one length",
                remedy="Cut the clips of the machine to one length, or remove this one",
            )
            for path, count in frames.items()
            if count != usual
        ]
    return lengths, errors


def _machine_folders(root: Path) -> list[Path]:
    if is_machine_folder(root):
        return [root]
    folders = [folder for folder in sub_folders(root) if is_machine_folder(folder)]
    if not folders:
        raise _no_machine(root, f"{len(visible(root))} entries, none of them a machine's folder")
    return folders


def _recognise(root: Path, folders: list[Path]) -> Layout:
    """The layout of all machines' folders. Single names of another form raise an error when they are parsed."""
    own = [folder for folder in folders if is_own_folder(folder)]
    if own:
        if others := [folder for folder in folders if folder not in own]:
            raise InputError(
                root,
                found=f"{own[0].name}, laid out as your own folder, beside {others[0].name}, which is not",
                expected="machines of one layout",
                remedy="Move the two kinds into separate data folders",
            )
        return "own"
    if any(part_of(folder, name) is not None for folder in folders for name in TESTS_2021):
        return "dcase2021"
    parts = [part for folder in folders for name in SPLIT_FOLDERS if (part := part_of(folder, name)) is not None]
    files = [path for part in parts for path in audio_files(part)]
    if 2 * sum(map(is_name_of_2020, files)) > len(files):
        return "dcase2020"
    tests = Counter(edition_of(path.name) for path in files if path.parent.name.casefold() == "test")
    return "dcase2021" if tests["dcase2021"] > tests["dcase2022"] else "dcase2022"


def _no_machine(root: Path, found: str) -> InputError:
    # Of the top of an unpacked archive, the machines' folders are two or three levels below.
    patterns = [depth + name for depth in ("*/*/", "*/*/*/") for name in ("train", "test", NORMAL)]
    below = (path.parents[1] for pattern in patterns for path in root.glob(pattern))
    above = root.parent if root.name not in ("", "..") else root / ".."
    data_folder = above if folder_name(root).casefold() in RESERVED else next(below, None)
    if data_folder is None and (foreign := walk(root).foreign):
        first = foreign[0].relative_to(root).as_posix()
        found = f"no WAV or FLAC file, and recordings in other formats ({len(foreign)}), such as {first}"
        remedy = "Convert them, for instance with ffmpeg"
        return InputError(root, found=found, expected="WAV or FLAC files", remedy=remedy)
    return InputError(
        root,
        found=found,
        expected=f"machine folders with a train or a test folder in each, laid out as {LAYOUT}, or with normal/",
        remedy=f"Give {data_folder} instead"
        if data_folder
        else "Give the folder that holds the machines' folders",
    )
