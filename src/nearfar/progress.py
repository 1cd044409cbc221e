"""How long steps tell how far they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfar.scoring.autoencoder.training import EpochRecord
    from nearfar.training.finetune import StepRecord

Progress = Callable[[str, int, int], None]
"""Called with the name of a long step, how much of it is done and how much there is."""


def silent(task: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def record_writer(
    folder: Path | None,
) -> AbstractContextManager[Callable[[StepRecord | EpochRecord], None] | None]:
    """:func:`nearfar.training.tensorboard.tensorboard_writer` of a folder; of None, nothing and no imports."""
    if folder is None:
        return nullcontext()
    from nearfar.training.tensorboard import tensorboard_writer

    return tensorboard_writer(folder)
