"""A clip and the file names of DCASE Task 2, which give its section, domain, label, index and attributes.

Names of 2022 to 2026::

    train        section_NN_{source|target}_train_normal_NNNN_{attr}.wav
    test (dev)   section_NN_{source|target}_test_{normal|anomaly}_NNNN_{attr}.wav
    test (eval)  section_NN_NNNN.wav, in 2022 section_NN_test_NNNN.wav

``{attr}`` is ``noAttribute`` or ``k1_v1_k2_v2...``. A key may appear twice (``mic_2_mic_1`` in ToyCarEmu), so
attributes are a tuple of pairs and not a dictionary. Values are case-folded: the development set spells one value
of gearboxEmu ``pro_y`` in normal and ``pro_Y`` in anomalous test clips, which would leak the label.

Names of 2021 and 2020, as the organisers' baselines document them::

    2021   train   section_NN_{source|target}_train_normal_NNNN_{text}.wav
           test    section_NN_{source|target}_test_{normal|anomaly}_NNNN.wav in source_test/ and target_test/,
                   of evaluation sets section_NN_{source|target}_test_NNNN.wav
    2020   train   normal_id_NN_NNNNNNNN.wav
           test    {normal|anomaly}_id_NN_NNNNNNNN.wav, of evaluation sets id_NN_NNNNNNNN.wav

The text of 2021 does not split into keys and values (``0_g_25_mm_2000_mV_none``), so it is one attribute,
``condition``. The machine id of 2020 is read as the section. That year had no domains: its clips count as source.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nearfar.errors import InputError
from nearfar.files import as_text

Split = Literal["train", "test"]
Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]
Channel = Literal["near", "far"]
"""A recorded channel."""
Attributes = tuple[tuple[str, str], ...]
Edition = Literal["dcase2020", "dcase2021", "dcase2022"]
"""Years with the same form of file names, named after the first: ``dcase2022`` is 2022 to 2026."""

CHANNELS: tuple[Channel, Channel] = ("near", "far")
"""In the challenge's recordings channel 0 is the near microphone, channel 1 the far one."""

AUDIO_SUFFIXES = (".wav", ".flac")

_NAME_2022 = re.compile(r"section_([0-9]{2})_(source|target)_(train|test)_(normal|anomaly)_([0-9]{4})_(.+)")
_HIDDEN_2022 = re.compile(r"section_([0-9]{2})_(?:test_)?([0-9]{4})")
_TRAIN_2021 = re.compile(r"section_([0-9]{2})_(source|target)_train_(normal)_([0-9]{4})_(.+)")
_TEST_2021 = re.compile(r"section_([0-9]{2})_(source|target)_test_(?:(normal|anomaly)_)?([0-9]{4})()")
_NAME_2020 = re.compile(r"(?:(normal|anomaly)_)?id_([0-9]{2})_([0-9]{8})")

_EXPECTED: dict[Edition, str] = {
    "dcase2020": "normal_id_NN_NNNNNNNN.wav, anomaly_id_NN_NNNNNNNN.wav (test only) "
    "or id_NN_NNNNNNNN.wav (evaluation)",
    "dcase2021": "section_NN_{source|target}_train_normal_NNNN_{attributes}.wav in train, and in source_test and "
    "target_test section_NN_{source|target}_test_{normal|anomaly}_NNNN.wav or "
    "section_NN_{source|target}_test_NNNN.wav",
    "dcase2022": "section_NN_{source|target}_train_normal_NNNN_{attributes}.wav, "
    "section_NN_{source|target}_test_{normal|anomaly}_NNNN_{attributes}.wav "
    "or section_NN_NNNN.wav for evaluation clips",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording with its labels.

    Attributes:
        path: the file.
        machine: machine type, the name of the machine's folder.
        section: two digits; the machine id in 2020, ``00`` in layouts without sections.
        split: train or test.
        domain, label: None for evaluation test clips, whose names hide them.
        index: None where the name has no number.
        attributes: operating conditions. Those of test clips are for reports only, never for models
            (:func:`nearfar.training.labels.composite_class` refuses test clips).
        listed_as: name in score files if the file's own name is not unique; empty otherwise.
    """

    path: Path
    machine: str
    section: str
    split: Split
    domain: Domain | None
    label: Label | None
    index: int | None
    attributes: Attributes = ()
    listed_as: str = ""

    def __post_init__(self) -> None:
        """Names of folders and files need not be UTF-8; those in files of results are."""
        texts = {
            "machine": as_text(self.machine),
            "listed_as": as_text(self.listed_as),
            "attributes": tuple((as_text(key), as_text(value)) for key, value in self.attributes),
        }
        for field, text in texts.items():
            if text != getattr(self, field):
                object.__setattr__(self, field, text)

    @property
    def name(self) -> str:
        """The name in score files, with its suffix; unique among the test clips of a machine."""
        return self.listed_as or as_text(self.path.name)

    @property
    def attributes_as_spelt(self) -> str:
        """The attribute text of the file name before case-folding, such as ``pro_Y``; empty if it has none."""
        match = _NAME_2022.fullmatch(self.path.stem)
        return match[6] if match else ""


def normal_clip(path: Path, machine: str, name: str = "") -> Clip:
    """A recording of normal operation without section, index or attributes, by default with the file's name."""
    return Clip(path, machine, "00", "train", "source", "normal", None, (), name or path.name)


def parse_attributes(text: str, path: Path | str) -> Attributes:
    """``"car_D2_spd_5_mic_2_mic_1"`` to ``(("car", "d2"), ("spd", "5"), ("mic", "2"), ("mic", "1"))``.

    Raises:
        InputError: if the text is not ``noAttribute`` and does not split into key-value pairs.
    """
    if text.casefold() == "noattribute":
        return ()
    parts = text.split("_")
    if len(parts) % 2 or not all(parts):
        raise InputError(
            path,
            found=f"the attribute text {text!r}",
            expected="'noAttribute' or pairs key_value_key_value",
            remedy="Rename the file so that every attribute key has a value",
        )
    return tuple((key, value.casefold()) for key, value in zip(parts[::2], parts[1::2], strict=True))


def attributes_text(attributes: Attributes) -> str:
    """The inverse of :func:`parse_attributes`."""
    return "_".join(f"{key}_{value}" for key, value in attributes) or "noAttribute"


def parse_clip(path: Path, machine: str, split: Split) -> Clip:
    """Parse a file name of 2022 to 2026; the file itself is not read.

    Raises:
        InputError: if the name has another form or another split.
    """
    if hidden := _HIDDEN_2022.fullmatch(path.stem):
        if split == "train":
            raise _bad_name(path, "a training clip whose name gives no domain and label")
        return Clip(path, machine, hidden[1], split, None, None, int(hidden[2]))
    section, domain, split_in_name, label, index, attributes = _groups(_NAME_2022, path, "dcase2022")
    if split_in_name != split:
        raise _bad_name(path, f"a name with {split_in_name!r} in the folder {split!r}")
    if split == "train" and label != "normal":
        raise _bad_name(path, "an anomalous clip in the training folder")
    return Clip(path, machine, section, split, domain, label, int(index), parse_attributes(attributes, path))


def parse_2021(path: Path, machine: str, split: Split) -> Clip:
    """Parse a file name of 2021; as :func:`parse_clip`. Names of evaluation clips hide only the label.

    Raises:
        InputError: if the name has another form, or another split or domain than its folder.
    """
    pattern = _TRAIN_2021 if split == "train" else _TEST_2021
    section, domain, label, index, text = _groups(pattern, path, "dcase2021")
    folder = path.parent.name.casefold()
    if folder in ("source_test", "target_test") and folder != f"{domain}_test":
        raise _bad_name(path, f"a clip of the {domain} domain in the folder {path.parent.name}", "dcase2021")
    condition = () if text.casefold() in ("", "noattribute") else (("condition", text.casefold()),)
    return Clip(path, machine, section, split, domain, label, int(index), condition)


def parse_2020(path: Path, machine: str, split: Split) -> Clip:
    """Parse a file name of 2020; as :func:`parse_clip`.

    Raises:
        InputError: if the name has another form, or a training clip is not called normal.
    """
    label, machine_id, index = _groups(_NAME_2020, path, "dcase2020")
    if split == "train" and label != "normal":
        raise _bad_name(path, "a clip in the training folder that is not called normal", "dcase2020")
    return Clip(path, machine, machine_id, split, "source", label, int(index))


PARSERS: dict[Edition, Callable[[Path, str, Split], Clip]] = {
    "dcase2020": parse_2020,
    "dcase2021": parse_2021,
    "dcase2022": parse_clip,
}


def is_name_of_2020(path: Path) -> bool:
    """Whether a file name has the form of 2020, unlike that of all later years."""
    return _NAME_2020.fullmatch(path.stem) is not None


def edition_of(name: str) -> Edition:
    """The edition with this form of test clips' names; any other form counts as 2022 to 2026.

    Test clips of 2021 have no attributes after the number, those of 2022 to 2026 at least ``noAttribute``.
    """
    path = Path(name)
    if is_name_of_2020(path):
        return "dcase2020"
    return "dcase2021" if _TEST_2021.fullmatch(path.stem) else "dcase2022"


def parse_test_name(name: str, machine: str) -> Clip:
    """Parse the name of a test clip of any year, as in score files.

    Raises:
        InputError: if it has the form of no year.
    """
    return PARSERS[edition_of(name)](Path(name), machine, "test")


def _groups(pattern: re.Pattern[str], path: Path, edition: Edition) -> tuple[Any, ...]:
    """The groups of a pattern in a file name without its suffix."""
    match = pattern.fullmatch(path.stem)
    if match is None:
        raise _bad_name(path, f"the name {path.name!r}", edition)
    return match.groups()


def _bad_name(path: Path, found: str, edition: Edition = "dcase2022") -> InputError:
    remedy = "Rename the file, move it to the right folder or take it out of the data folder"
    return InputError(path, found=found, expected=_EXPECTED[edition], remedy=remedy)
