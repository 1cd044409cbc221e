"""A detector: fitted on normal recordings of machines, it scores others and decides which are anomalous."""

from __future__ import annotations

import logging
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

import nearfar
from nearfar.config import Recipe, load_recipe
from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_normals
from nearfar.data.quality import Profile
from nearfar.data.walk import log_left_out
from nearfar.detector import store
from nearfar.detector.changes import Changeable
from nearfar.detector.distinct import Distinct, without_repeats
from nearfar.detector.encoder import loaded_extractor, requirements, with_absolute_encoder
from nearfar.detector.fitting import Fitting
from nearfar.detector.history import Before, Change, write_history
from nearfar.detector.holdout import held_out, with_method
from nearfar.detector.machine import (
    FittedMachine,
    Unit,
    scored_features,
)
from nearfar.detector.results import recording_scores
from nearfar.detector.routing import choose_machine, machine_names, require_known
from nearfar.encoders import ENCODERS
from nearfar.environment import environment
from nearfar.errors import InputError
from nearfar.executors import Executor, default_executor
from nearfar.executors.launch import is_launch
from nearfar.extras import require_extras
from nearfar.files import exclusive, file_size
from nearfar.models import read_card
from nearfar.pipeline.extraction import default_device, extract
from nearfar.pipeline.extractor import Extractor, build_extractor
from nearfar.pipeline.preparation import DETECTOR, check_recordings, prepare_detector
from nearfar.pipeline.training import is_trained, needed_extras, train_or_reuse
from nearfar.pipeline.windows import Recording, hop_seconds
from nearfar.progress import Progress, silent
from nearfar.scores import Failure, Score
from nearfar.threads import parallel_map
from nearfar.thresholds import Calibration, Threshold, changed_thresholds, find_threshold, usable_thresholds
from nearfar.thresholds.drift import Drift, find_drift
from nearfar.thresholds.file import write_thresholds

logger = logging.getLogger(__name__)

BATCH = 32
"""Recordings that are scored together where a CPU does not compute the networks."""
BATCH_BYTES = 100_000_000
"""Bytes of files that are scored together there: 26 minutes of 16 kHz, 16 bits and two channels."""

DEFAULT_RECIPE = "auto"
"""The default recipe of detectors and runs."""

Source = Path | str | NDArray[np.floating[Any]] | Recording
"""A file, or (channels, samples) or (samples,) in [-1, 1]."""

Device = torch.device | str | None


class _TemporaryFolder:
    """A temporary folder that is removed with this object."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="nearfar-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """All that a detector consists of.

    Attributes:
        recipe: resolved.
        extractor: computes features.
        machines: the normal recordings, by machine and section.
        calibrations: scores of normal recordings, in the order of the machines.
        thresholds: data that can be changed without fitting again.
        classes: of the trained model, if there is one.
        encoder: the encoder that is not saved with the detector, if any.
        model: the folder of the trained model, if there is one.
        channel_warnings: problems of the two channels found when it was fitted.
        changes: all that was changed since.
        before: what the last of these replaced, and had effect.
        temporary: keeps the folder of a model that was trained without one.
    """

    recipe: Recipe
    extractor: Extractor
    machines: tuple[FittedMachine, ...]
    calibrations: tuple[Calibration, ...]
    thresholds: tuple[Threshold, ...]
    classes: tuple[str, ...] = ()
    encoder: store.EncoderCard | None = None
    model: Path | None = None
    channel_warnings: tuple[ChannelWarning, ...] = ()
    changes: tuple[Change, ...] = ()
    before: tuple[Before, ...] = ()
    temporary: _TemporaryFolder | None = None


class Detector(Changeable):
    """Scores recordings of one or several machines against normal ones. Made by :meth:`fit` or :meth:`load`.

    :class:`nearfar.detector.changes.Changeable` adds normal recordings and known faults to it.

    >>> detector = Detector.fit("recordings/pump 7")
    >>> detector.score("monday/0001.wav").anomalous
    """

    _fitted: _Fitted

    def __repr__(self) -> str:
        machines = ", ".join(self.machines[:4]) + (", ..." if len(self.machines) > 4 else "")
        count = sum(len(entry.recordings) for entry in self._fitted.machines)
        return f"Detector({self.recipe.name!r}, machines: {machines}; {count} normal recordings)"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self._fitted.recipe

    @property
    def machines(self) -> tuple[str, ...]:
        """The names of the machines, followed by the section where one has several."""
        return machine_names(self._fitted.machines)

    @property
    def views(self) -> tuple[str, ...]:
        """The scored views."""
        return tuple(self.recipe.scoring.views)

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The thresholds of all machines; :meth:`with_thresholds` gives others without fitting again."""
        return self._fitted.thresholds

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The scores of normal recordings that thresholds are found from, by machine and section."""
        return self._fitted.calibrations

    @property
    def profiles(self) -> tuple[Profile | None, ...]:
        """The levels of normal recordings by machine and section; None in detectors of earlier versions."""
        return tuple(entry.profile for entry in self._fitted.machines)

    @property
    def reasons(self) -> dict[str, str]:
        """The choices that the recipe made for each machine and why, in a line each; empty if it makes none."""
        found = zip(self.machines, self._fitted.machines, strict=True)
        return {name: entry.reason for name, entry in found if entry.reason is not None}

    @property
    def channel_warnings(self) -> tuple[ChannelWarning, ...]:
        """Problems of the near and far channels that were found when the detector was fitted."""
        return self._fitted.channel_warnings

    @classmethod
    def fit(
        cls,
        recordings: Dataset | Path | str | Sequence[Clip | Path | str],
        recipe: Recipe | str | None = None,
        *,
        machine: str | None = None,
        model: Path | str | None = None,
        device: Device = None,
        progress: Progress = silent,
        executor: Executor | None = None,
        parts: Path | str | None = None,
    ) -> Detector:
        """Fit a detector on normal recordings.

        Args:
            recordings: a folder of any layout that nearfar reads, whose training (normal) recordings are used; a
                plain folder of normal recordings of one machine; clips or files; or a dataset.
            recipe: a recipe, its name or path; by default ``auto``.
            machine: of a folder of machines only this one; else the name to give the machine.
            model: of a recipe that trains: the model's folder, which may be that of a run on the same recordings.
                An unfinished training is resumed there. By default a temporary folder.
            device: where networks run, such as ``"cuda:1"``; by default the first GPU, if there is one.
            progress: called during long steps.
            executor: where machines are fitted, each a task; by default this process, or all those of a launch.
            parts: a folder that keeps every machine that is fitted, so that a later call with the same recordings
                fits only the others; executors on other hosts need a shared one.

        Raises:
            InputError: if the recordings or the recipe cannot be used, or training lacks the extra ``train``.
        """
        dataset = read_normals(recordings, machine)
        if not isinstance(recordings, Dataset):
            log_left_out(dataset.warnings, dataset.hidden, dataset.root)
        chosen = recipe if isinstance(recipe, Recipe) else starting_recipe(recipe)
        if model is None or read_card(Path(model)) is None:
            require_extras(f"recipe {chosen.name}", *needed_extras(chosen))
        dataset, before = without_repeats(dataset, chosen)
        resolved = prepare_detector(dataset, chosen)
        folder = Path(model) if model is not None and (resolved.trains or resolved.backend.trains) else None
        where, kept = executor or default_executor(), None if parts is None else Path(parts)
        with exclusive(folder) if folder is not None and where.is_main else nullcontext():
            return cls._fit(dataset, before, resolved, folder, device, progress, where, kept)

    @classmethod
    def _fit(
        cls,
        dataset: Dataset,
        before: Mapping[Unit, Distinct],
        resolved: Recipe,
        model: Path | None,
        device: Device,
        progress: Progress,
        executor: Executor,
        parts: Path | None,
    ) -> Detector:
        clips = {unit: list(train) for unit, (train, _) in dataset.groups().items()}
        resolved = with_method(resolved, dataset, clips, model)
        held = held_out(clips, resolved)
        warnings = _checked_channels(resolved, dataset, progress)
        temporary, folder = None, model
        if not (resolved.trains or resolved.backend.trains):
            resolved = with_absolute_encoder(resolved)
        elif folder is None:
            if is_launch():
                expected = "a folder that all processes of the launch share"
                raise InputError("model", found="none", expected=expected, remedy="Name one (model)")
            temporary = _TemporaryFolder()
            folder = temporary.folder
        if resolved.trains:
            assert folder is not None
            _train(resolved, _without(dataset, clips, held), folder, progress, executor)
        extractor = build_extractor(resolved, folder)
        target = default_device() if device is None else torch.device(device)
        total = sum(map(len, clips.values()))
        work = Fitting(resolved, extractor, folder, target, total, before, parts)
        try:
            fitted = work.fit_all(clips, held, executor, progress)
        except InputError:
            check_recordings(resolved, dataset, progress)  # lists the defects of all machines, not of the first
            raise
        classes, encoder = requirements(extractor, folder)
        calibrations = tuple(scores for _, scores in fitted)
        threshold = resolved.threshold
        assert threshold.rule is not None, "a recipe is resolved before it is used"
        assert threshold.false_alarm_rate is not None
        thresholds = usable_thresholds(calibrations, threshold.rule, threshold.false_alarm_rate, threshold.domains)
        return cls(
            _Fitted(
                resolved,
                extractor,
                tuple(entry for entry, _ in fitted),
                calibrations,
                thresholds,
                classes,
                encoder,
                folder,
                warnings,
                temporary=temporary,
            ),
            target,
        )

    def score(
        self,
        recording: Source,
        machine: str | None = None,
        *,
        domain: str | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        device: Device = None,
    ) -> Score:
        """Score one recording.

        Args:
            recording: a file, or an array of (channels, samples) or (samples,) in [-1, 1].
            machine: whose recording it is. A detector of one machine needs no name; of several, the folder that
                the file lies in may decide.
            domain: source or target, where it is known; by default that of the nearest normal recording. It has no
                effect where both have one threshold.
            sample_rate_hz: of an array.
            device: where networks run; by default as in :meth:`fit` or :meth:`load`.

        Raises:
            InputError: if the recording cannot be used, or it is unclear of which machine it is.
        """
        if isinstance(recording, list | tuple):
            raise InputError(
                "recording",
                found=f"a {type(recording).__name__} of recordings",
                expected="one recording",
                remedy="Use score_many",
            )
        scores = self.score_many([recording], machine, domain=domain, sample_rate_hz=sample_rate_hz, device=device)
        return next(scores)

    @overload
    def score_many(
        self,
        recordings: Iterable[Source],
        machine: str | None = None,
        *,
        domain: str | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        device: Device = None,
        keep_errors: Literal[False] = False,
        explain: bool = True,
        progress: Progress = silent,
    ) -> Iterator[Score]: ...

    @overload
    def score_many(
        self,
        recordings: Iterable[Source],
        machine: str | None = None,
        *,
        domain: str | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        device: Device = None,
        keep_errors: bool,
        explain: bool = True,
        progress: Progress = silent,
    ) -> Iterator[Score | Failure]: ...

    def score_many(
        self,
        recordings: Iterable[Source],
        machine: str | None = None,
        *,
        domain: str | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        device: Device = None,
        keep_errors: bool = False,
        explain: bool = True,
        progress: Progress = silent,
    ) -> Iterator[Score | Failure]:
        """Score many recordings: an iterator of their scores, in order; arguments as :meth:`score`.

        Recordings are read a few ahead as the iterator advances, by the workers of :mod:`nearfar.threads`. With
        ``keep_errors``, a recording that cannot be used gives a :class:`Failure` in its place, and the others are
        scored all the same. Without ``explain``, ``departure`` is None and ``contributions`` are empty,
        in half the time with ``auto``.

        Raises:
            InputError: at once if an argument is wrong or there are no recordings; while iterating, without
                ``keep_errors``, if a recording cannot be used.
        """
        if domain not in (None, "source", "target"):
            raise InputError("domain", found=repr(domain), expected="'source' or 'target'", remedy="Correct it")
        listed = listed_recordings(recordings, sample_rate_hz)
        machines = self._fitted.machines
        require_known(machines, machine)
        chosen: list[int | InputError] = []
        for recording in listed:
            try:
                chosen.append(choose_machine(machines, recording, machine))
            except InputError as error:
                if not keep_errors:
                    raise
                chosen.append(error)
        target = self._device if device is None else torch.device(device)
        return self._scores(listed, chosen, domain, target, (keep_errors, explain), progress)

    def _scores(
        self,
        listed: Sequence[Recording],
        chosen: Sequence[int | InputError],
        domain: str | None,
        device: torch.device,
        options: tuple[bool, bool],
        progress: Progress,
    ) -> Iterator[Score | Failure]:
        def score(batch: range) -> list[Score | Failure]:
            found: dict[int, Score | Failure] = {}
            by_machine: dict[int, list[int]] = {}
            for index in batch:
                machine = chosen[index]
                if isinstance(machine, InputError):
                    found[index] = Failure(listed[index].name, machine)
                else:
                    by_machine.setdefault(machine, []).append(index)
            for number, indices in by_machine.items():
                scores = self._scores_of(number, [listed[index] for index in indices], domain, device, *options)
                found |= dict(zip(indices, scores, strict=True))
            return [found[index] for index in batch]

        # On a CPU each recording alone, so that its scores do not depend on the others, by workers.
        alone = device.type == "cpu"
        batches = [range(i, i + 1) for i in range(len(listed))] if alone else list(batches_of(listed))
        for batch, scores in zip(batches, (parallel_map if alone else map)(score, batches), strict=True):
            progress("scoring recordings", batch.stop, len(listed))
            yield from scores

    def _scores_of(
        self,
        number: int,
        recordings: Sequence[Recording],
        domain: str | None,
        device: torch.device,
        keep_errors: bool,
        explain: bool,
    ) -> list[Score | Failure]:
        """Scores of recordings of one machine, and failures in their places."""
        fitted = self._fitted
        extracted = extract(
            fitted.extractor,
            recordings,
            device=device,
            spectrograms_of=range(len(recordings) if explain else 0),
            with_facts=True,
            keep_errors=keep_errors,
        )
        out: dict[int, Score | Failure] = {
            index: Failure(recordings[index].name, error) for index, error in extracted.errors.items()
        }
        usable = [index for index in range(len(recordings)) if index not in out]
        if out and usable:
            extracted = extracted.of(usable)
        if usable:
            scores = recording_scores(
                fitted.machines[number],
                fitted.calibrations[number],
                fitted.thresholds,
                extracted,
                scored_features(extracted, fitted.recipe),
                [recordings[index].name for index in usable],
                self.machines[number],
                fitted.extractor.padded_samples / self.recipe.audio.sample_rate_hz,
                fitted.extractor.dimensions if explain else None,
                domain,
            )
            out |= dict(zip(usable, scores, strict=True))
        return [out[index] for index in range(len(recordings))]

    def fitted(self, machine: str | None = None) -> tuple[Extractor, FittedMachine, Calibration]:
        """What the scores of one machine are computed from, for exports; a detector of one machine needs no name.

        Raises:
            InputError: if there is no such machine, or several and none is named.
        """
        machines = self._fitted.machines
        require_known(machines, machine)
        names = self.machines
        if machine is None and len(names) > 1:
            raise InputError(
                "machine", found="none", expected=f"one of {', '.join(names)}", remedy="Name the machine (machine)"
            )
        number = names.index(machine) if machine in names else 0
        return self._fitted.extractor, machines[number], self._fitted.calibrations[number]

    def name_of(self, fitted: FittedMachine) -> str:
        """The name of a machine of this detector, as in :attr:`machines`."""
        return self.machines[self._fitted.machines.index(fitted)]

    def drift(self, scores: Iterable[Score]) -> tuple[Drift, ...]:
        """Whether the scores of recent recordings have shifted alike, by machine; see :class:`Drift`."""
        by_machine: dict[str, list[Score]] = {}
        for score in scores:
            by_machine.setdefault(score.machine, []).append(score)
        found = []
        for name, entries in by_machine.items():
            calibration = self.calibrations[self.machines.index(name)]
            values = [entry.score for entry in entries]
            drift = find_drift(name, calibration, values, entries[0].threshold)
            found += [] if drift is None else [drift]
        return tuple(found)

    def with_thresholds(
        self,
        false_alarm_rate: float,
        rule: str = DETECTOR.rule,
        *,
        machine: str | None = None,
        domains: str = "pooled",
    ) -> Detector:
        """The same detector with other thresholds, for all machines or one.

        Args:
            false_alarm_rate: the fraction of normal recordings that may be called anomalous.
            rule: a name in :data:`nearfar.thresholds.RULES`.
            machine: whose thresholds to change; None: all.
            domains: ``pooled`` for one threshold for both domains, ``separate`` for one each.

        Raises:
            InputError: if the normal scores give no such threshold, or a name is unknown.
        """
        changed = changed_thresholds(
            self.calibrations,
            self.thresholds,
            lambda entry, domain: find_threshold(entry, rule, false_alarm_rate, domain),
            machine=machine,
            domains=domains,
        )
        return Detector(replace(self._fitted, thresholds=changed), self._device)

    def save(self, path: Path | str, *, replace: bool = False) -> None:
        """Write the detector as a folder, completely or not at all.

        Args:
            path: a folder that does not exist or is empty.
            replace: overwrite an existing detector, once the new one is complete.

        Raises:
            InputError: if something is there.
            NearfarError: if it cannot be written.
        """
        fitted = self._fitted
        with store.new_folder(Path(path), replace=replace) as out:
            cards, sha256 = store.write_banks(out, fitted.machines)
            encoder = fitted.extractor.parts.encoder
            if fitted.model is not None:
                store.copy_model(fitted.model, out / store.MODEL)
            elif (
                encoder is not None and fitted.encoder is not None and fitted.encoder.weights.startswith("random:")
            ):
                # A random start is only sure to be repeated on the same machine and torch, so it is saved.
                ENCODERS[self.recipe.encoder.family].save(encoder, out / store.ENCODER)
            store.write_calibrations(out, fitted.calibrations)
            write_thresholds(out, fitted.thresholds)
            write_history(out, fitted.changes, fitted.before)
            store.write_card(out, self._card(cards, sha256))

    def _card(self, banks: tuple[store.BankCard, ...], sha256: str) -> store.Card:
        fitted, audio = self._fitted, self.recipe.audio
        number = {"near": audio.near_channel, "far": audio.far_channel}
        return store.Card(
            format=store.FORMAT,
            nearfar=nearfar.__version__,
            recipe=self.recipe,
            clip=store.ClipSpecification(
                sample_rate_hz=audio.sample_rate_hz,
                seconds=fitted.extractor.padded_samples / audio.sample_rate_hz,
                hop_seconds=hop_seconds(self.recipe),
                channels={channel: number[channel] for channel in self.recipe.channels},
            ),
            classes=fitted.classes,
            encoder=fitted.encoder,
            weights_hash=fitted.extractor.weights_hash,
            computation=store.FEATURES_VERSION,
            banks=banks,
            channel_warnings=fitted.channel_warnings,
            files={store.BANKS: sha256},
            made_with=environment(),
        )

    @classmethod
    def load(cls, path: Path | str, *, encoder: str | None = None, device: Device = None) -> Detector:
        """Read a detector's folder.

        Args:
            path: the folder.
            encoder: path of the encoder that it needs, if that has moved.
            device: where networks run; by default the first GPU, if there is one.

        Raises:
            InputError: if the folder holds no complete detector, or the encoder is another one.
        """
        folder = Path(path)
        card = store.read_card(folder)
        if card.computation != store.FEATURES_VERSION:
            raise InputError(
                folder / store.CARD,
                found=f"features computed as nearfar {card.nearfar} does",
                expected=f"as nearfar {nearfar.__version__} does",
                remedy="Fit the detector again, or use the nearfar version that wrote it",
            )
        machines = store.read_banks(folder, card)
        calibrations = store.read_calibrations(folder, card)
        if [(entry.machine, entry.section) for entry in machines] != [
            (c.machine, c.section) for c in calibrations
        ]:
            raise InputError(
                folder / store.CALIBRATION,
                found="scores of other machines than the detector's",
                expected=f"those of {', '.join(machine_names(machines))}",
                remedy="Restore the file, or fit the detector again",
            )
        thresholds = store.read_thresholds(folder, calibrations)
        recipe = card.recipe
        model = folder / store.MODEL if recipe.trains or recipe.backend.trains else None
        return cls(
            _Fitted(
                recipe,
                loaded_extractor(card, folder, encoder),
                machines,
                calibrations,
                thresholds,
                card.classes,
                card.encoder,
                model,
                card.channel_warnings,
                *store.read_history(folder, card),
            ),
            device,
        )


def starting_recipe(name: str | None) -> Recipe:
    """The recipe of that name or path, or the default."""
    return load_recipe(name or DEFAULT_RECIPE)


def _without(
    dataset: Dataset, clips: Mapping[Unit, Sequence[Clip]], held: Mapping[Unit, NDArray[np.bool_]]
) -> Dataset:
    """The recordings that are not held out."""
    return dataset.with_clips(
        clip for unit, entries in clips.items() for clip, out in zip(entries, held[unit], strict=True) if not out
    )


def _train(recipe: Recipe, dataset: Dataset, model: Path, progress: Progress, executor: Executor) -> None:
    trained = is_trained(recipe, dataset, model)
    executor.wait()  # all processes of a launch look at the folder before one of them writes into it
    if not trained:
        check_recordings(recipe, dataset, progress)
    train_or_reuse(recipe, dataset, model, progress=progress)


def _checked_channels(recipe: Recipe, dataset: Dataset, progress: Progress) -> tuple[ChannelWarning, ...]:
    """Problems of the channels in a sample of two-channel recordings, which are logged as well."""
    audio = recipe.audio
    found = check_channels(dataset, near=audio.near_channel, far=audio.far_channel, progress=progress)
    for warning in found:
        logger.warning("%s", warning)
    return tuple(found)


def batches_of(listed: Sequence[Recording]) -> Iterator[range]:
    """Successive recordings: at most :data:`BATCH`, and of long ones fewer."""
    first, size = 0, 0
    for index, recording in enumerate(listed):
        source = recording.source
        own = source.nbytes if isinstance(source, np.ndarray) else file_size(source)
        if index > first and (index - first == BATCH or size + own > BATCH_BYTES):
            yield range(first, index)
            first, size = index, 0
        size += own
    yield range(first, len(listed))


def listed_recordings(recordings: Iterable[Source], sample_rate_hz: int) -> list[Recording]:
    """Recordings of files and arrays; arrays are numbered."""
    if isinstance(recordings, str | Path):
        recordings = [recordings]
    out: list[Recording] = []
    for number, entry in enumerate(recordings):
        if isinstance(entry, Recording):
            out.append(entry)
        elif isinstance(entry, np.ndarray):
            out.append(Recording(f"array {number}", entry, sample_rate_hz))
        else:
            out.append(Recording(str(entry), Path(entry)))
    if not out:
        raise InputError("recordings", found="none", expected="one recording or more", remedy="Name them")
    return out
