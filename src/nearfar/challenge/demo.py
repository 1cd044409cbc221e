"""The demonstration: a simulated factory, the report's four systems with a tiny encoder, and nearfar's own."""

from __future__ import annotations

import shutil
from pathlib import Path

from nearfar.challenge.reproduce import Reproduction, reproduce
from nearfar.challenge.suites import suite_recipes
from nearfar.config import FbankNormalisation, load_recipe
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.progress import Progress, silent

SYSTEMS = ("tiny-fusion", "tiny-lora-fusion", "tiny-near", "tiny-lora-near")
BEST = "nearfar-best"
PLAN = FactoryPlan(
    machines=("fan", "gearbox", "bearing", "valve"),
    train_source=60,
    train_target=20,
    test_per_group=15,
    clip_seconds=4.0,
    snr_db=(12.0, 24.0),
    severity=(0.8, 1.0),
)
"""Clear faults in moderate noise, so that a hundred training steps suffice to detect them."""

TRAINING = {"training.steps": 100, "training.warmup_steps": 20}
ENCODER = {"encoder.weights": "eat-tiny", "fbank.std": FbankNormalisation().std}
"""The small encoder that comes with nearfar; it was trained with EAT's default normalisation."""


def demonstrate(out: Path, progress: Progress = silent) -> Reproduction | None:
    """Simulate recordings into ``out/factory``; run the tiny suite and nearfar-best into ``out/results``.

    Simulated recordings, trained models and embeddings of an earlier call are used again.

    Raises:
        InputError: if ``out/factory`` exists and holds no simulated recordings, or an extra is not installed.
    """
    require_extras("the demonstration", "report", "simulate", "train")
    factory = out / "factory"
    if not (factory / "SIMULATED.md").is_file():
        if factory.exists():
            raise InputError(
                factory,
                found="a folder that the demonstration did not make",
                expected="simulated recordings, or nothing",
                remedy="Choose another folder (out)",
            )
        unfinished = factory.with_name("factory.unfinished")  # renamed when it is complete
        shutil.rmtree(unfinished, ignore_errors=True)
        simulate_factory(PLAN, unfinished, lambda done, total: progress("simulating recordings", done, total))
        unfinished.rename(factory)
    recipes = [recipe.with_changes(**ENCODER, **TRAINING) for recipe in suite_recipes("tiny", SYSTEMS)]
    return reproduce([*recipes, load_recipe(BEST)], factory, out / "results", progress=progress)
