"""Scores of many files by a saved detector, computed by an executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.detector.detector import batches_of, listed_recordings
from nearfar.detector.loaded import LoadedDetectors
from nearfar.executors import Executor
from nearfar.progress import Progress, silent
from nearfar.scores import Failure, Score

TASK = 8
"""Batches of recordings in a task: 256 recordings of 10 s, about 5 s of one core with ``auto``."""


def score_files(
    detector: Path,
    files: Sequence[Path],
    executor: Executor,
    *,
    machine: str | None = None,
    domain: str | None = None,
    encoder: str | None = None,
    keep_errors: bool = False,
    progress: Progress = silent,
) -> list[Score | Failure]:
    """The scores of files, in their order, as :meth:`nearfar.detector.Detector.score_many` gives them.

    Files are in the same batches as there, so that no score depends on the executor.

    Args:
        detector: its folder, from which every worker loads it.
        files: the recordings.
        executor: where tasks of :data:`TASK` batches run.
        machine, domain, keep_errors, progress: as of ``score_many``.
        encoder: as of :meth:`nearfar.detector.Detector.load`.

    Raises:
        InputError: as ``load`` and ``score_many``.
    """
    batches = batches_of(listed_recordings(files, SAMPLE_RATE_HZ))
    bounds = [batch.stop for batch in batches]
    ends = [*bounds[TASK - 1 :: TASK], *([bounds[-1]] if len(bounds) % TASK else [])]
    parts = [files[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    work = _Scoring(detector, machine, domain, encoder, keep_errors)
    found = executor.map(
        work.score, parts, task="scoring recordings", progress=progress, sizes=[len(part) for part in parts]
    )
    return [entry for scores in found for entry in scores]


@dataclass(frozen=True)
class _Scoring:
    """What is the same for all tasks of :func:`score_files`."""

    detector: Path
    machine: str | None
    domain: str | None
    encoder: str | None
    keep_errors: bool

    def score(self, files: Sequence[Path], progress: Progress) -> list[Score | Failure]:
        """The scores of some files."""
        loaded = _loaded().get(self.detector, encoder=self.encoder)
        return [*loaded.score_many(files, self.machine, domain=self.domain, keep_errors=self.keep_errors)]


@cache
def _loaded() -> LoadedDetectors:
    """The detectors of this worker process."""
    return LoadedDetectors()
