"""From a folder to its clips, whatever the layout.

The challenge's layouts are ``<root>/<machine>/{train,test}/*.{wav,flac}`` and, in 2021, ``source_test`` and
``target_test`` for ``test``; one's own recordings are laid out as :mod:`nearfar.data.own_folder` says. Which it is
is recognised from the folders and names. Everything is read from names; the challenge's ``attributes_00.csv`` says
nothing that the names do not say and is left alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader, read_headers
from nearfar.data.clips import Clip, Split, normal_clip
from nearfar.data.flat_folder import is_flat_folder, read_flat_folder
from nearfar.data.grammars import GRAMMARS, Edition, Grammar, edition_of, is_name_of_2020
from nearfar.data.listing import folder_name, is_audio, refuse_duplicates, unread, visible
from nearfar.data.own_folder import NORMAL, is_own_folder, read_own_machine
from nearfar.errors import InputError

Layout = Literal[Edition, "own"]
SPLITS: tuple[Split, ...] = get_args(Split)
LAYOUT = "<root>/<machine>/{train,test}/*.{wav,flac}"

_PLACES: dict[str, Split] = {"train": "train", "test": "test"}
_TESTS_2021 = ("source_test", "target_test")
_PLACES_2021: dict[str, Split] = {**_PLACES, **dict.fromkeys(_TESTS_2021, _PLACES["test"])}
"""With ``test``, into which the organisers' own scripts merge the two."""
_SUPPLEMENTAL = "supplemental"


@dataclass(frozen=True)
class Dataset:
    """The clips of a folder and the headers of their files.

    Attributes:
        root: the folder.
        clips: by machine, training before test, each sorted by name.
        warnings: sentences about files in the folder that are not read.
        layout: the layout of all machines' folders.
    """

    root: Path
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()
    layout: Layout = "dcase2022"
    _headers: dict[Path, AudioHeader | InputError] = field(default_factory=dict, repr=False, compare=False)
    """The headers read so far, shared with every selection of this dataset."""

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types, sorted."""
        return tuple(sorted({clip.machine for clip in self.clips}))

    def train(self, machine: str) -> tuple[Clip, ...]:
        """A machine's training clips, sorted by name; empty if it only has test clips."""
        return _by_name(clip for clip in self.clips if clip.machine == machine and clip.split == "train")

    def test(self, machine: str) -> tuple[Clip, ...]:
        """A machine's test clips, sorted by name; empty if it only has training clips."""
        return _by_name(clip for clip in self.clips if clip.machine == machine and clip.split == "test")

    def groups(self) -> dict[tuple[str, str], tuple[tuple[Clip, ...], tuple[Clip, ...]]]:
        """Training and test clips by machine and section, sorted, each by name; either may be empty."""
        grouped: dict[tuple[str, str], tuple[list[Clip], list[Clip]]] = {}
        for clip in self.clips:
            grouped.setdefault((clip.machine, clip.section), ([], []))[clip.split == "test"].append(clip)
        return {unit: (_by_name(grouped[unit][0]), _by_name(grouped[unit][1])) for unit in sorted(grouped)}

    def select(self, machine: str | None = None, split: Split | None = None) -> Dataset:
        """The same dataset with the clips of one machine, one split or both."""
        return self.with_clips(
            clip for clip in self.clips if machine in (None, clip.machine) and split in (None, clip.split)
        )

    def with_clips(self, clips: Iterable[Clip]) -> Dataset:
        """The same dataset with other clips. Headers that were read are not read again."""
        return replace(self, clips=tuple(clips))

    def headers(self) -> dict[Path, AudioHeader | InputError]:
        """The header of every clip's file, or the error on reading it, by path in the order of clips.

        Each file is read once, also where several selections of a dataset need it.
        """
        missing = list(dict.fromkeys(clip.path for clip in self.clips if clip.path not in self._headers))
        self._headers.update(zip(missing, read_headers(missing), strict=True))
        return {clip.path: self._headers[clip.path] for clip in self.clips}

    def require_headers(self) -> dict[Path, AudioHeader]:
        """The header of every clip's file, by path in the order of clips.

        Raises:
            InputError: on the first file whose header cannot be read.
        """
        headers = {}
        for path, header in self.headers().items():
            if isinstance(header, InputError):
                raise header
            headers[path] = header
        return headers


def _by_name(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    return tuple(sorted(clips, key=lambda clip: clip.name))


def read_dataset(root: Path) -> Dataset:
    """Find and parse every clip under ``root``, which holds machine folders or is one itself.

    Hidden files (``.DS_Store``, ``._*``) are passed over; other files that are not clips become warnings, and so
    do the ``supplemental`` recordings of 2025 (a machine alone, or noise alone), which are no training or test
    clips.

    Raises:
        InputError: if the folder is missing or holds no machine, or machines of one's own beside the challenge's;
            a training folder has no clips, a name is outside the grammar, or one clip is there both as WAV and as
            FLAC; or as :func:`nearfar.data.own_folder.read_own_machine`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            root,
            found="a file" if root.exists() else "no such folder",
            expected=f"a folder laid out as {LAYOUT}",
            remedy="Check the path, or unpack the data there",
        )
    folders = _machine_folders(root)
    layout = _recognise(root, folders)
    clips: list[Clip] = []
    beside = {folder.name for folder in folders}
    warnings = [] if folders == [root] else unread(root, folder_name(root), read=beside)
    for folder in folders:
        if layout == "own":
            found_clips, found_warnings = read_own_machine(folder, folder_name(folder))
        else:
            places = _PLACES_2021 if layout == "dcase2021" else _PLACES
            found_clips, found_warnings = _machine_clips(folder, places, GRAMMARS[layout])
        clips += found_clips
        warnings += found_warnings
    if not clips:
        raise _no_machine(root, f"no WAV or FLAC file in {folders[0] / 'test'}")
    return Dataset(root, tuple(clips), tuple(warnings), layout)


def read_normals(
    source: Dataset | Path | str | Sequence[Clip | Path | str], machine: str | None = None
) -> Dataset:
    """Normal recordings to fit a detector on: the training clips of a folder, or the listed files.

    Args:
        source: a folder that :func:`read_dataset` reads, or a plain folder of recordings of one machine; clips or
            files; or a dataset.
        machine: of several machines, only this one; of a plain folder or files, the name to give the machine.

    Returns:
        training clips only; ``root`` is the folder, or the common parent of the listed files.

    Raises:
        InputError: if there are no normal recordings, or none of the machine; or as :func:`read_dataset`.
    """
    if not isinstance(source, Dataset | Path | str):
        return _listed_normals(source, machine)
    if not isinstance(source, Dataset):
        root = Path(source)
        if is_flat_folder(root):
            clips, warnings = read_flat_folder(root, machine)
            return Dataset(root, tuple(clips), tuple(warnings), "own")
        source = read_dataset(root)
    normals = source.select(split="train")
    chosen = normals.select(machine)
    if not chosen.clips:
        raise InputError(
            source.root,
            found="no normal recordings" if machine is None else f"no normal recordings of {machine}",
            expected=f"those of {', '.join(normals.machines)}"
            if normals.clips
            else "recordings of normal operation",
            remedy="Check the spelling" if normals.clips else "Record some; docs/layouts.md describes the folders",
        )
    return chosen


def _listed_normals(source: Sequence[Clip | Path | str], machine: str | None) -> Dataset:
    clips = [
        entry if isinstance(entry, Clip) else normal_clip(Path(entry), machine or "machine") for entry in source
    ]
    tests = [clip for clip in clips if clip.split != "train"]
    if tests or not clips:
        raise InputError(
            tests[0].path if tests else "recordings",
            found="a test clip" if tests else "none",
            expected="recordings of normal operation",
            remedy="Leave it out" if tests else "Give some",
        )
    parents = {clip.path.parent.absolute() for clip in clips}
    return Dataset(Path(os.path.commonpath(parents)), tuple(clips), (), "own")


def require_training_clips(dataset: Dataset, machines: Iterable[str]) -> None:
    """Make sure that each machine has training clips, without which its test clips cannot be scored.

    Raises:
        InputError: naming the first machine that has none.
    """
    place = NORMAL if dataset.layout == "own" else "train"
    for machine in machines:
        if not dataset.train(machine):
            tests = len(dataset.test(machine))
            raise InputError(
                dataset.root,
                found=f"{tests} test clips and no training clips of the machine {machine}",
                expected="training clips of every machine that is to be scored, to compare its test clips with",
                remedy=f"Put its normal recordings into the folder {machine}/{place}, or leave the machine out",
            )


def check_lengths(dataset: Dataset, sample_rate_hz: int = SAMPLE_RATE_HZ) -> dict[str, float]:
    """The length that all clips of a machine share, in seconds, by machine; counted in samples after resampling.

    Raises:
        InputError: if two clips of one machine differ in length, or a header cannot be read.
    """
    frames_of: dict[str, dict[Path, int]] = {}
    headers = dataset.require_headers()
    for clip in dataset.clips:
        frames_of.setdefault(clip.machine, {})[clip.path] = headers[clip.path].frames_at(sample_rate_hz)
    lengths = {}
    for machine, frames in frames_of.items():
        usual, _ = Counter(frames.values()).most_common(1)[0]
        for path, length in frames.items():
            if length != usual:
                like = next(other for other, frames_there in frames.items() if frames_there == usual)
                raise InputError(
                    path,
                    found=f"a clip of {length / sample_rate_hz:.6g} s ({length} samples at {sample_rate_hz} Hz)",
                    expected=f"{usual / sample_rate_hz:.6g} s ({usual} samples) like {like}, "
                    f"as clips of one machine ({machine}) have one length",
                    remedy="Cut the clips of the machine to one length, or remove this one",
                )
        lengths[machine] = usual / sample_rate_hz
    return lengths


def _machine_folders(root: Path) -> list[Path]:
    if _is_machine(root):
        return [root]
    folders = [folder for folder in visible(root) if folder.is_dir() and _is_machine(folder)]
    if not folders:
        raise _no_machine(root, f"{len(visible(root))} entries, none of them a machine's folder")
    return folders


def _is_machine(folder: Path) -> bool:
    return is_own_folder(folder) or any((folder / place).is_dir() for place in _PLACES | _PLACES_2021)


def _recognise(root: Path, folders: list[Path]) -> Layout:
    """The layout that the machines' folders have in common; single odd names are found when they are read."""
    own = [folder for folder in folders if is_own_folder(folder)]
    if own:
        if others := [folder for folder in folders if folder not in own]:
            raise InputError(
                root,
                found=f"{own[0].name}, laid out as your own folder, beside {others[0].name}, which is not",
                expected="machines of one layout",
                remedy="Put the two kinds into folders of their own",
            )
        return "own"
    if any((folder / place).is_dir() for folder in folders for place in _TESTS_2021):
        return "dcase2021"
    places = [folder / place for folder in folders for place in _PLACES if (folder / place).is_dir()]
    names = [path for place in places for path in visible(place) if is_audio(path)]
    if 2 * sum(map(is_name_of_2020, names)) > len(names):
        return "dcase2020"
    tests = Counter(edition_of(path.name) for path in names if path.parent.name == "test")
    return "dcase2021" if tests["dcase2021"] > tests["dcase2022"] else "dcase2022"


def _machine_clips(folder: Path, places: dict[str, Split], grammar: Grammar) -> tuple[list[Clip], list[str]]:
    """The clips of one machine's folder, and what else is in it."""
    machine = folder_name(folder)
    clips: list[Clip] = []
    supplement = _supplement(folder / _SUPPLEMENTAL, f"{machine}/{_SUPPLEMENTAL}", grammar)
    warnings = supplement + unread(folder, machine, read=[*places, *([_SUPPLEMENTAL] if supplement else [])])
    for name, split in places.items():
        place = folder / name
        if not place.is_dir():
            continue
        files = [path for path in visible(place) if is_audio(path)]
        refuse_duplicates(files)
        if split == "train" and not files:
            raise InputError(
                place,
                found="a training folder without WAV or FLAC files",
                expected="normal recordings of the machine",
                remedy=f"Put the training clips there, or remove the folder if {machine} only has test clips",
            )
        if not files:
            warnings.append(f"{machine}/{name} holds no WAV or FLAC file")
        warnings += unread(place, f"{machine}/{name}", read={path.name for path in files})
        clips += [grammar.parse(path, machine, split) for path in files]
    return clips, warnings


def _supplement(folder: Path, name: str, grammar: Grammar) -> list[str]:
    """A sentence about the supplemental recordings of 2025, unless they are named as training clips are.

    Public sources agree on the folder and on names that begin with ``section_NN``, not on the rest of the names.
    """
    files = [path for path in visible(folder) if is_audio(path)] if folder.is_dir() else []
    if not files or any(_is_training_clip(path, grammar) for path in files):
        return []
    return [
        f"{name}: {len(files)} recordings of the machine alone or of noise alone, which are neither training nor "
        f"test clips and are not read, such as {files[0].name}"
    ]


def _is_training_clip(path: Path, grammar: Grammar) -> bool:
    try:
        grammar.parse(path, "", "train")
    except InputError:
        return False
    return True


def _no_machine(root: Path, found: str) -> InputError:
    nested = root.parent if folder_name(root) in (*_PLACES, *_PLACES_2021, NORMAL) else _data_folder_below(root)
    return InputError(
        root,
        found=found,
        expected=f"machine folders with a train or a test folder in each, laid out as {LAYOUT}, or with normal/",
        remedy=f"Give {nested} instead" if nested else "Give the folder that holds the machines' folders",
    )


def _data_folder_below(root: Path) -> Path | None:
    """The folder of machines two or three levels down, for people who point at the archive's top."""
    for depth in (2, 3):
        for place in ("train", "test", NORMAL):
            for match in root.glob("*/" * depth + place):
                return match.parents[1]
    return None
