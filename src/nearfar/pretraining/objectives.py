"""The table of pre-training objectives.

To add one, write its recipe and its training in a module or package of :mod:`nearfar.pretraining` and add a line
to :data:`OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nearfar.pretraining.noise_aware.recipe import load_noise_aware_recipe
from nearfar.pretraining.noise_aware.run import pretrain_layers
from nearfar.pretraining.recipe import load_pretrain_recipe
from nearfar.pretraining.run import pretrain_encoder
from nearfar.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class Objective(Entry):
    """An objective of pre-training.

    Attributes:
        load: from the name or path of a recipe to the recipe. Raises :class:`nearfar.errors.InputError`.
        pretrain: from recipe, folders of recordings and output folder, with ``licences`` and ``progress``, to
            facts about the training, or None on processes that are not the main one.
        recipe: the recipe by default.
        reads_noise: whether ``pretrain`` also takes ``noises``, folders of recordings of noise.
    """

    load: Callable[[str], Any]
    pretrain: Callable[..., dict[str, Any] | None]
    recipe: str
    reads_noise: bool = False


OBJECTIVES: Registry[Objective] = Registry("objective")
OBJECTIVES["masked"] = Objective(
    load=load_pretrain_recipe,
    pretrain=pretrain_encoder,
    recipe="ssl-tiny",
    description="EAT's masked prediction",
)
OBJECTIVES["noise-aware"] = Objective(
    load=load_noise_aware_recipe,
    pretrain=pretrain_layers,
    recipe="noise-aware-tiny",
    reads_noise=True,
    description="noise-aware layers on simulated rooms",
)
