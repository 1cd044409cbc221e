"""The machines of a detector are fitted one by one, each a task that may run in another process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.config.validation import digest
from nearfar.data.clips import Clip
from nearfar.data.copies import joined_groups
from nearfar.data.exchanged import exchanged_among
from nearfar.data.fingerprint import clips_key
from nearfar.data.grouping import find_groups
from nearfar.detector.distinct import Distinct, distinct_recordings
from nearfar.detector.machine import (
    FittedMachine,
    Unit,
    explained_recordings,
    fit_machine,
    normal_patches,
    require_no_delayed_copy,
    scored_features,
)
from nearfar.detector.store import FEATURES_VERSION, read_part, write_part
from nearfar.errors import InputError, raise_errors
from nearfar.executors import Executor
from nearfar.pipeline.extraction import Extracted, extract
from nearfar.pipeline.extractor import Extractor
from nearfar.pipeline.windows import Recording
from nearfar.progress import Progress, silent
from nearfar.scoring import Workspace
from nearfar.thresholds import Calibration

logger = logging.getLogger(__name__)

_NAMED = 5
"""At most so many recordings are named in a warning."""

Part = tuple[FittedMachine, Calibration]
"""What is fitted of one machine and section."""

Item = tuple[Unit, Sequence[Clip], NDArray[np.bool_]]
"""Machine and section, its normal recordings, and which of them are held out of the bank."""


@dataclass
class Fitting:
    """Fits machines and sections.

    Attributes:
        recipe: resolved.
        extractor: computes features.
        model: the folder of the models of back-ends that train.
        device: where networks run.
        recordings: number of all recordings, for progress.
        before: recordings of a machine that were left out before, as they repeat others.
        parts: where each machine that is fitted is kept until the detector is complete, in files named by all
            that decides it; None keeps nothing.
    """

    recipe: Recipe
    extractor: Extractor
    model: Path | None
    device: torch.device
    recordings: int
    before: Mapping[Unit, Distinct] = field(default_factory=dict)
    parts: Path | None = None
    _read: int = field(default=0, init=False)

    def fit_all(
        self,
        clips: Mapping[Unit, Sequence[Clip]],
        held: Mapping[Unit, NDArray[np.bool_]],
        executor: Executor,
        progress: Progress,
    ) -> list[Part]:
        """All machines and sections, each a task of the executor.

        Raises:
            InputError: with ``parts``, of all machines that cannot be fitted, after the others are; without, of
                the first.
        """
        items = [(unit, tuple(entries), held[unit]) for unit, entries in clips.items()]
        found = executor.map(
            self._fit_or_error if self.parts is not None else self.fit,
            items,
            task="fitting machines",
            progress=progress,
            uses_all_cores=not self.recipe.backend.trains,
        )
        raise_errors([entry for entry in found if isinstance(entry, InputError)])
        fitted = [self._kept(item) if entry is None else entry for item, entry in zip(items, found, strict=True)]
        return [entry for entry in fitted if isinstance(entry, tuple)]

    def _fit_or_error(self, item: Item, progress: Progress) -> InputError | None:
        """Fit one machine and keep it, unless it is kept already."""
        if self._kept(item) is None:
            try:
                write_part(self._file(item), *self.fit(item, progress))
            except InputError as error:
                return error
        return None

    def _kept(self, item: Item) -> Part | None:
        return read_part(self._file(item), self.recipe, self.model)

    def _file(self, item: Item) -> Path:
        """Named by everything that decides what is fitted."""
        assert self.parts is not None
        unit, clips, held = item
        before = self.before[unit].repeats if unit in self.before else ()
        computed = [FEATURES_VERSION, self.extractor.weights_hash, self.recipe.model_dump(mode="json")]
        return self.parts / digest([*computed, *unit, clips_key(clips), held.tolist(), before])

    def fit(self, item: Item, progress: Progress) -> Part:
        """One machine and section, without recordings that repeat others and with the groups of the rest."""
        unit, clips, held = item
        recipe, extracted = self.recipe, self._extracted(item[1], progress)
        marks = [extracted.landmarks[index] for index in range(len(clips))]
        keep, shared, repeats, remark = distinct_recordings(clips, marks, recipe)
        clips, held = [clips[index] for index in keep], held[keep]
        if repeats:
            extracted = extracted.of(keep)
        if unit in self.before:
            repeats = (*self.before[unit].repeats, *repeats)
            remark = remark or self.before[unit].remark
        _warn_of_exchanged(unit, clips, extracted)
        require_no_delayed_copy(unit, clips, recipe)
        features = scored_features(extracted, recipe)
        first_view = next(iter(features.values())).flatten(1).double().numpy()
        windows = np.unique(extracted.recording, return_index=True)[1]  # the first window of each recording
        groups = find_groups(clips, recipe.calibration.group_by, first_view[windows])
        labels = joined_groups(groups.labels, shared)
        groups = replace(groups, labels=labels, remark=remark or groups.remark)
        patches = normal_patches(extracted, held)
        extracted = replace(extracted, log_mels={})  # most of the memory, and of no further use
        space = self._workspace(unit, progress)
        fitted, calibration = fit_machine(unit, clips, held, groups, extracted, features, recipe, space, repeats)
        # What is fitted is handed to another process, which a progress callback cannot be.
        kept = None if space is None else replace(space, progress=silent)
        return replace(fitted, workspace=kept, patches=patches), calibration

    def _extracted(self, clips: Sequence[Clip], progress: Progress) -> Extracted:
        """The windows of one machine and section's recordings."""

        def advance(recordings: int) -> None:
            self._read += recordings
            progress("reading recordings", self._read, self.recordings)

        return extract(
            self.extractor,
            [Recording.of_clip(clip) for clip in clips],
            device=self.device,
            spectrograms_of=explained_recordings(len(clips)),
            with_landmarks=True,
            advance=advance,
        )

    def _workspace(self, unit: Unit, progress: Progress) -> Workspace | None:
        if self.model is None or not self.recipe.backend.trains:
            return None
        name = "_".join(unit) if unit[1] != "00" else unit[0]
        return Workspace(self.model, name, None, progress=progress)


def _warn_of_exchanged(unit: Unit, clips: Sequence[Clip], extracted: Extracted) -> None:
    """Name the normal recordings whose channels are the other way round than those of the rest."""
    facts = [extracted.facts[index] for index in range(len(clips)) if index in extracted.facts]
    exchanged = exchanged_among(facts) if len(facts) == len(clips) else []
    if exchanged:
        names = ", ".join(clips[index].name for index in exchanged[:_NAMED])
        logger.warning(
            "%s: near and far look exchanged in %d of %d recordings: %s%s. Exchange their channels or take them "
            "out, as faults are not found where both orientations are normal",
            unit[0],
            len(exchanged),
            len(clips),
            names,
            f" and {len(exchanged) - _NAMED} more" if len(exchanged) > _NAMED else "",
        )
