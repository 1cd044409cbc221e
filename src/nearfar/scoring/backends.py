"""Scoring back-ends: the protocol of a fitted back-end, and the table of back-ends.

A back-end is fitted on the features of normal clips of one machine and view; it scores other clips, and each
normal clip by a fit on the others. To add one, write it in a module of this package and add a line to
:data:`BACKENDS` in ``nearfar/scoring/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nearfar.progress import Progress, silent
from nearfar.registry import Entry, Registry
from nearfar.scoring.settings import Distance

Scores = NDArray[np.float64]
Indices = NDArray[np.int64]
Features = Tensor | ArrayLike
"""(clips, parts, dim) or (clips, dim) float32."""
Domains = Sequence[str] | NDArray[Any] | Tensor | None
"""``"source"`` or ``"target"`` per clip, or bool (true for target), or None (all source)."""


class Scorer(Protocol):
    """A back-end fitted on the normal clips of one machine and view."""

    def score(self, features: Features) -> Scores:
        """(clips,) float64, higher is more anomalous."""

    def leave_one_out(self) -> Scores:
        """(normals,) float64: the score of every normal clip by a fit on the others."""


@dataclass(frozen=True)
class Workspace:
    """Folder in which a back-end that trains saves its model of one machine, and its progress callback.

    Attributes:
        folder: folder of the models of all machines.
        name: name of the machine.
        identity: hash of the keys and clips that decide the model; a saved model of another is refused. None
            accepts any.
        card: entries to add to the JSON file of the model.
        source: the recordings, for error messages.
        progress: called while training.
        tensorboard: folder for TensorBoard files, or None.
    """

    folder: Path
    name: str
    identity: str | None
    card: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    progress: Progress = silent
    tensorboard: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Backend(Entry):
    """A back-end.

    Attributes:
        fit: from features of normal clips (normals, parts, dim), a mask of those of the target domain (normals,)
            bool, the settings, a seed, and a workspace (None: save nothing) to a :class:`Scorer`.
        is_fitted: whether a workspace holds this model; raises an InputError if it holds another one. None for
            back-ends that save nothing.
        only_lowers: whether, with these settings, another normal clip can lower scores and never raise one.
        exact_leave_one_out: whether, with these settings, ``leave_one_out`` equals a new fit without the clip.
        leaves_out: false if ``leave_one_out`` returns scores of the training clips, as an autoencoder's, which are
            not comparable with those of new clips.
        per_machine: whether all sections of a machine share one model.
        source: the only source of features (``features.source``) that it can use, or None.
        distance: the distance of features, ``cosine`` or ``standardised``, in which these settings compare clips.
        fit_identity: the settings that decide the fitted model, as plain values; by default all.
        aggregation, domain_adaptation, domain_generalisation: from the settings to these entries of the
            description of a submission, or None.
    """

    fit: Callable[[Tensor, Tensor, Any, int, Workspace | None], Scorer]
    is_fitted: Callable[[Workspace], bool] | None = None
    only_lowers: Callable[[Any], bool] = lambda settings: False
    exact_leave_one_out: Callable[[Any], bool] = lambda settings: True
    per_machine: bool = False
    leaves_out: bool = True
    source: str | None = None
    distance: Callable[[Any], Distance] = lambda settings: "standardised"
    fit_identity: Callable[[Any], dict[str, Any]] = lambda settings: settings.identity()
    aggregation: Callable[[Any], str | None] = lambda settings: None
    domain_adaptation: Callable[[Any], str | None] = lambda settings: None
    domain_generalisation: Callable[[Any], str | None] = lambda settings: None

    @property
    def trains(self) -> bool:
        """Whether fitting trains a model that is saved."""
        return self.is_fitted is not None


BACKENDS: Registry[Backend] = Registry("scoring back-end")


def as_features(values: Features, *, like: Tensor | None = None) -> Tensor:
    """(clips, parts, dim) float32 of an array that may also be (clips, dim).

    Raises:
        ValueError: if it has other axes, other parts or dimensions than ``like`` or, without ``like``, no clips.
    """
    features = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=np.float32))
    features = features[:, None] if features.dim() == 2 else features
    if like is None:
        expected, fits = "(normals >= 1, parts, dim)", len(features) > 0
    else:
        expected, fits = f"(clips, {like.shape[1]}, {like.shape[2]})", features.shape[1:] == like.shape[1:]
    if features.dim() != 3 or not fits:
        raise ValueError(f"expected features of {expected}, got {tuple(features.shape)}")
    return features


def as_target(domains: Domains, clips: int) -> Tensor:
    """(clips,) bool, true for clips of the target domain.

    Raises:
        ValueError: if there is not one domain per clip, or one is neither source nor target.
    """
    if domains is None:
        return torch.zeros(clips, dtype=torch.bool)
    values = np.asarray(domains)
    if values.dtype.kind in "US":
        if wrong := set(values.tolist()) - {"source", "target"}:
            raise ValueError(f"expected the domains source and target, got {sorted(wrong)[0]!r}")
        values = values == "target"
    if values.shape != (clips,):
        raise ValueError(f"expected a domain for each of {clips} clips, got {values.shape}")
    return torch.from_numpy(values.astype(bool))
