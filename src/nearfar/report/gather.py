"""What a run folder says, read into typed records; recordings are read again only for what wants to be heard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Recipe, load_recipe
from nearfar.data.audio import AudioHeader
from nearfar.data.channel_check import ChannelWarning, check_channels
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_dataset
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import Uncertainty, uncertainty
from nearfar.features.cache import EmbeddingStore
from nearfar.features.representation import represent, waveform_views
from nearfar.metrics import OfficialRule

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MachineFacts:
    """One machine and section of a run.

    Attributes:
        scores: of the test clips.
        anomalous, domains: (clips,) of the test clips, or None where their names hide it.
        views: (clips,) scores of every view before fusion. normal, normal_views: leave-one-out scores of training
            clips.
        threshold: or None where there is none.
        train, test: the clips, empty where the recordings are not at hand.
        rule: how the year that the clips are of evaluates them.
    """

    scores: MachineScores
    anomalous: NDArray[np.bool_] | None
    domains: NDArray[np.str_] | None
    views: dict[str, Numbers]
    normal: Numbers
    normal_views: dict[str, Numbers]
    threshold: float | None
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]
    rule: OfficialRule

    @property
    def name(self) -> str:
        """The machine, and its section where it is not the usual one."""
        return (
            self.scores.machine if self.scores.section == "00" else f"{self.scores.machine} {self.scores.section}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """A whole run. ``intervals`` is None where the labels are hidden, ``curve`` where nothing was trained here,
    ``warnings`` where there is nothing to listen to."""

    folder: Path
    recipe: Recipe
    recipe_text: str
    environment: dict[str, Any]
    data: list[dict[str, Any]]
    notes: tuple[str, ...]
    intervals: Uncertainty | None
    machines: tuple[MachineFacts, ...]
    curve: tuple[Numbers, Numbers] | None
    missing: tuple[str, ...]
    warnings: tuple[ChannelWarning, ...] | None


def gather_run(run: Path, data: Path | None = None) -> RunFacts:
    """Read a run folder.

    Args:
        run: what ``nearfar run`` wrote.
        data: the folder of recordings, if it is no longer where the run found it.

    Raises:
        InputError: if the folder holds no finished run, or ``data`` no recordings.
    """
    for name in ("recipe.toml", "view_scores.json", "scores"):
        if not (run / name).exists():
            raise InputError(
                run,
                found=f"no {name}",
                expected="the folder of a finished run",
                remedy="Give the --out folder of nearfar run, or run the same command again to finish it",
            )
    recipe = load_recipe(run / "recipe.toml")
    by_view = _json(run / "view_scores.json")
    if not isinstance(by_view, dict) or not {"data", "machines"} <= by_view.keys():
        raise unreadable(run / "view_scores.json", "it does not say where the recordings are")
    place = data if data is not None else Path(by_view["data"])
    missing: list[str] = []
    dataset = _dataset(place, missing, required=data is not None)
    entries = read_scores(run / "scores")
    truth = GroundTruth.of_score_folder(run / "scores", entries)
    labelled = truth.evaluable([entry for entry in entries if not truth.hides(entry)])
    thresholds = {(row["machine"], row["section"]): row["value"] for row in _json(run / "thresholds.json")}
    details = {(row["machine"], row["section"]): row for row in by_view["machines"]}
    machines = []
    for entry in entries:
        key = (entry.machine, entry.section)
        machines.append(
            _machine(entry, details.get(key, {}), thresholds.get(key), truth, entry in labelled, dataset)
        )
    results = _json(run / "results.json") if (run / "results.json").is_file() else {}
    return RunFacts(
        run,
        recipe,
        (run / "recipe.toml").read_text(encoding="utf-8"),
        _json(run / "environment.json"),
        _json(run / "data.json"),
        tuple(str(note) for note in results.get("notes", [])),
        uncertainty(labelled, truth) if labelled else None,
        tuple(machines),
        _curve(run / "model" / "log.jsonl"),
        tuple(missing),
        None if dataset is None else _channel_warnings(dataset, recipe),
    )


def _channel_warnings(dataset: Dataset, recipe: Recipe) -> tuple[ChannelWarning, ...] | None:
    """What is the matter with the two microphones; None where no recording has two channels."""
    audio = recipe.audio
    needed = max(audio.near_channel, audio.far_channel) + 1
    headers = dataset.select(split="train").headers().values()
    if not any(isinstance(header, AudioHeader) and header.channels >= needed for header in headers):
        return None
    return tuple(check_channels(dataset, near=audio.near_channel, far=audio.far_channel))


def _machine(
    entry: MachineScores,
    detail: dict[str, Any],
    threshold: float | None,
    truth: GroundTruth,
    labelled: bool,
    dataset: Dataset | None,
) -> MachineFacts:
    labels = truth.labels(entry) if labelled else None
    clips = () if dataset is None else dataset.train(entry.machine) + dataset.test(entry.machine)
    own = [clip for clip in clips if clip.section == entry.section]
    return MachineFacts(
        entry,
        None if labels is None else labels.anomalous,
        None if labels is None else labels.domains,
        {view: np.array(values) for view, values in detail.get("views", {}).items()},
        np.array(detail.get("normal", [])),
        {view: np.array(values) for view, values in detail.get("normal_views", {}).items()},
        threshold,
        tuple(clip for clip in own if clip.split == "train"),
        tuple(clip for clip in own if clip.split == "test"),
        truth.rule,
    )


def _dataset(place: Path, missing: list[str], *, required: bool) -> Dataset | None:
    """The recordings; without them the page has neither sound nor spectrograms nor a map, and says so."""
    try:
        return read_dataset(place)
    except InputError:
        if required:
            raise
        missing.append(
            f"The recordings are no longer in {place}: no sound, spectrograms or map of embeddings. "
            "Give --data FOLDER to have them."
        )
        return None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, why: object) -> InputError:
    """The error about a file of a run's folder that is not what it should be."""
    return InputError(
        path,
        found=f"a file that cannot be read ({' '.join(str(why).split())})",
        expected="what nearfar run wrote",
        remedy="Run the same command again",
    )


def _curve(log: Path) -> tuple[Numbers, Numbers] | None:
    """Steps and losses, averaged over stretches so that no more than 300 points are left."""
    if not log.is_file():
        return None
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if len(rows) < 2:
        return None
    steps, losses = np.array([row["step"] + 1 for row in rows]), np.array([row["loss"] for row in rows])
    stretch = -(-len(rows) // 300)
    whole = len(rows) // stretch * stretch
    return (
        steps[:whole].reshape(-1, stretch).mean(axis=1),
        losses[:whole].reshape(-1, stretch).mean(axis=1),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """A map of a machine's clips.

    Attributes:
        places: by scored view, (training clips, 2) and (test clips, 2).
        shares: of the variance among training clips, along either axis.
    """

    places: dict[str, tuple[Numbers, Numbers]]
    shares: tuple[float, float]


def plane_of(facts: MachineFacts, run: RunFacts) -> Plane | None:
    """A map of the machine's clips by the features of every scored view.

    Features come from the run's store where they are there, or are computed. None for autoencoders and without
    recordings.
    """
    if run.recipe.method == "autoencoder" or not facts.train or not facts.test:
        return None
    folder = run.folder / "model"
    if run.recipe.training.adaptation != "none" and not (folder / "model.json").is_file():
        return None
    representation = represent(run.recipe, folder)
    store, size = EmbeddingStore(folder / "embeddings"), run.recipe.scoring.batch_size
    device = torch.device("cpu")
    table: dict[str, tuple[Numbers, Numbers]] = {}
    for view in waveform_views(run.recipe):
        rows = [
            store.get(representation, clips, view, batch_size=size, device=device).reshape(len(clips), -1)
            for clips in (facts.train, facts.test)
        ]
        table[view] = (rows[0].astype(np.float64), rows[1].astype(np.float64))
    return principal_plane(table)


def principal_plane(features: dict[str, tuple[Numbers, Numbers]]) -> Plane:
    """The first two principal components, every number scaled by its deviation over all training clips.

    Args:
        features: by view, (training clips, dim) and (test clips, dim).
    """
    normal = np.concatenate([train for train, _ in features.values()])
    mean, deviation = normal.mean(axis=0), normal.std(axis=0)
    scale = np.where(deviation > 1e-9, deviation, np.inf)
    _, lengths, axes = np.linalg.svd((normal - mean) / scale, full_matrices=False)
    energy = np.append(lengths**2, 0.0)
    shares = energy / max(energy.sum(), 1e-12)
    axes = axes[:2] if len(axes) > 1 else np.vstack([axes, np.zeros_like(axes)])
    places = {view: tuple(((rows - mean) / scale) @ axes.T for rows in pair) for view, pair in features.items()}
    return Plane(places, (float(shares[0]), float(shares[1])))
