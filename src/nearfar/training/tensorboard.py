"""The training curve for TensorBoard; needs the extra ``nearfar[tracking]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from nearfar.errors import InputError
from nearfar.scoring.autoencoder.training import EpochRecord
from nearfar.training.finetune import StepRecord


@contextmanager
def tensorboard_writer(folder: Path) -> Iterator[Callable[[StepRecord | EpochRecord], None]]:
    """A function that writes one record into ``folder``: each of its values, at its step or epoch.

    Raises:
        InputError: if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard",
            found="no TensorBoard in this Python",
            expected="the extra nearfar[tracking]",
            remedy="Run pip install 'nearfar[tracking]', or leave the option out; log.jsonl, or an autoencoder's "
            "JSON file, holds the same",
        ) from None
    with SummaryWriter(str(folder)) as writer:

        def write(record: StepRecord | EpochRecord) -> None:
            where, *names = (field.name for field in fields(record))
            for name in names:
                if (value := getattr(record, name)) is not None:
                    writer.add_scalar(name, value, getattr(record, where))

        yield write
