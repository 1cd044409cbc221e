"""One recording and what its name says: the DCASE Task 2 file-name grammar.

The grammar of 2022 to 2026 (for earlier years see :mod:`nearfar.data.grammars`), with a section number, a
four-digit index and attribute pairs::

    train        section_00_{source|target}_train_normal_NNNN_{attr}.wav
    test (dev)   section_00_{source|target}_test_{normal|anomaly}_NNNN_{attr}.wav
    test (eval)  section_00_NNNN.wav, in 2022 section_00_test_NNNN.wav

``{attr}`` is ``noAttribute`` or ``k1_v1_k2_v2...``. A key may appear twice (``mic_2_mic_1`` in ToyCarEmu), so
attributes are a tuple of pairs, never a dict. Values are case-folded: the development set spells one value of
gearboxEmu ``pro_y`` in normal and ``pro_Y`` in anomalous test clips, which would leak the label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nearfar.errors import InputError

Split = Literal["train", "test"]
Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]
Channel = Literal["near", "far"]
"""What is recorded."""
Attributes = tuple[tuple[str, str], ...]

CHANNELS: tuple[Channel, Channel] = ("near", "far")
"""Channel 0 is the near microphone, channel 1 the far one."""

AUDIO_SUFFIXES = (".wav", ".flac")

_LABELLED = re.compile(r"section_([0-9]{2})_(source|target)_(train|test)_(normal|anomaly)_([0-9]{4})_(.+)")
_HIDDEN = re.compile(r"section_([0-9]{2})_(?:test_)?([0-9]{4})")

EXPECTED_NAMES = (
    "section_NN_{source|target}_train_normal_NNNN_{attributes}.wav, "
    "section_NN_{source|target}_test_{normal|anomaly}_NNNN_{attributes}.wav "
    "or section_NN_NNNN.wav for evaluation clips"
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording. ``domain`` and ``label`` are None for evaluation test clips, whose names hide them.

    ``section`` is the machine id in 2020 and ``00`` where there are none. ``index`` is None where names bear no
    number. ``listed_as`` is set where the file's own name would not do in a score file.

    ``attributes`` of a test clip are for people to read: no model may use them (see
    :func:`nearfar.training.labels.composite_class`, which refuses a test clip).
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

    @property
    def name(self) -> str:
        """The file name with its suffix, as score files list it; no two test clips of a machine share it."""
        return self.listed_as or self.path.name

    @property
    def attributes_as_spelt(self) -> str:
        """The attribute text of the file name before case-folding, such as ``pro_Y``; empty if it has none."""
        match = _LABELLED.fullmatch(self.path.stem)
        return match[6] if match else ""


def normal_clip(path: Path, machine: str) -> Clip:
    """A recording of a machine in normal operation, of which nothing else is known."""
    return Clip(path, machine, "00", "train", "source", "normal", None, (), path.name)


def parse_attributes(text: str, where: Path | str) -> Attributes:
    """``"car_D2_spd_5_mic_2_mic_1"`` to ``(("car", "d2"), ("spd", "5"), ("mic", "2"), ("mic", "1"))``.

    Raises:
        InputError: if the text is not ``noAttribute`` and does not fall into key-value pairs.
    """
    if text.casefold() == "noattribute":
        return ()
    parts = text.split("_")
    if len(parts) % 2 or not all(parts):
        raise InputError(
            where,
            found=f"the attribute text {text!r}",
            expected="'noAttribute' or pairs key_value_key_value",
            remedy="Rename the file so that every attribute key has a value",
        )
    return tuple((key, value.casefold()) for key, value in zip(parts[::2], parts[1::2], strict=True))


def parse_clip(path: Path, machine: str, split: Split) -> Clip:
    """Read a clip's section, domain, label, index and attributes from its file name.

    Args:
        path: the file; only its name is looked at.
        machine: the machine type, which is the folder above the split's folder.
        split: the folder the file lies in; the name must agree with it.

    Raises:
        InputError: if the name is outside the grammar or says another split than its folder.
    """
    if hidden := _HIDDEN.fullmatch(path.stem):
        if split == "train":
            raise _outside_grammar(path, "a training clip whose name gives no domain and label")
        return Clip(path, machine, hidden[1], split, None, None, int(hidden[2]))
    match = _LABELLED.fullmatch(path.stem)
    if match is None:
        raise _outside_grammar(path, f"the name {path.name!r}")
    section, domain, said_split, label, index, attributes = match.groups()
    if said_split != split:
        raise _outside_grammar(path, f"a name that says {said_split!r} in the folder {split!r}")
    if split == "train" and label != "normal":
        raise _outside_grammar(path, "an anomalous clip in the training folder")
    return Clip(
        path,
        machine,
        section,
        split,
        "source" if domain == "source" else "target",
        "normal" if label == "normal" else "anomaly",
        int(index),
        parse_attributes(attributes, path),
    )


def _outside_grammar(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=EXPECTED_NAMES,
        remedy="Rename the file, move it to the right folder or take it out of the data folder",
    )
