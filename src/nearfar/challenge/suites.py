"""Suites: systems that are reproduced together, by ``nearfar reproduce --suite``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.config import Recipe, load_recipe
from nearfar.data import read_dataset
from nearfar.errors import InputError, did_you_mean, one_of
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe, load_noise_aware_recipe
from nearfar.progress import Progress, silent

NOISE_AWARE = "eat-noise-aware"
"""The encoder family with noise-aware layers."""

_BASELINES = ("ae-mse", "ae-mahala")
_REPORT = ("eat-fusion", "eat-lora-fusion", "eat-near", "eat-lora-near")
_TINY = ("tiny-fusion", "tiny-lora-fusion", "tiny-near", "tiny-lora-near")


@dataclass(frozen=True, slots=True)
class Suite:
    """Systems that are reproduced together.

    Attributes:
        description: one sentence.
        recipes: names, in the order of tables.
        seeds: of all systems, if no others are asked for; None: every recipe's own.
        layers: the recipe of ``nearfar pretrain --objective noise-aware`` for the systems that need such layers.
        reference: the system that all others are compared with, with intervals over test clips.
        submitted: the systems of a submission, in the order of their numbers; at most four.
        plans: whether the plan of time and memory is printed before a run as well.
    """

    description: str
    recipes: tuple[str, ...]
    seeds: tuple[int, ...] | None = None
    layers: str | None = None
    reference: str | None = None
    submitted: tuple[str, ...] = _REPORT
    plans: bool = False


SUITES: dict[str, Suite] = {
    "report": Suite("the two baselines and the report's four systems, as published", (*_BASELINES, *_REPORT)),
    "tiny": Suite(
        "the same with a small encoder from a random start",
        (*_BASELINES, *_TINY),
        submitted=_TINY,
    ),
    "frontier": Suite(
        "the report's suite, the leader's recipe and noise-aware layers, three seeds, with intervals",
        (*_BASELINES, *_REPORT, "w1-lora", "eat-noise-aware"),
        seeds=(0, 1, 2),
        layers="noise-aware",
        reference="eat-fusion",
        submitted=("w1-lora", "eat-noise-aware", "eat-fusion", "eat-lora-fusion"),
        plans=True,
    ),
}
"""Suites by name; a new one is one entry."""


def find_suite(name: str) -> Suite:
    """The suite of a name.

    Raises:
        InputError: if there is none.
    """
    if name not in SUITES:
        raise InputError("suite", found=repr(name), expected=one_of(SUITES, name), remedy="Correct the name")
    return SUITES[name]


def suite_recipes(suite: str, systems: Sequence[str] | None = None) -> list[Recipe]:
    """The recipes of a suite, or those of them that are named, in the suite's order.

    Raises:
        InputError: if there is no such suite, or a name is not in it.
    """
    names = find_suite(suite).recipes
    for system in systems or ():
        if system not in names:
            raise InputError(
                "systems",
                found=f"{system!r}, which is not in the suite {suite}",
                expected=f"some of {', '.join(names)}{did_you_mean(system, names)}",
                remedy="Correct it, or choose another suite",
            )
    return [load_recipe(name) for name in names if systems is None or name in systems]


def layers_recipe(
    recipes: Sequence[Recipe], layers: str | None, encoder: str | None = None
) -> NoiseAwareRecipe | None:
    """The recipe by which layers are pre-trained for some systems; None where none is.

    Arguments and errors are those of :func:`prepare_layers`.
    """
    if layers is None or Path(layers).is_dir() or all(r.encoder.family != NOISE_AWARE for r in recipes):
        return None
    recipe = load_noise_aware_recipe(layers)
    return recipe if encoder is None else recipe.with_changes(**{"encoder.weights": encoder})


def check_submitted(label: str, authors: Path) -> None:
    """Check the label and the authors of a submission before anything is computed.

    Raises:
        InputError: if they are of another form.
    """
    from nearfar.challenge.submission import LABEL
    from nearfar.challenge.submission_meta import read_authors

    if not LABEL.fullmatch(f"{label}_1"):
        raise InputError("label", found=label, expected="<LastName>_<INST>_task2", remedy="Correct it")
    read_authors(authors)


def prepare_layers(
    recipes: Sequence[Recipe],
    layers: str | None,
    data: Path,
    out: Path,
    encoder: str | None = None,
    progress: Progress = silent,
) -> list[Recipe]:
    """The recipes, with noise-aware layers in those whose encoder family has them.

    Args:
        recipes: the systems of a suite.
        layers: a folder of an encoder with such layers, or a pre-training recipe; None leaves the recipes alone.
        data: a folder of recordings, on whose training recordings layers are pre-trained.
        out: where they are pre-trained; an interrupted call continues there.
        encoder: the weights that layers are added to; by default those of the pre-training recipe.
        progress: called during pre-training.

    Raises:
        InputError: as :func:`nearfar.pretraining.noise_aware.run.pretrain_layers`.
    """
    needing = {recipe.name for recipe in recipes if recipe.encoder.family == NOISE_AWARE}
    if layers is None or not needing:
        return list(recipes)
    folder, recipe = Path(layers), layers_recipe(recipes, layers, encoder)
    if recipe is not None:
        from nearfar.pretraining.noise_aware.run import pretrain_layers

        dataset = read_dataset(data)
        folders = sorted({clip.path.parent for clip in dataset.clips if clip.split == "train"})
        pretrain_layers(recipe, folders, out, progress=progress)
        folder = out
    weights = {"encoder.weights": str(folder)}
    return [recipe.with_changes(**weights) if recipe.name in needing else recipe for recipe in recipes]


def submit_suite(suite: Suite, out: Path, seeds: Sequence[int] | None, label: str, authors: Path) -> list[Path]:
    """Write the submission of a suite's systems, of the first seed, into ``out/submission``.

    Args:
        suite: which systems, and their numbers.
        out: the folder of the reproduction.
        seeds: of the reproduction.
        label: ``<LastName>_<INST>_task2``.
        authors: a TOML file, as of ``nearfar submit``.

    Returns:
        the systems' folders; systems that were not run, or are there already, are left out.

    Raises:
        InputError: as :func:`nearfar.challenge.submission.write_submission`.
    """
    from nearfar.challenge.submission import write_submission
    from nearfar.challenge.submission_meta import read_authors

    parent = out / f"seed_{seeds[0]}" if seeds is not None and len(seeds) > 1 else out
    written = []
    for number, name in enumerate(suite.submitted, start=1):
        numbered = f"{label}_{number}"
        if (parent / name).is_dir() and not (out / "submission" / "task2" / numbered).exists():
            people = read_authors(authors)
            written.append(write_submission(parent / name, numbered, out / "submission", authors=people))
    return written
