"""From a folder in the DCASE 2026 layout to its clips: ``<root>/<machine>/{train,test}/*.{wav,flac}``.

Everything is read from file names; ``attributes_00.csv`` says nothing that the names do not say and is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nearfar.data.clips import AUDIO_SUFFIXES, Clip, Split, parse_clip
from nearfar.errors import InputError

SPLITS: tuple[Split, ...] = get_args(Split)
LAYOUT = "<root>/<machine>/{train,test}/*.{wav,flac}"

_COMPANIONS = ("attributes_", "license", "licence", "manifest", "readme", "simulated", "truth")
"""How the names of files begin that belong beside clips and are neither read nor odd."""


@dataclass(frozen=True)
class Dataset:
    """The clips found under a folder, by machine, training before test, each in the order of names.

    ``oddities`` are sentences about what else lies there and is not read.
    """

    root: Path
    clips: tuple[Clip, ...]
    oddities: tuple[str, ...] = ()

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types, sorted."""
        return tuple(sorted({clip.machine for clip in self.clips}))

    def train(self, machine: str) -> tuple[Clip, ...]:
        """A machine's training clips, sorted by name; none if it only has test clips."""
        return self._of(machine, "train")

    def test(self, machine: str) -> tuple[Clip, ...]:
        """A machine's test clips, sorted by name; none if it only has training clips."""
        return self._of(machine, "test")

    def _of(self, machine: str, split: Split) -> tuple[Clip, ...]:
        chosen = (clip for clip in self.clips if clip.machine == machine and clip.split == split)
        return tuple(sorted(chosen, key=lambda clip: clip.name))


def read_dataset(root: Path) -> Dataset:
    """Find and parse every clip under ``root``, which holds machine folders or is one itself.

    Hidden files (``.DS_Store``, ``._*``) are passed over; other files that are not clips become oddities.

    Raises:
        InputError: if the folder is missing or holds no machine, a training folder has no clips, a name is outside
            the grammar, or one clip is there both as WAV and as FLAC.
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
    clips: list[Clip] = []
    oddities = [] if folders == [root] else _unread(root, _name(root), read={folder.name for folder in folders})
    for folder in folders:
        found_clips, found_oddities = _machine_clips(folder)
        clips += found_clips
        oddities += found_oddities
    if not clips:
        raise _no_machine(root, f"no WAV or FLAC file in {folders[0] / 'test'}")
    return Dataset(root, tuple(clips), tuple(oddities))


def require_training_clips(dataset: Dataset, machines: Iterable[str]) -> None:
    """Make sure that each machine has training clips, without which its test clips cannot be scored.

    Raises:
        InputError: naming the first machine that has none.
    """
    for machine in machines:
        if not dataset.train(machine):
            tests = len(dataset.test(machine))
            raise InputError(
                dataset.root,
                found=f"{tests} test clips and no training clips of the machine {machine}",
                expected="training clips of every machine that is to be scored, to compare its test clips with",
                remedy=f"Put its normal recordings into the folder {machine}/train, or leave the machine out",
            )


def _machine_folders(root: Path) -> list[Path]:
    if _is_machine(root):
        return [root]
    folders = [folder for folder in _visible(root) if folder.is_dir() and _is_machine(folder)]
    if not folders:
        raise _no_machine(root, f"{len(_visible(root))} entries, none of them a machine's folder")
    return folders


def _is_machine(folder: Path) -> bool:
    return any((folder / split).is_dir() for split in SPLITS)


def _machine_clips(folder: Path) -> tuple[list[Clip], list[str]]:
    """The clips of one machine's folder, and what else is in it."""
    machine = _name(folder)
    clips: list[Clip] = []
    oddities = _unread(folder, machine, read=set(SPLITS))
    for split in SPLITS:
        place = folder / split
        if not place.is_dir():
            continue
        files = [path for path in _visible(place) if _is_audio(path)]
        _refuse_duplicates(files)
        if split == "train" and not files:
            raise InputError(
                place,
                found="a training folder without WAV or FLAC files",
                expected="normal recordings of the machine",
                remedy=f"Put the training clips there, or remove the folder if {machine} only has test clips",
            )
        if not files:
            oddities.append(f"{machine}/{split} holds no WAV or FLAC file")
        oddities += _unread(place, f"{machine}/{split}", read={path.name for path in files})
        clips += [parse_clip(path, machine, split) for path in files]
    return clips, oddities


def _refuse_duplicates(files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem in seen:
            raise InputError(
                path,
                found=f"the same clip as {seen[path.stem].name}",
                expected="each clip once, as WAV or as FLAC",
                remedy="Remove one of the two files",
            )
        seen[path.stem] = path


def _unread(folder: Path, name: str, read: set[str]) -> list[str]:
    """One sentence about the folders inside a folder that are not read, and one about the files."""
    rest = [path for path in _visible(folder) if path.name not in read]
    folders = [path.name for path in rest if path.is_dir()]
    files = [path.name for path in rest if path.name not in folders]
    files = [file for file in files if not file.casefold().startswith(_COMPANIONS)]
    sentences = []
    if folders:
        sentences.append(f"{name}: folders that are not read ({len(folders)}), such as {folders[0]}")
    if files:
        sentences.append(f"{name}: files that are not read ({len(files)}), such as {files[0]}")
    return sentences


def _name(folder: Path) -> str:
    """A folder's own name, that of a link included, also where it is given as ``.`` or ``..``."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and the shadow folder of macOS archives."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _no_machine(root: Path, found: str) -> InputError:
    nested = root.parent if _name(root) in SPLITS else _data_folder_below(root)
    return InputError(
        root,
        found=found,
        expected=f"machine folders with a train or a test folder in each, laid out as {LAYOUT}",
        remedy=f"Give {nested} instead" if nested else "Give the folder that holds the machines' folders",
    )


def _data_folder_below(root: Path) -> Path | None:
    """The folder of machines two or three levels down, for people who point at the archive's top."""
    for depth in (2, 3):
        for split in SPLITS:
            for match in root.glob("*/" * depth + split):
                return match.parents[1]
    return None
