"""A detector: fitted on recordings of machines running normally, it scores others and says which are anomalous."""

from __future__ import annotations

import logging
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nearfar
from nearfar.config import Recipe
from nearfar.config.tables import Detection
from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_normals
from nearfar.detector import store as kept
from nearfar.detector.bank import Bank, explained_recordings, fit_bank
from nearfar.detector.model import frozen_encoder, loaded_representation, needs_of, with_whole_path
from nearfar.detector.normals import Groups, held_out_of, resolve
from nearfar.detector.results import rows
from nearfar.detector.routing import choose, labels
from nearfar.detector.scores import Score
from nearfar.encoders import Encoder
from nearfar.environment import environment
from nearfar.errors import InputError, NearfarError
from nearfar.features.cache import COMPUTATION
from nearfar.features.representation import Representation, channels_heard, represent
from nearfar.features.windows import Heard, Recording, hear, hop_seconds
from nearfar.models.embedder import encoder_family
from nearfar.progress import Progress, silent
from nearfar.thresholds.calibration import Calibration
from nearfar.thresholds.detectors import (
    Method,
    Threshold,
    changed_thresholds,
    domains_of,
    find_threshold,
    usable_threshold,
)

logger = logging.getLogger(__name__)

TOGETHER = 32
"""Recordings that are heard and scored at a time."""

Source = Path | str | NDArray[np.floating[Any]]
"""A file, or (channels, samples) or (samples,) in [-1, 1]."""


class _Workshop:
    """A temporary folder, there as long as something holds this."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="nearfar-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Detector:
    """Normal recordings of one or several machines, and thresholds.

    Attributes:
        recipe: how it hears and scores; resolved.
        representation: what makes features.
        banks: the normal recordings, by machine and section.
        calibrations: scores of normal recordings, in the order of the banks.
        thresholds: data; :meth:`with_thresholds` makes others without fitting again.
        classes: those of the trained model, if there is one.
        encoder: the encoder that is needed from outside, if any.
        model: the folder of the trained model, if there is one.
        channel_warnings: what looked wrong with the two channels when it was fitted.
    """

    recipe: Recipe
    representation: Representation
    banks: tuple[Bank, ...]
    calibrations: tuple[Calibration, ...]
    thresholds: tuple[Threshold, ...]
    classes: tuple[str, ...] = ()
    encoder: kept.EncoderCard | None = None
    model: Path | None = None
    channel_warnings: tuple[ChannelWarning, ...] = ()
    _workshop: _Workshop | None = None
    """Holds the model of a detector that was trained without a folder to do so."""

    @property
    def machines(self) -> tuple[str, ...]:
        """What the machines are called, with the section behind where one has several."""
        return labels(self.banks)

    @classmethod
    def fit(
        cls,
        recordings: Dataset | Path | str | Sequence[Clip | Path | str],
        recipe: Recipe | str | None = None,
        *,
        machine: str | None = None,
        model: Path | None = None,
        progress: Progress = silent,
    ) -> Detector:
        """Fit a detector on normal recordings.

        Args:
            recordings: a folder of any layout nearfar reads, whose training (normal) recordings are taken; a plain
                folder of normal recordings of one machine; clips or files; or a dataset.
            recipe: a recipe, its name or path; by default ``nearfar-best``, and ``frozen-near`` for mono
                recordings. ``detection`` says how it is calibrated.
            machine: of a folder of machines only this one; else what to call the machine.
            model: of a recipe that trains: the model's folder, also that of a run on the same recordings. An
                unfinished training goes on there. By default a temporary one.
            progress: called during long steps.

        Raises:
            InputError: if the recordings or the recipe cannot be used.
        """
        dataset = read_normals(recordings, machine)
        resolved = resolve(recipe, dataset)
        groups = {unit: list(train) for unit, (train, _) in dataset.groups().items()}
        channel_warnings = _checked_channels(resolved, dataset, progress)
        held = held_out_of(groups, resolved)
        workshop = None
        if resolved.training.adaptation == "none":
            resolved, model = with_whole_path(resolved), None
        else:
            if model is None:
                workshop = _Workshop()
                model = workshop.folder
            _train(resolved, _without(dataset, groups, held), model, progress)
        representation = represent(resolved, model)
        fitted = [
            fit_bank(*unit, groups[unit], held[unit], heard, resolved)
            for unit, heard in _heard(representation, groups, progress)
        ]
        banks, calibrations = tuple(bank for bank, _ in fitted), tuple(scores for _, scores in fitted)
        classes, encoder = needs_of(representation, model)
        return cls(
            resolved,
            representation,
            banks,
            calibrations,
            _thresholds(calibrations, resolved.detection),
            classes,
            encoder,
            model,
            channel_warnings,
            workshop,
        )

    def score(
        self,
        recordings: Source | Recording | Sequence[Source | Recording],
        machine: str | None = None,
        *,
        domain: str | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        progress: Progress = silent,
    ) -> list[Score]:
        """Score recordings.

        Args:
            recordings: files, or arrays of (channels, samples) or (samples,) in [-1, 1]; one or a list.
            machine: whose they are. A detector of one machine needs no name; of several, the folder a file lies in
                may say it.
            domain: source or target, where it is known; otherwise that of the nearest normal recording. It decides
                nothing where both have one threshold.
            sample_rate_hz: of arrays; files say it themselves.
            progress: called with the task ``scoring recordings``.

        Returns:
            a record of each recording, in their order.

        Raises:
            InputError: if a recording cannot be used, or nothing says of which machine it is.
        """
        if domain not in (None, "source", "target"):
            raise InputError("--domain", found=str(domain), expected="source or target", remedy="Correct it")
        listed = _listed(recordings, sample_rate_hz)
        chosen = [choose(self.banks, recording, machine) for recording in listed]
        out: dict[int, Score] = {}
        for number, bank in enumerate(self.banks):
            of_bank = [index for index, choice in enumerate(chosen) if choice == number]
            for first in range(0, len(of_bank), TOGETHER):
                places = of_bank[first : first + TOGETHER]
                batch = [listed[place] for place in places]
                heard = hear(self.representation, batch, device=_device(), spectrograms_of=range(len(batch)))
                names = [recording.name for recording in batch]
                scored = rows(
                    bank, self.calibrations[number], self.thresholds, heard, names, self.machines[number], domain
                )
                out |= dict(zip(places, scored, strict=True))
                progress("scoring recordings", len(out), len(listed))
        return [out[index] for index in range(len(listed))]

    def with_thresholds(
        self,
        false_alarm_rate: float,
        method: Method = "conformal",
        *,
        machine: str | None = None,
        separate: bool = False,
    ) -> Detector:
        """The same detector with other thresholds, for all machines or one; see :func:`changed_thresholds`.

        Raises:
            InputError: if the normal scores give no such threshold, or the machine is unknown.
        """
        changed = changed_thresholds(
            self.calibrations,
            self.thresholds,
            lambda entry, domain: find_threshold(entry, domain, method, false_alarm_rate),
            machine=machine,
            domains="separate" if separate else "pooled",
        )
        return dataclass_replace(self, thresholds=changed)

    def save(self, path: Path | str, *, replace: bool = False) -> None:
        """Write the detector as a folder, whole or not at all.

        Args:
            path: a folder that is not there or empty.
            replace: a detector that is there gives way, once the new one is whole.

        Raises:
            InputError: if something is there.
            NearfarError: if it cannot be written.
        """
        with kept.new_folder(Path(path), replace=replace) as out:
            cards, sha256 = kept.write_banks(out, self.banks)
            if self.model is not None:
                kept.copy_model(self.model, out / kept.MODEL)
            elif encoder := self._random_encoder():
                # A random start is only sure to come back on the same machine and torch, so it is kept.
                encoder_family(self.recipe).save(encoder, out / kept.ENCODER)
            kept.write_calibrations(out, self.calibrations)
            kept.write_thresholds(out, self.thresholds)
            kept.write_card(out, self._card(cards, sha256))

    def _random_encoder(self) -> Encoder | None:
        random = self.encoder is not None and self.encoder.weights.startswith("random:")
        return frozen_encoder(self.representation.extractor) if random else None

    def _card(self, banks: tuple[kept.BankCard, ...], sha256: str) -> kept.Card:
        audio = self.recipe.audio
        number = {"near": audio.near_channel, "far": audio.far_channel}
        return kept.Card(
            format=kept.FORMAT,
            nearfar=nearfar.__version__,
            recipe=self.recipe,
            clip=kept.ClipSpecification(
                sample_rate_hz=audio.sample_rate_hz,
                seconds=self.representation.padded_samples / audio.sample_rate_hz,
                hop_seconds=hop_seconds(self.recipe),
                channels={channel: number[channel] for channel in channels_heard(self.recipe)},
            ),
            classes=self.classes,
            encoder=self.encoder,
            weights_hash=self.representation.weights_hash,
            computation=COMPUTATION,
            banks=banks,
            channel_warnings=self.channel_warnings,
            sha256={kept.BANKS: sha256},
            made_with=environment(),
        )

    @classmethod
    def load(cls, path: Path | str, *, encoder: str | None = None) -> Detector:
        """Read a detector's folder.

        Args:
            path: the folder.
            encoder: where the encoder that it needs is, if it is no longer where it was.

        Raises:
            InputError: if the folder holds no whole detector, or the encoder is another one.
        """
        folder = Path(path)
        card = kept.read_card(folder)
        if card.computation != COMPUTATION:
            raise InputError(
                folder / kept.CARD,
                found=f"features computed as nearfar {card.nearfar} does",
                expected=f"as nearfar {nearfar.__version__} does",
                remedy="Fit the detector again, or use the nearfar version that wrote it",
            )
        banks = kept.read_banks(folder, card)
        calibrations, thresholds = kept.read_calibrations(folder), kept.read_thresholds(folder)
        if [(bank.machine, bank.section) for bank in banks] != [(c.machine, c.section) for c in calibrations]:
            raise InputError(
                folder / kept.CALIBRATION,
                found="scores of other machines than the detector's",
                expected=f"those of {', '.join(labels(banks))}",
                remedy="Restore the file, or fit the detector again",
            )
        representation = loaded_representation(card, folder, encoder)
        model = folder / kept.MODEL if card.recipe.training.adaptation != "none" else None
        return cls(
            card.recipe,
            representation,
            banks,
            calibrations,
            thresholds,
            card.classes,
            card.encoder,
            model,
            card.channel_warnings,
        )


def _thresholds(calibrations: Sequence[Calibration], detection: Detection) -> tuple[Threshold, ...]:
    return tuple(
        usable_threshold(entry, domain, detection.threshold, detection.false_alarm_rate)
        for entry in calibrations
        for domain in domains_of(entry, detection.domains)
    )


def _without(dataset: Dataset, groups: Groups, held: dict[tuple[str, str], NDArray[np.bool_]]) -> Dataset:
    """The recordings that are not held out."""
    kept_in = [
        clip for unit, clips in groups.items() for clip, out in zip(clips, held[unit], strict=True) if not out
    ]
    return dataset.with_clips(kept_in)


def _train(recipe: Recipe, dataset: Dataset, model: Path, progress: Progress) -> None:
    from nearfar.challenge.run import train_or_reuse  # brings accelerate, which scoring does without

    if not train_or_reuse(recipe, dataset, model, progress=progress):
        raise NearfarError(
            "A detector is fitted by one process. Train on several with nearfar run, and give its model (--model)."
        )


def _checked_channels(recipe: Recipe, dataset: Dataset, progress: Progress) -> tuple[ChannelWarning, ...]:
    """Listen to a sample of two-channel recordings and say what looks wrong: it may explain what follows."""
    audio = recipe.audio
    found = check_channels(dataset, near=audio.near_channel, far=audio.far_channel, progress=progress)
    for warning in found:
        logger.warning("%s", warning)
    return tuple(found)


def _heard(
    representation: Representation, groups: Groups, progress: Progress
) -> Iterator[tuple[tuple[str, str], Heard]]:
    """The windows of every machine and section's recordings, one after the other."""
    total, done = sum(map(len, groups.values())), 0

    def advance(recordings: int) -> None:
        nonlocal done
        done += recordings
        progress("hearing normal recordings", done, total)

    for unit, clips in groups.items():
        recordings = [Recording(str(clip.path), clip.path) for clip in clips]
        explained = explained_recordings(len(clips))
        yield unit, hear(representation, recordings, device=_device(), spectrograms_of=explained, advance=advance)


def _listed(given: Source | Recording | Sequence[Source | Recording], sample_rate_hz: int) -> list[Recording]:
    """Recordings of whatever was given, arrays numbered."""
    many = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    out: list[Recording] = []
    for number, entry in enumerate(many):
        if isinstance(entry, Recording):
            out.append(entry)
        elif isinstance(entry, np.ndarray):
            out.append(Recording(f"array {number}", entry, sample_rate_hz))
        else:
            out.append(Recording(str(entry), Path(entry)))
    if not out:
        raise InputError("FILES", found="none", expected="one recording or more", remedy="Name them")
    return out


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
