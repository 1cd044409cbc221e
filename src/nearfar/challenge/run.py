"""One system: train its model or take a trained one, score the test clips, evaluate.

A run folder holds ``recipe.toml`` (whole and resolved), ``environment.json``, ``data.json`` (what was understood
of the data), ``model/``, ``scores/`` (anomaly scores and decisions), ``thresholds.json``,
``view_scores.json``, ``figures/`` and ``results.{json,md,csv}``. Where nothing is trained, ``model/`` holds only
features that were computed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nearfar.charts import machine_figure
from nearfar.config import Recipe
from nearfar.data.clips import Clip, View
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.data.summary import summarise
from nearfar.encoders.weights import encoder_hash, load_encoder
from nearfar.environment import environment, peak_memory_bytes
from nearfar.errors import InputError
from nearfar.evaluation.metrics import Results, Told, evaluate_scores, truth_from_names
from nearfar.evaluation.scorefiles import MachineScores, holds_scores, remove_others, write_scores
from nearfar.evaluation.tables import results_table, to_csv, to_json, to_markdown
from nearfar.evaluation.truth_table import evaluable, told_by, write_truth_table
from nearfar.features.cache import EmbeddingStore
from nearfar.features.representation import Representation, represent, scored_features, waveform_views
from nearfar.files import write_json, write_text
from nearfar.models.network import read_card
from nearfar.preparation import check_recordings, prepare
from nearfar.progress import Progress, record_writer, silent
from nearfar.scoring.autoencoder import system as baseline
from nearfar.scoring.machine import MachineScorer
from nearfar.thresholds.runs import ScoredMachine, decide_system, write_view_scores
from nearfar.training.checkpoint import Identity, finished_steps
from nearfar.training.finetune import finetune, is_main_process
from nearfar.training.labels import label_samples
from nearfar.training.pseudo_labels import with_pseudo_attributes

logger = logging.getLogger(__name__)


def data_note(data: Path) -> str | None:
    """What the tables must say of the data; recordings of ``nearfar simulate`` are marked as such."""
    return "Simulated data (nearfar simulate)." if (data / "SIMULATED.md").is_file() else None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a system took. Training is that of its model, which may be shared or from an earlier run."""

    training_seconds: float
    scoring_seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class SystemRun:
    """What a system came to. ``results`` is None where the test clips hide their labels, as evaluation sets do."""

    recipe: Recipe
    scores: tuple[MachineScores, ...]
    results: Results | None
    timing: Timing


def is_trained(recipe: Recipe, dataset: Dataset, folder: Path) -> bool:
    """Whether a model folder holds the recipe's whole model, trained on all training clips of the data.

    Raises:
        InputError: if it holds another model, or the checkpoint of another one.
    """
    if recipe.method == "autoencoder":
        return baseline.is_trained(recipe, dataset, folder)
    if recipe.training.adaptation == "none":
        return True
    identity = Identity(recipe.model_key(), clips_key(_training_clips(dataset)))
    if (card := read_card(folder)) is None:
        finished_steps(folder, identity)
        return False
    trained = Recipe.model_validate(card["recipe"])
    same = Identity(trained.model_key(), card["training"]["data_key"]) == identity
    if same and _same_encoder(recipe, card["base_encoder"]["hash"]):
        return True
    raise InputError(
        folder,
        found=f"a model of another recipe, training clips or encoder weights (trained as {trained.name})",
        expected=f"no model, or one of {recipe.name} on this data",
        remedy="Give another --out folder, or remove this model",
    )


def _same_encoder(recipe: Recipe, expected: str) -> bool:
    """Whether the encoder's files still hold what the model was trained from; hub names are pinned instead."""
    place = Path(recipe.encoder.weights)
    return not place.exists() or encoder_hash(load_encoder(place)) == expected


def _training_clips(dataset: Dataset) -> list[Clip]:
    return [clip for machine in dataset.machines for clip in dataset.train(machine)]


def train_or_reuse(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    progress: Progress = silent,
    tensorboard: Path | None = None,
) -> bool:
    """Make sure that ``folder`` holds the recipe's model, trained on all training clips of the data.

    A whole model of the same recipe and clips is used again, an unfinished training goes on from its checkpoint.

    Returns:
        whether this is the main process of a distributed launch; the others should stop.

    Raises:
        InputError: if the folder holds another model, and as :func:`nearfar.training.finetune.finetune` or
            :func:`nearfar.scoring.autoencoder.system.train_or_reuse`.
    """
    if recipe.method == "autoencoder":
        return baseline.train_or_reuse(recipe, dataset, folder, progress=progress, tensorboard=tensorboard)
    if is_trained(recipe, dataset, folder):
        return is_main_process()
    train = _training_clips(dataset)
    told = train
    if recipe.training.pseudo_labels:
        told = with_pseudo_attributes(train, recipe.training.pseudo_labels, recipe.audio, recipe.seed)
    labelled = label_samples(told, recipe.training.channels)
    if len(labelled.classes) == 1:
        logger.warning(
            "%s: all training samples are of one class (%s), so there is nothing to tell apart and the model "
            "stays as it starts. Add other machines or operating conditions (attributes), or use ae-mse.",
            dataset.root,
            labelled.classes[0],
        )
    with record_writer(tensorboard if is_main_process() else None) as on_step:
        return finetune(
            recipe,
            labelled,
            folder,
            data_key=clips_key(train),
            progress=lambda done, total: progress(f"training {recipe.training.adaptation} model", done, total),
            on_step=on_step,
        )


def score_system(
    representation: Representation, dataset: Dataset, store: EmbeddingStore, *, progress: Progress = silent
) -> tuple[ScoredMachine, ...]:
    """Anomaly scores of every test clip, from banks of normal training clips per machine and view.

    Training clips are scored as well, each against the others, for thresholds.

    Args:
        representation: what makes features; its recipe says how they are scored.
        dataset: every machine with test clips has training clips.
        store: where features are kept.
        progress: called with the task ``embedding clips``.
    """
    recipe = representation.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    groups, views = machine_groups(dataset), waveform_views(recipe)
    total = len(views) * sum(len(train) + len(test) for train, test in groups.values())
    done = 0

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        progress("embedding clips", done, total)

    def features(clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        made: dict[View, torch.Tensor] = {}
        for view in views:
            size = recipe.scoring.batch_size
            found = store.get(representation, clips, view, batch_size=size, device=device, advance=advance)
            made[view] = torch.from_numpy(found)
        return scored_features(made, recipe)

    out = []
    for (machine, section), (train, test) in groups.items():
        target = torch.tensor([clip.domain == "target" for clip in train])
        scorer = MachineScorer(features(train), target, recipe.scoring, recipe.seed)
        scored = scorer.score(features(test))
        scores = MachineScores(machine, section, tuple(clip.name for clip in test), scored.fused)
        out.append(ScoredMachine(scores, scorer.normal.fused, scored.views, scorer.normal.views))
    return tuple(out)


def machine_groups(dataset: Dataset) -> dict[tuple[str, str], tuple[list[Clip], list[Clip]]]:
    """Training and test clips of every machine and section that has test clips."""
    groups = {}
    for machine in dataset.machines:
        for section in sorted({clip.section for clip in dataset.test(machine)}):
            train = [clip for clip in dataset.train(machine) if clip.section == section]
            test = [clip for clip in dataset.test(machine) if clip.section == section]
            if not train:
                raise InputError(
                    dataset.root / machine,
                    found=f"test clips of section {section} without training clips of it",
                    expected="normal training clips of every section",
                    remedy="Add them, or take the section's test clips out",
                )
            groups[machine, section] = (train, test)
    return groups


def run_system(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    model_folder: Path | None = None,
    note: str | None = None,
    progress: Progress = silent,
    tensorboard: bool = False,
) -> SystemRun | None:
    """Train or reuse, score, evaluate, and write everything into ``out``.

    Args:
        recipe: the system.
        data: a folder in the DCASE layout.
        out: the run folder; whatever is there already and still holds is used again. What made it and how long
            that took (``environment.json``, ``timing.json``) stays as long as the scores stay the same.
        model_folder: where the model is or will be; by default ``out/model``.
        note: a line for the tables, for instance that the data is surrogate; by default :func:`data_note`.
        progress: called during long steps.
        tensorboard: also write the training curve for TensorBoard, into ``model/tensorboard``.

    Returns:
        the scores and results, or None on the helper processes of a distributed launch.
    """
    dataset, resolved = prepare(data, recipe)
    note = note or data_note(data)
    folder = model_folder or out / "model"
    trained = is_trained(resolved, dataset, folder)  # a refusal comes before anything is overwritten
    if trained and tensorboard:
        logger.warning("--tensorboard: there is nothing left to train, so no curve is written")
    if not trained:
        check_recordings(resolved, dataset, progress if is_main_process() else silent)
    recipe_file, text = out / "recipe.toml", resolved.to_toml()
    again = trained and recipe_file.is_file() and recipe_file.read_text(encoding="utf-8") == text
    made_with = environment()
    if is_main_process():
        write_text(recipe_file, text)
        if not again:
            write_json(out / "environment.json", made_with)
        write_json(out / "data.json", [summary.to_json() for summary in summarise(dataset)])
    if not train_or_reuse(
        resolved, dataset, folder, progress=progress, tensorboard=folder / "tensorboard" if tensorboard else None
    ):
        return None
    began = time.perf_counter()
    scored, parameters = _score(resolved, dataset, folder, progress)
    scores = tuple(entry.test for entry in scored)
    seconds = time.perf_counter() - began
    timing = _timing_of(out) if again and holds_scores(out / "scores", scores) else None
    if timing is None:
        timing = Timing(_training_seconds(resolved, dataset, folder), seconds, peak_memory_bytes())
        write_json(out / "environment.json", made_with | {"total_parameters": parameters})
        write_json(out / "timing.json", {name: getattr(timing, name) for name in timing.__slots__})
    decide_system(scored, resolved.decision, out)
    write_view_scores(scored, dataset.root, out)
    own = told_by(clip for clip in dataset.clips if clip.split == "test") if dataset.layout == "own" else None
    results = write_results(resolved.name, scores, out, note=note, told=own)
    return SystemRun(resolved, scores, results, timing)


def _timing_of(out: Path) -> Timing | None:
    """How long the run took that made what a folder holds; None where it did not come to its end."""
    try:
        environment_of = json.loads((out / "environment.json").read_text(encoding="utf-8"))
        kept = Timing(**json.loads((out / "timing.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return kept if "total_parameters" in environment_of else None


def _training_seconds(recipe: Recipe, dataset: Dataset, folder: Path) -> float:
    if recipe.method == "autoencoder":
        return baseline.training_seconds(dataset, folder)
    card = None if recipe.training.adaptation == "none" else read_card(folder)
    return 0.0 if card is None else float(card["training"].get("seconds", 0.0))


def _score(
    recipe: Recipe, dataset: Dataset, folder: Path, progress: Progress
) -> tuple[tuple[ScoredMachine, ...], int]:
    """The scores of the recipe's trained model, and how many parameters it has."""
    if recipe.method == "autoencoder":
        scored = baseline.score_system(recipe, dataset, folder, progress=progress)
        return scored, baseline.parameter_count(dataset)
    representation = represent(recipe, folder)
    scored = score_system(representation, dataset, EmbeddingStore(folder / "embeddings"), progress=progress)
    return scored, representation.parameters


def write_results(
    name: str, scores: Sequence[MachineScores], out: Path, *, note: str | None, told: Told | None = None
) -> Results | None:
    """Write score files and, of machines whose labels are known, tables and figures; returns the results.

    ``told`` says what clips are whose names do not; it is written beside the scores, for who evaluates them again.
    """
    write_scores(out / "scores", scores)
    remove_others(out / "scores", scores)
    if told is not None:
        write_truth_table(out / "scores", told)
    labelled = evaluable(scores, told)
    if not labelled:
        for suffix in ("json", "md", "csv"):
            (out / f"results.{suffix}").unlink(missing_ok=True)  # of other data
        return None
    results = evaluate_scores(labelled, told)
    table = results_table({name: [results]}, notes=[note] if note else [], published=note is None)
    for suffix, text in (("json", to_json(table)), ("md", to_markdown(table)), ("csv", to_csv(table))):
        write_text(out / f"results.{suffix}", text)
    for entry in labelled:
        truth = truth_from_names(entry, told)
        title = name if note is None else f"{name}. {note}"
        file = out / "figures" / f"{entry.machine}_section_{entry.section}.png"
        machine_figure(entry.machine, truth.anomalous, truth.domains, entry.scores, title, file, truth.rule)
    return results
