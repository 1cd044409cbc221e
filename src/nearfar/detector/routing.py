"""Which machine's normal recordings a recording is compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nearfar.detector.bank import Bank
from nearfar.errors import InputError
from nearfar.features.windows import Recording

_SECTION = re.compile(r"(?:^|_)(?:section|id)_([0-9]{2})(?:_|$)")


def labels(banks: Sequence[Bank]) -> tuple[str, ...]:
    """What to call each bank: its machine, with the section behind it where the machine has several."""
    machines = [bank.machine for bank in banks]
    return tuple(
        bank.machine if machines.count(bank.machine) == 1 else f"{bank.machine}/{bank.section}" for bank in banks
    )


def choose(banks: Sequence[Bank], recording: Recording, machine: str | None) -> int:
    """The bank for a recording: of the machine that is named, or else of the one whose folder the file lies in.

    A detector of one machine takes any recording. Of several sections, the file name says which.

    Args:
        banks: of a detector.
        recording: a file or an array.
        machine: a machine's name, or one of :func:`labels`; None to go by the file.

    Raises:
        InputError: if the machine is unknown, or nothing says which it is.
    """
    named = labels(banks)
    if machine in named:
        return named.index(machine)
    known = {bank.machine for bank in banks}
    if machine is not None and machine not in known:
        raise InputError(
            "--machine",
            found=machine,
            expected=f"one of {', '.join(named)}, which the detector was fitted on",
            remedy="Check the spelling, or fit a detector on normal recordings of this machine",
        )
    chosen = machine or (next(iter(known)) if len(known) == 1 else _by_folder(recording, known))
    of_machine = [index for index, bank in enumerate(banks) if bank.machine == chosen]
    if len(of_machine) == 1:
        return of_machine[0]
    section = _SECTION.search(Path(recording.name).stem)
    of_section = [index for index in of_machine if section and banks[index].section == section[1]]
    if not of_section:
        raise _undecided(recording, named)
    return of_section[0]


def _by_folder(recording: Recording, machines: set[str]) -> str:
    """The innermost folder of the file that is called as a machine."""
    if isinstance(recording.source, Path):
        for name in reversed(recording.source.resolve().parent.parts):
            if name in machines:
                return name
    raise _undecided(recording, sorted(machines))


def _undecided(recording: Recording, names: Sequence[str]) -> InputError:
    return InputError(
        recording.name,
        found="a recording that does not say of which machine it is",
        expected=f"one of {', '.join(names)}",
        remedy="Name it with --machine (machine=), or keep the file in a folder of that name",
    )
