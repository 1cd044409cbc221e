"""Angular-margin classification losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from nearfar.losses.adacos import AdaCosLoss
from nearfar.losses.arcface import ArcFaceLoss
from nearfar.registry import Entry, Registry
from nearfar.settings import PositiveFloat, PositiveInt, Settings

__all__ = ["LOSSES", "AdaCosLoss", "AdaCosSettings", "ArcFaceLoss", "ArcFaceSettings", "Loss"]


@dataclass(frozen=True, kw_only=True)
class Loss(Entry):
    """A classification loss on embeddings.

    Attributes:
        build: from the number of classes, the width of an embedding and the settings to a module with
            ``forward(embeddings, labels, other_labels=None, mixup_lambda=None)`` that returns one loss per row,
            (batch,) float32, and a parameter ``centres``.
    """

    build: Callable[[int, int, Any], nn.Module]


class CentreSettings(Settings):
    """Settings of the centres of classes."""

    sub_centres: PositiveInt = 1
    """Centres of a class."""
    trainable_centres: bool = True

    @property
    def with_sub_centres(self) -> str:
        """Words for the description of a submission."""
        return f" with {self.sub_centres} sub-centres" if self.sub_centres > 1 else ""


class AdaCosSettings(CentreSettings):
    """Settings of sub-cluster AdaCos, which has no margin."""

    added_later: ClassVar[frozenset[str]] = frozenset({"adaptive_scale"})

    adaptive_scale: bool = True
    """Whether the scale adapts itself; else it keeps its start, sqrt(2) ln(C S - 1)."""


class ArcFaceSettings(CentreSettings):
    """Settings of ArcFace."""

    scale: PositiveFloat = 30.0
    """s, by which cosines are multiplied."""
    margin: Annotated[float, Field(ge=0, lt=3.1416)] = 0.2
    """m in radians, added to the angle to the true class."""


def _options(settings: CentreSettings) -> dict[str, Any]:
    return {
        "sub_centers": settings.sub_centres,
        "trainable_centers": settings.trainable_centres,
        "reduction": "none",
    }


LOSSES: Registry[Loss] = Registry("loss")
LOSSES["arcface"] = Loss(
    build=lambda classes, width, chosen: ArcFaceLoss(
        classes, width, chosen.margin, chosen.scale, **_options(chosen)
    ),
    settings=ArcFaceSettings,
    description="ArcFace{with_sub_centres}",
)
LOSSES["adacos"] = Loss(
    build=lambda classes, width, chosen: AdaCosLoss(
        classes, width, adaptive_scale=chosen.adaptive_scale, **_options(chosen)
    ),
    settings=AdaCosSettings,
    description="AdaCos{with_sub_centres}",
)
