"""The commands of the campaign, each an entry of a table: its arguments, what it starts from, its numbers."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Numbers = dict[str, str]
"""All that a command computes: a name and a value, or a hash of it."""

AE = ("ae-mse", "--set", "autoencoder.epochs=12")
TINY = (
    *("tiny-near", "--set", "training.steps=6", "--set", "training.batch_size=4"),
    *("--set", "training.checkpoint_every=2", "--set", "training.warmup_steps=2"),
)
SPLIT = ("--set", "calibration.method=split")


def score_rows(folder: Path, out: str) -> Numbers:
    """The rows of ``nearfar score``, JSON or CSV, by file; rows of recordings that failed are left out."""
    if out.startswith("["):
        rows = {row["file"]: row for row in json.loads(out)}
    else:
        rows = {row["file"]: row for row in csv.DictReader(out.splitlines())}
    return {file: json.dumps(row) for file, row in rows.items() if row["status"] != "error"}


def detector_numbers(folder: Path, out: str = "") -> Numbers:
    """The files of the detector in ``disk/out``, without the versions it was made with."""
    return folder_numbers(folder / "disk" / "out")


def folder_numbers(detector: Path) -> Numbers:
    """The files of a detector's folder, without the versions that it was made with."""
    found = {}
    for path in sorted(detector.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        content = path.read_bytes()
        if path.name in ("detector.json", "model.json"):
            tree = json.loads(content)
            for varies in ("made_with", "sha256", "files", "training"):
                tree.pop(varies, None)
            content = json.dumps(tree).encode()
        elif path.name == "changes.json":
            content = json.dumps([{**change, "date": None} for change in json.loads(content)]).encode()
        elif path.name.startswith("autoencoder_") and path.suffix == ".json":
            continue  # durations
        found[str(path.relative_to(detector))] = hashlib.sha256(content).hexdigest()
    return found


def run_numbers(folder: Path, out: str = "") -> Numbers:
    """The scores, decisions, thresholds and tables of the run in ``disk/out``, and the names of its figures."""
    run, found = folder / "disk" / "out", {}
    for pattern in ("recipe.toml", "results.*", "scores/*", "thresholds.json", "view_scores.json", "figures/*"):
        for path in sorted(run.glob(pattern)):
            if path.name.startswith("."):
                continue
            text = path.name if path.suffix == ".png" else path.read_bytes().decode(errors="replace")
            found[str(path.relative_to(run))] = text
    return found


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        arguments: of ``nearfar``, with paths relative to the case's folder.
        numbers: from the case's folder and standard output to what it computed.
        state: the numbers in files; of a command that writes none, nothing.
        start: names of prepared folders that are there before, and where in the case.
        once: whether running it once more is refused, as its output must be new.
    """

    arguments: tuple[str, ...]
    numbers: Callable[[Path, str], Numbers]
    state: Callable[[Path, str], Numbers] = field(default=lambda folder, out: {})
    start: Mapping[str, str] = field(default_factory=dict)
    once: bool = False

    @property
    def writes(self) -> bool:
        """Whether it writes files."""
        return self.arguments[0] != "score"


def _score(detector: str, *flags: str) -> Command:
    return Command(("score", "disk/out", "recordings", *flags), score_rows, start={detector: "disk/out"})


def _fit(*more: str, start: str | None = None) -> Command:
    flags = ("--replace",) if start else ()
    arguments = ("fit", "factory", "--out", "disk/out", *more, *flags)
    begin = {start: "disk/out"} if start else {}
    return Command(arguments, detector_numbers, detector_numbers, begin, once=not start)


def _run(recipe: tuple[str, ...], start: str | None = None) -> Command:
    arguments = ("run", *recipe, "--data", "factory", "--out", "disk/out")
    return Command(arguments, run_numbers, run_numbers, {start: "disk/out"} if start else {})


COMMANDS: dict[str, Command] = {
    "score --csv": _score("detector", "--csv"),
    "score --json": _score("detector", "--json"),
    "score --fail-on-anomaly": _score("detector", "--csv", "--fail-on-anomaly"),
    "score, autoencoder": _score("detector-ae", "--csv"),
    "score, trained": _score("detector-tiny", "--csv"),
    "fit": _fit(),
    "fit --replace": _fit(start="detector-before"),
    "fit, trained": _fit("--recipe", *TINY, *SPLIT),
    "run": _run(("nearfar-best",)),
    "run again": _run(("nearfar-best",), "run"),
    "run, autoencoder": _run(AE),
    "run again, autoencoder": _run(AE, "run-ae"),
    "run resumed, autoencoder": _run(AE, "begun-ae"),
    "run, trained": _run(TINY),
    "run again, trained": _run(TINY, "run-tiny"),
    "run resumed, trained": _run(TINY, "begun-tiny"),
    "add": Command(
        ("add", "disk/out", "normals/valve", "--normal", "--machine", "valve"),
        detector_numbers,
        detector_numbers,
        {"detector": "disk/out"},
        once=True,
    ),
}
"""The commands by name; one that the command line lacks is left out."""

QUICK = ("score --csv", "score --json", "fit", "fit --replace", "run again", "add")
"""The commands of a short campaign: all kinds of faults, and nothing that trains."""

PREPARED: dict[str, tuple[str, ...]] = {
    "detector": ("fit", "factory", "--out", "disk/out"),
    "detector-before": ("fit", "factory", "--out", "disk/out", "--set", "scoring.density_neighbours=4"),
    "detector-ae": ("fit", "factory", "--out", "disk/out", "--recipe", *AE, *SPLIT),
    "detector-tiny": ("fit", "factory", "--out", "disk/out", "--recipe", *TINY, *SPLIT),
    "run": COMMANDS["run"].arguments,
    "run-ae": COMMANDS["run, autoencoder"].arguments,
    "run-tiny": COMMANDS["run, trained"].arguments,
}
"""Folders that commands start from, by name, and the arguments that make them."""

BEGUN = {"begun-ae": "run-ae", "begun-tiny": "run-tiny"}
"""Folders of trainings that were killed once they had a checkpoint, and the finished ones."""

PAIRS = (
    ("fit", "fit"),
    ("fit --replace", "fit --replace"),
    ("fit --replace", "score of it"),
    ("fit", "fit"),
    ("fit --replace", "fit --replace"),
    ("fit --replace", "score of it"),
    ("fit, trained", "fit, trained"),
    ("run", "run"),
    ("run, autoencoder", "run, autoencoder"),
    ("run resumed, trained", "run resumed, trained"),
    ("run again", "run again"),
)
"""Commands that run at once on one folder."""
