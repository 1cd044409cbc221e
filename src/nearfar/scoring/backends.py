"""Scoring back-ends: the protocol of a fitted one, and the table of them.

A back-end is fitted on the features of normal clips of one machine and view; it scores other clips, and the normal
ones as if each had been left out. To add one, write it in a module of this package and add a line to
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
        """(normals,) float64: the score of every normal clip, as if it had not been fitted on."""


@dataclass(frozen=True)
class Workspace:
    """Where a back-end that trains saves its model of one machine, and how it reports progress.

    Attributes:
        folder: of the models of all machines.
        name: of the machine.
        identity: of the keys and clips that decide the model; another one's is refused. None accepts any.
        card: facts to write beside the model.
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
        fit: from features of normal clips (normals, parts, dim), which of them are of the target domain (normals,)
            bool, the settings, a seed, and a workspace (None: keep nothing) to a :class:`Scorer`.
        is_fitted: whether a workspace holds a model already; raises an InputError if it holds another one. None
            for back-ends that keep nothing.
        only_lowers: whether, with these settings, another normal clip can lower scores and never raise one.
        exact_leave_one_out: whether, with these settings, ``leave_one_out`` equals a new fit without the clip.
        leaves_out: whether ``leave_one_out`` leaves clips out at all, so that its scores are comparable with those
            of new clips; an autoencoder gives the scores of its training clips.
        per_machine: whether one model serves all sections of a machine.
        source: the only source of features (``features.source``) that it can use, or None.
        distance: the distance of features, ``cosine`` or ``standardised``, in which these settings compare clips.
        fit_identity: the settings that decide the fitted model, as plain values; by default all.
        aggregation, domain_adaptation, domain_generalisation: from the settings to words for these entries of the
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
        """Whether fitting trains a model that is kept."""
        return self.is_fitted is not None


BACKENDS: Registry[Backend] = Registry("scoring back-end")


def as_features(values: Features, *, like: Tensor | None = None) -> Tensor:
    """(clips, parts, dim) float32 of an array that may also be (clips, dim).

    Raises:
        ValueError: if it has other axes or no clips, or other sizes than ``like``.
    """
    features = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=np.float32))
    features = features[:, None] if features.dim() == 2 else features
    if like is not None and (features.dim() != 3 or features.shape[1:] != like.shape[1:]):
        raise ValueError(
            f"expected features of (clips, {like.shape[1]}, {like.shape[2]}), got {tuple(features.shape)}"
        )
    if features.dim() != 3 or (like is None and len(features) == 0):
        raise ValueError(f"expected features of (normals >= 1, parts, dim), got {tuple(features.shape)}")
    return features


def as_target(domains: Domains, clips: int) -> Tensor:
    """(clips,) bool, true for clips of the target domain.

    Raises:
        ValueError: if the domains are not as many as the clips, or one is neither source nor target.
    """
    if domains is None:
        return torch.zeros(clips, dtype=torch.bool)
    if isinstance(domains, Tensor):
        target = domains.bool()
    else:
        values = np.asarray(domains)
        if values.dtype.kind in "US" and (wrong := set(values.tolist()) - {"source", "target"}):
            raise ValueError(f"expected the domains source and target, got {sorted(wrong)[0]!r}")
        target = torch.from_numpy(
            np.asarray(values == "target" if values.dtype.kind in "US" else values, dtype=bool)
        )
    if target.shape != (clips,):
        raise ValueError(f"expected a domain for each of {clips} clips, got {tuple(target.shape)}")
    return target
