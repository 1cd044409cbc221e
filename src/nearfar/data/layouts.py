"""From a folder to its clips, whatever the layout.

The challenge's layouts are ``<root>/<machine>/{train,test}/*.{wav,flac}`` and, in 2021, ``source_test`` and
``target_test`` for ``test``; one's own recordings are laid out as :mod:`nearfar.data.own_folder` says. Which it is
is recognised from the folders and names. Everything is read from names; the challenge's ``attributes_00.csv`` says
nothing that the names do not say and is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nearfar.data.clips import Clip, Split
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
    """The clips found under a folder, by machine, training before test, each in the order of names.

    ``oddities`` are sentences about what else lies there and is not read. ``layout`` is what was recognised; all
    machines of a folder share it.
    """

    root: Path
    clips: tuple[Clip, ...]
    oddities: tuple[str, ...] = ()
    layout: Layout = "dcase2022"

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

    Hidden files (``.DS_Store``, ``._*``) are passed over; other files that are not clips become oddities, and so
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
    oddities = [] if folders == [root] else unread(root, folder_name(root), read=beside)
    for folder in folders:
        if layout == "own":
            found_clips, found_oddities = read_own_machine(folder, folder_name(folder))
        else:
            places = _PLACES_2021 if layout == "dcase2021" else _PLACES
            found_clips, found_oddities = _machine_clips(folder, places, GRAMMARS[layout])
        clips += found_clips
        oddities += found_oddities
    if not clips:
        raise _no_machine(root, f"no WAV or FLAC file in {folders[0] / 'test'}")
    return Dataset(root, tuple(clips), tuple(oddities), layout)


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
    oddities = supplement + unread(folder, machine, read=[*places, *([_SUPPLEMENTAL] if supplement else [])])
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
            oddities.append(f"{machine}/{name} holds no WAV or FLAC file")
        oddities += unread(place, f"{machine}/{name}", read={path.name for path in files})
        clips += [grammar.parse(path, machine, split) for path in files]
    return clips, oddities


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
