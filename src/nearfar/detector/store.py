"""The folder a detector is kept in.

``detector.json`` (recipe, clip specification, classes, encoder, versions, hashes), ``banks.safetensors`` (features
of the normal recordings per machine and view, and their domains), ``calibration.json`` (scores of normal
recordings), ``thresholds.json`` (data, to be changed without fitting again) and, of a recipe that trains,
``model/`` as :mod:`nearfar.models.folder` writes it. A random encoder that nothing was trained on is kept in
``encoder/``; any other frozen encoder is named and hashed only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.config import Recipe
from nearfar.config.tables import Table
from nearfar.data.channel_check import ChannelWarning
from nearfar.detector.bank import Bank
from nearfar.errors import InputError, NearfarError
from nearfar.explain.localisation import PatchBank
from nearfar.files import write_json
from nearfar.thresholds.calibration import Calibration
from nearfar.thresholds.detectors import Threshold

FORMAT = 1
CARD, BANKS, CALIBRATION, THRESHOLDS = "detector.json", "banks.safetensors", "calibration.json", "thresholds.json"
MODEL, ENCODER = "model", "encoder"
_MODEL_FILES = ("model.json", "head.safetensors")
_MODEL_FOLDERS = ("encoder", "adapter", "base")

_Content = TypeVar("_Content")


class ClipSpecification(Table):
    """What recordings become before they are heard."""

    sample_rate_hz: int
    seconds: float
    hop_seconds: float
    channels: dict[Literal["near", "far"], int]
    """The channels that are heard, and which of a file's, from 0, each is."""


class EncoderCard(Table):
    """The encoder that a detector needs; ``hash`` is of its weights, as ``nearfar.encoders.weights`` takes it."""

    weights: str
    revision: str | None
    hash: str


class BankCard(Table):
    """The normal recordings of one machine and section, whose numbers are in the file of banks under ``key``."""

    key: str
    machine: str
    section: str
    recordings: tuple[str, ...]
    files: tuple[str, ...]


class Card(Table):
    """``detector.json``."""

    format: Literal[1]
    nearfar: str
    recipe: Recipe
    clip: ClipSpecification
    classes: tuple[str, ...]
    encoder: EncoderCard | None
    weights_hash: str
    computation: int
    """Of features; see :data:`nearfar.features.cache.COMPUTATION`."""
    banks: tuple[BankCard, ...]
    channel_warnings: tuple[ChannelWarning, ...]
    sha256: dict[str, str]
    made_with: dict[str, Any]
    """See :class:`nearfar.data.channel_check.ChannelWarning`."""


def is_detector(folder: Path) -> bool:
    """Whether a folder holds a detector."""
    return (folder / CARD).is_file()


def require_free(folder: Path, *, replace: bool) -> None:
    """Make sure that a detector may be written to ``folder``.

    Raises:
        InputError: if something is there: a detector, unless it may be replaced, or anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if is_detector(folder):
        if replace:
            return
        found, remedy = (
            "a detector",
            "Choose another folder, or add --replace (replace=True) to put the new one there",
        )
    else:
        found, remedy = "something that is no detector", "Choose another folder"
    raise InputError(folder, found=found, expected="no such folder, or an empty one", remedy=remedy)


@contextmanager
def new_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, which becomes it when all went well.

    What was there before stays until the new one is whole.

    Raises:
        InputError: as :func:`require_free`.
        NearfarError: if it cannot be written.
    """
    require_free(folder, replace=replace)
    place = folder.resolve()
    partial, old = (place.with_name(f".{place.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if place.exists():
            place.replace(old)
        try:
            partial.replace(place)
        except OSError:
            if old.exists():
                old.replace(place)
            raise
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{folder}: cannot write it ({error}). Free some space or take another folder; what was there is kept."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_banks(folder: Path, banks: Sequence[Bank]) -> tuple[tuple[BankCard, ...], str]:
    """Write the banks' numbers; returns their cards and the file's SHA-256."""
    tensors: dict[str, Tensor] = {}
    cards = []
    for number, bank in enumerate(banks):
        key = f"{number:03d}"
        cards.append(
            BankCard(
                key=key,
                machine=bank.machine,
                section=bank.section,
                recordings=bank.recordings,
                files=bank.files,
            )
        )
        tensors |= {f"{key}/features/{view}": values for view, values in bank.features.items()}
        tensors |= {f"{key}/alone/{view}": torch.from_numpy(values) for view, values in bank.alone.items()}
        tensors[f"{key}/target"] = torch.from_numpy(bank.target.astype(np.uint8))
        tensors[f"{key}/recording"] = torch.from_numpy(bank.recording)
        tensors[f"{key}/begins_s"] = torch.from_numpy(bank.begins_s)
        if bank.patches is not None:
            tensors |= {f"{key}/patches/{name}": values for name, values in bank.patches.tensors().items()}
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / BANKS)
    return tuple(cards), file_sha256(folder / BANKS)


def read_banks(folder: Path, card: Card) -> tuple[Bank, ...]:
    """The banks of a detector's folder.

    Raises:
        InputError: if the file is missing, damaged, or not the one that the card is of.
    """
    path = folder / BANKS
    try:
        if (found := file_sha256(path)) != card.sha256[BANKS]:
            raise ValueError(f"SHA-256 {found[:12]}, not {card.sha256[BANKS][:12]}")
        tensors = load_file(path)
        return tuple(_restored(entry, tensors, card.recipe) for entry in card.banks)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _restored(card: BankCard, tensors: dict[str, Tensor], recipe: Recipe) -> Bank:
    def below(prefix: str) -> dict[str, Tensor]:
        start = f"{card.key}/{prefix}/"
        return {name.removeprefix(start): values for name, values in tensors.items() if name.startswith(start)}

    patches, alone, features = below("patches"), below("alone"), below("features")
    views = recipe.scoring.channels
    return Bank(
        card.machine,
        card.section,
        card.recordings,
        card.files,
        tensors[f"{card.key}/target"].numpy().astype(np.bool_),
        {view: features[view] for view in views},
        tensors[f"{card.key}/recording"].numpy(),
        tensors[f"{card.key}/begins_s"].numpy(),
        {view: values.numpy() for view, values in alone.items()},
        PatchBank.from_tensors(patches) if patches else None,
        recipe,
    )


def write_card(folder: Path, card: Card) -> None:
    """Write ``detector.json``."""
    write_json(folder / CARD, card.model_dump(mode="json"))


def read_card(folder: Path) -> Card:
    """The content of ``detector.json``.

    Raises:
        InputError: if there is none, or it is not what :func:`write_card` writes.
    """
    if not is_detector(folder):
        raise InputError(
            folder,
            found=f"no {CARD}" if folder.is_dir() else "no such folder",
            expected="a detector's folder",
            remedy="Make one with nearfar fit, or check the path",
        )
    return _read(folder / CARD, TypeAdapter(Card))


def write_calibrations(folder: Path, calibrations: Iterable[Calibration]) -> None:
    """Write ``calibration.json``."""
    write_json(folder / CALIBRATION, [entry.model_dump(mode="json") for entry in calibrations])


def read_calibrations(folder: Path) -> tuple[Calibration, ...]:
    """The scores of normal recordings.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / CALIBRATION, TypeAdapter(tuple[Calibration, ...]))


def write_thresholds(folder: Path, thresholds: Iterable[Threshold]) -> None:
    """Write ``thresholds.json``, whole or not at all."""
    write_json(folder / THRESHOLDS, [entry.model_dump(mode="json") for entry in thresholds])


def read_thresholds(folder: Path) -> tuple[Threshold, ...]:
    """The thresholds beside a detector.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / THRESHOLDS, TypeAdapter(tuple[Threshold, ...]))


def copy_model(model: Path, folder: Path) -> None:
    """Copy what inference takes of a trained model's folder."""
    folder.mkdir(parents=True)
    for name in _MODEL_FILES:
        shutil.copyfile(model / name, folder / name)
    for name in _MODEL_FOLDERS:
        if (model / name).is_dir():
            shutil.copytree(model / name, folder / name)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, content: TypeAdapter[_Content]) -> _Content:
    try:
        return content.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}" if place else first["msg"]) from None
    except OSError as error:
        raise _damaged(path, error.strerror) from None


def _damaged(path: Path, why: object) -> InputError:
    return InputError(
        path,
        found=f"a file that cannot be read ({' '.join(str(why).split())})",
        expected="what nearfar fit wrote",
        remedy="Restore it, fit the detector again, or use the nearfar version that wrote it",
    )
