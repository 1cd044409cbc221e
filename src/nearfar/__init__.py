"""Detection of failing machines by their sound, from one microphone near the machine and one far from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nearfar.errors import NearfarError

if TYPE_CHECKING:
    from nearfar.config import Recipe, list_recipes, load_recipe
    from nearfar.detector import Detector, Score
    from nearfar.encoders import load_encoder

__version__ = "0.1.0"
__all__ = [
    "Detector",
    "NearfarError",
    "Recipe",
    "Score",
    "__version__",
    "list_recipes",
    "load_encoder",
    "load_recipe",
]

_LAZY = {
    "Detector": "nearfar.detector",
    "Recipe": "nearfar.config",
    "Score": "nearfar.detector",
    "list_recipes": "nearfar.config",
    "load_encoder": "nearfar.encoders",
    "load_recipe": "nearfar.config",
}
"""Names that are imported on first use, so that ``nearfar --help`` does not wait for torch."""

_MODULES = (
    "cancellation",
    "data",
    "encoders",
    "frontends",
    "losses",
    "metrics",
    "pooling",
    "scoring",
    "thresholds",
    "views",
)
"""Public modules, imported on first use as well: ``nearfar.losses.ArcFaceLoss``."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"nearfar.{name}")
    raise AttributeError(f"module 'nearfar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
