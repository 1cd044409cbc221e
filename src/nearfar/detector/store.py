"""The folder of a detector.

``detector.json`` (recipe, clip specification, classes, encoder, versions, hashes), ``banks.safetensors`` (features
of the normal recordings per machine and view, and their domains), ``calibration.json`` (scores of normal
recordings), ``thresholds.json`` (data that can be changed without fitting again) and, of a recipe that trains,
``model/``. A random encoder that was not trained is saved in ``encoder/``; of any other frozen encoder, only the
name and hash are saved.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.config import Recipe
from nearfar.config.validation import digest
from nearfar.data.channel_check import ChannelWarning
from nearfar.data.quality import Profile
from nearfar.detector.faults import FaultBank, FaultRecording
from nearfar.detector.history import BEFORE, BEFORE_LIST, CHANGE_LIST, CHANGES, Before, Change
from nearfar.detector.kept import HeldOut, Signals, below
from nearfar.detector.machine import FittedMachine
from nearfar.errors import InputError, NearfarError
from nearfar.explain.localisation import PatchBank
from nearfar.files import (
    SIGNATURE,
    exchange,
    exclusive,
    file_sha256,
    read_json,
    require_signature,
    reset_permissions,
    whole_file,
    without_signature,
    write_json,
    write_signed_json,
)
from nearfar.models.folder import WEIGHT_FOLDERS
from nearfar.scoring import Workspace
from nearfar.settings import Settings, reason
from nearfar.thresholds import Calibration, Threshold, is_consistent
from nearfar.thresholds.file import THRESHOLDS, checked, read_rows

FORMAT = 1
FEATURES_VERSION = 3
"""Increased when the same recordings and weights give other features, so that old detectors are refused."""
CARD, BANKS, CALIBRATION = "detector.json", "banks.safetensors", "calibration.json"
MODEL, ENCODER = "model", "encoder"
LONGEST_WAIT_S = 60.0
"""How long a detector waits for another process that saves one in the same folder."""

_MODEL_FILES = ("model.json", "head.safetensors", "autoencoder_*.json", "autoencoder_*.safetensors")

_RENAMES_SECONDS = 0.2
"""Longer than the two renames take that replace a detector."""

_Content = TypeVar("_Content")


class ClipSpecification(Settings):
    """The clips that features are computed from."""

    sample_rate_hz: int
    seconds: float
    hop_seconds: float
    channels: dict[Literal["near", "far"], int]
    """The channels that are used, and the number in a file, from 0, of each."""


class EncoderCard(Settings):
    """The encoder that a detector needs; ``hash`` is of its weights, as ``nearfar.encoders.weights`` takes it."""

    weights: str
    revision: str | None
    hash: str


class BankCard(Settings):
    """The normal recordings of one machine and section; ``key`` is that of their tensors.

    ``profile`` is of their signals, and ``repeats`` are recordings that were left out as they hold the sound of
    the one named second. ``held`` are paths of recordings that are held out of the bank, and ``faults`` recordings
    of known faults.
    """

    key: str
    machine: str
    section: str
    recordings: tuple[str, ...]
    files: tuple[str, ...]
    profile: Profile | None = None
    repeats: tuple[tuple[str, str], ...] = ()
    held: tuple[str, ...] = ()
    faults: tuple[FaultRecording, ...] = ()


class Card(Settings):
    """``detector.json``."""

    format: Literal[1]
    nearfar: str
    recipe: Recipe
    clip: ClipSpecification
    classes: tuple[str, ...]
    encoder: EncoderCard | None
    weights_hash: str
    computation: int
    """The version of the computation of features, see :data:`FEATURES_VERSION`."""
    banks: tuple[BankCard, ...]
    channel_warnings: tuple[ChannelWarning, ...]
    files: dict[str, str]
    """The SHA-256 of the files beside it, by name."""
    made_with: dict[str, Any]


def is_detector(folder: Path) -> bool:
    """Whether a folder is a detector's."""
    return (folder / CARD).is_file()


def require_free(folder: Path, *, replace: bool) -> None:
    """Raise an InputError unless ``folder`` is free: missing, empty, or a detector's that may be replaced."""
    _complete_interrupted(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if is_detector(folder):
        if replace:
            return
        found, remedy = ("a detector", "Choose another folder, or overwrite it (replace=True)")
    else:
        found, remedy = "something other than a detector", "Choose another folder"
    raise InputError(folder, found=found, expected="no such folder, or an empty one", remedy=remedy)


@contextmanager
def new_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that replaces it when the block succeeds.

    What was there before stays until the new one is complete.

    Raises:
        InputError: as :func:`require_free`.
        NearfarError: if it cannot be written.
    """
    target = folder.resolve()
    partial, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        with exclusive(folder, target.with_name(f".{target.name}.lock"), wait_s=LONGEST_WAIT_S):
            _tidy(target)
            require_free(folder, replace=replace)
            partial.mkdir(parents=True)
            yield partial
            reset_permissions(partial)
            _put_in_place(partial, target, old)
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{folder}: cannot write it ({error}). Free some space or choose another folder; nothing was lost."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _put_in_place(partial: Path, target: Path, old: Path) -> None:
    """Replace ``target`` by ``partial``, in one step where the system can exchange folders."""
    if not target.exists():
        partial.replace(target)
    elif exchange(partial, target):
        partial.replace(old)
    else:
        target.replace(old)
        try:
            partial.replace(target)
        except OSError:
            old.replace(target)
            raise


def _tidy(target: Path) -> None:
    """Restore a detector that a killed process had moved away, and remove what else it left beside ``target``."""
    begin = f".{glob.escape(target.name)}.*."
    for old in target.parent.glob(f"{begin}old"):
        if not target.exists() and is_detector(old):
            old.replace(target)
    for pattern in ("old", "partial"):
        for left in target.parent.glob(begin + pattern):
            shutil.rmtree(left, ignore_errors=True)


def _complete_interrupted(folder: Path) -> None:
    """Put a detector back that was moved aside by a program that was killed before it put the new one there."""
    target = folder.resolve()
    if target.exists() or not any(_left(target, "old")):
        return
    time.sleep(_RENAMES_SECONDS)  # another program may be about to put the new one there
    for old in _left(target, "old"):
        with suppress(OSError):  # another program was faster
            if not target.exists():
                old.rename(target)


def _left(target: Path, what: str) -> list[Path]:
    """The temporary folders of one kind beside a detector."""
    if not target.parent.is_dir():
        return []
    start, end = f".{target.name}.", f".{what}"
    return sorted(
        path for path in target.parent.iterdir() if path.name.startswith(start) and path.name.endswith(end)
    )


def write_banks(folder: Path, banks: Sequence[FittedMachine]) -> tuple[tuple[BankCard, ...], str]:
    """Write the tensors of all banks; returns their cards and the file's SHA-256."""
    return _write_banks(folder / BANKS, banks)


def _write_banks(file: Path, banks: Sequence[FittedMachine]) -> tuple[tuple[BankCard, ...], str]:
    tensors: dict[str, Tensor] = {}
    cards = []
    for number, bank in enumerate(banks):
        key = f"{number:03d}"
        names = {"machine": bank.machine, "section": bank.section}
        more = {
            "profile": bank.profile,
            "repeats": bank.repeats,
            "held": bank.held.files if bank.held else (),
            "faults": bank.faults.recordings if bank.faults else (),
        }
        cards.append(BankCard(key=key, **names, recordings=bank.recordings, files=bank.files, **more))
        tensors |= {f"{key}/features/{view}": values for view, values in bank.features.items()}
        tensors |= {f"{key}/alone/{view}": torch.from_numpy(values) for view, values in bank.normal_scores.items()}
        tensors[f"{key}/target"] = torch.from_numpy(bank.target.astype(np.uint8))
        tensors[f"{key}/recording"] = torch.from_numpy(bank.recording)
        tensors[f"{key}/begins_s"] = torch.from_numpy(bank.begins_s)
        parts = {"patches": bank.patches, "signals": bank.signals, "held": bank.held, "faults": bank.faults}
        for name, part in parts.items():
            found = {} if part is None else part.tensors()
            tensors |= {f"{key}/{name}/{inner}": values for inner, values in found.items()}
    save_file({name: values.contiguous() for name, values in tensors.items()}, file)
    return tuple(cards), file_sha256(file)


def read_banks(folder: Path, card: Card) -> tuple[FittedMachine, ...]:
    """The banks of a detector's folder.

    Raises:
        InputError: if the file is missing, damaged, or not the one that the card is of.
    """
    path = folder / BANKS
    try:
        if (found := file_sha256(path)) != card.files[BANKS]:
            raise ValueError(f"SHA-256 {found[:12]}, not {card.files[BANKS][:12]}")
        tensors = load_file(path)
        return tuple(_restored(entry, tensors, card.recipe, folder / MODEL) for entry in card.banks)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _restored(card: BankCard, tensors: dict[str, Tensor], recipe: Recipe, model: Path | None) -> FittedMachine:
    own = below(tensors, card.key)
    patches, normal_scores, features = (below(own, name) for name in ("patches", "alone", "features"))
    signals, held, faults = (below(own, name) for name in ("signals", "held", "faults"))
    workspace = Workspace(model, card.machine, None) if model is not None and recipe.backend.trains else None
    return FittedMachine(
        card.machine,
        card.section,
        card.recordings,
        card.files,
        own["target"].numpy().astype(np.bool_),
        {view: features[view] for view in recipe.scoring.views},
        own["recording"].numpy(),
        own["begins_s"].numpy(),
        {view: values.numpy() for view, values in normal_scores.items()},
        PatchBank.from_tensors(patches) if patches else None,
        recipe.scoring_plan(),
        workspace,
        card.profile,
        card.repeats,
        Signals.from_tensors(signals) if signals else None,
        HeldOut.from_tensors(card.held, held) if held else None,
        FaultBank(card.faults, below(faults, "features"), faults["recording"].numpy()) if faults else None,
    )


def write_part(file: Path, bank: FittedMachine, calibration: Calibration) -> None:
    """Write one machine as ``<file>.safetensors`` and, last, ``<file>.json``, each whole or not at all.

    Raises:
        NearfarError: if it cannot be written.
    """
    try:
        with whole_file(file.with_name(f"{file.name}.safetensors")) as tensors:
            (card,), sha256 = _write_banks(tensors, [bank])
    except (OSError, SafetensorError) as error:
        raise NearfarError(f"{file}: cannot write it ({error}). Free some space and rerun the command.") from None
    tree = {"bank": card.model_dump(mode="json"), "calibration": calibration.model_dump(mode="json")}
    write_json(file.with_name(f"{file.name}.json"), {**tree, "tensors": sha256})


def read_part(file: Path, recipe: Recipe, model: Path | None) -> tuple[FittedMachine, Calibration] | None:
    """What :func:`write_part` wrote; None if there is nothing or it is damaged.

    Args:
        file: the path without a suffix.
        recipe: of the detector, resolved.
        model: the folder of the models of back-ends that train.
    """
    tensors = file.with_name(f"{file.name}.safetensors")
    try:
        tree = json.loads(file.with_name(f"{file.name}.json").read_bytes())
        if file_sha256(tensors) != tree["tensors"]:
            return None
        card, calibration = BankCard.model_validate_json(json.dumps(tree["bank"])), tree["calibration"]
        bank = _restored(card, load_file(tensors), recipe, model)
        return bank, Calibration.model_validate_json(json.dumps(calibration))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def write_card(folder: Path, card: Card) -> None:
    """Write ``detector.json``, with the SHA-256 of its own content, and of calibration and history beside it."""
    beside = [name for name in (CALIBRATION, CHANGES, BEFORE) if (folder / name).exists()]
    files = card.files | {name: file_sha256(folder / name) for name in beside}
    write_signed_json(folder / CARD, card.model_copy(update={"files": files}).model_dump(mode="json"))


def read_card(folder: Path) -> Card:
    """The content of ``detector.json``.

    Raises:
        InputError: if there is none, or it is not what :func:`write_card` writes.
    """
    _complete_interrupted(folder)
    if not is_detector(folder):
        raise InputError(
            folder,
            found=f"no {CARD}" if folder.is_dir() else "no such folder",
            expected="a detector's folder",
            remedy="Make one with nearfar fit, or check the path",
        )
    path = folder / CARD
    try:
        tree = read_json(path)
        if isinstance(tree.get(SIGNATURE), dict):
            tree = _signed_as_now(tree)
        else:
            require_signature(tree)
        content = without_signature(tree)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return _validated(path, TypeAdapter(Card), json.dumps(content))


def _signed_as_now(tree: dict[str, Any]) -> dict[str, Any]:
    """The card of an earlier version, whose ``sha256`` holds the hashes of all files, and in some its own.

    Raises:
        ValueError: if it is not the card that its own hash is of.
    """
    files = dict(tree[SIGNATURE])
    written = files.pop(CARD, None)
    if written is not None and (found := digest({**tree, SIGNATURE: files})) != written:
        raise ValueError(f"SHA-256 {found[:12]}, not {str(written)[:12]}")
    return {**without_signature(tree), "files": files}


def write_calibrations(folder: Path, calibrations: Iterable[Calibration]) -> None:
    """Write ``calibration.json``."""
    write_json(folder / CALIBRATION, [entry.model_dump(mode="json") for entry in calibrations])


def read_calibrations(folder: Path, card: Card) -> tuple[Calibration, ...]:
    """The scores of normal recordings.

    Raises:
        InputError: if the file cannot be read, or is not the one that the card is of.
    """
    path = folder / CALIBRATION
    calibrations = _read(path, TypeAdapter(tuple[Calibration, ...]))
    _require_same(path, card)
    return calibrations


def read_thresholds(
    folder: Path, calibrations: Iterable[Calibration], *, without: str | None = None
) -> tuple[Threshold, ...]:
    """The thresholds beside a detector.

    Args:
        folder: of the detector.
        calibrations: its scores of normal recordings.
        without: a machine, or ``machine/section``, whose thresholds are left out and not checked.

    Raises:
        InputError: if the file cannot be read, holds a threshold that is not the one that was written, or one that
            its rule does not find from the normal scores and that is not marked as given by a person.
    """
    path = folder / THRESHOLDS
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or error) from None
    by_unit = {(entry.machine, entry.section): entry for entry in calibrations}
    thresholds = []
    for row in rows:
        if without is not None and without in (row.get("machine"), f"{row.get('machine')}/{row.get('section')}"):
            continue
        threshold = _validated(path, TypeAdapter(Threshold), json.dumps(without_signature(row)))
        calibration = by_unit.get((threshold.machine, threshold.section))
        if calibration is None:
            raise _damaged(path, f"a threshold of {threshold.machine}, which the detector was not fitted on")
        if not is_consistent(threshold, calibration):
            raise InputError(
                path,
                found=f"{threshold.value} as the {threshold.rule} threshold of {threshold.machine}",
                expected="what the rule finds from the normal scores at its false-alarm rate",
                remedy="Find it again by its false-alarm rate, or set a number, with nearfar threshold",
            )
        checked(path, row)
        thresholds.append(threshold)
    return tuple(thresholds)


def read_history(folder: Path, card: Card) -> tuple[tuple[Change, ...], tuple[Before, ...]]:
    """The changes of a detector, and what undoes the last ones; none of a detector that was never changed.

    Raises:
        InputError: if a file cannot be read, or is not the one that the card is of.
    """
    if CHANGES not in card.files:
        return (), ()
    found = _read(folder / CHANGES, CHANGE_LIST), _read(folder / BEFORE, BEFORE_LIST)
    for name in (CHANGES, BEFORE):
        _require_same(folder / name, card)
    return found


def copy_model(model: Path, folder: Path) -> None:
    """Copy the files of a trained model's folder that inference needs."""
    folder.mkdir(parents=True)
    for pattern in _MODEL_FILES:
        for path in model.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    for name in WEIGHT_FOLDERS:
        if (model / name).is_dir():
            shutil.copytree(model / name, folder / name)


def _read(path: Path, content: TypeAdapter[_Content]) -> _Content:
    try:
        return _validated(path, content, path.read_bytes())
    except OSError as error:
        raise _damaged(path, error.strerror) from None


def _validated(path: Path, content: TypeAdapter[_Content], text: str | bytes) -> _Content:
    try:
        return content.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{key}: expected {reason(first)}" if key else reason(first)) from None


def _require_same(path: Path, card: Card) -> None:
    """Raise an InputError if a file has another content than when the card was written."""
    expected = card.files.get(path.name)  # not in cards of earlier versions
    if expected is not None and (found := file_sha256(path)) != expected:
        raise _damaged(path, f"SHA-256 {found[:12]}, not {expected[:12]}")


def _damaged(path: Path, why: object) -> InputError:
    return InputError(
        path,
        found=f"a file that cannot be read ({' '.join(str(why).split())})",
        expected="what nearfar fit wrote",
        remedy="Restore it, fit the detector again, or use the nearfar version that wrote it",
    )
