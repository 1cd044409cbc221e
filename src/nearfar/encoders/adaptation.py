"""The table of ways to fine-tune an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nearfar.registry import Entry, Registry
from nearfar.settings import PositiveFloat, Rate, Settings


@dataclass(frozen=True, kw_only=True)
class Adaptation(Entry):
    """A way to fine-tune.

    Attributes:
        trains: whether anything is trained.
    """

    trains: bool = True


class LoraSettings(Settings):
    """Low-rank adaptation: ``targets`` are the ends of the names of the adapted layers."""

    rank: Annotated[int, Field(gt=0, le=4096)] = 64
    alpha: PositiveFloat = 8.0
    dropout: Rate = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("attn.qkv", "attn.proj")


ADAPTATIONS: Registry[Adaptation] = Registry("adaptation")
ADAPTATIONS["full"] = Adaptation(description="full fine-tuning")
ADAPTATIONS["lora"] = Adaptation(description="LoRA", settings=LoraSettings, table="lora")
ADAPTATIONS["none"] = Adaptation(description="frozen", trains=False)
