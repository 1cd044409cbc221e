"""The machine whose normal recordings a recording is compared with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from nearfar.detector.machine import FittedMachine
from nearfar.errors import InputError
from nearfar.files import as_text
from nearfar.pipeline.windows import Recording

_SECTION = re.compile(r"(?:^|_)(?:section|id)_([0-9]{2})(?:_|$)")


def machine_names(machines: Sequence[FittedMachine]) -> tuple[str, ...]:
    """The name of each machine, followed by the section where the machine has several."""
    names = [entry.machine for entry in machines]
    return tuple(
        entry.machine if names.count(entry.machine) == 1 else f"{entry.machine}/{entry.section}"
        for entry in machines
    )


def require_known(machines: Sequence[FittedMachine], machine: str | None) -> None:
    """Raise an InputError if there is no such machine, or machine and section."""
    names = machine_names(machines)
    if machine is not None and as_text(machine) not in {*names, *(entry.machine for entry in machines)}:
        raise InputError(
            "machine",
            found=repr(machine),
            expected=f"one of {', '.join(names)}, which the detector was fitted on",
            remedy="Check the spelling, or fit a detector on normal recordings of this machine",
        )


def choose_machine(machines: Sequence[FittedMachine], recording: Recording, machine: str | None) -> int:
    """The index of the machine that a recording is of: the named one, or else the one whose folder it lies in.

    A detector of one machine accepts any recording. Of several sections, the file name decides.

    Raises:
        InputError: if the machine is unknown, or nothing decides which it is.
    """
    names = machine_names(machines)
    require_known(machines, machine)
    machine = None if machine is None else as_text(machine)
    if machine in names:
        return names.index(machine)
    fitted = {entry.machine for entry in machines}
    chosen = machine or (next(iter(fitted)) if len(fitted) == 1 else _by_folder(recording, fitted))
    of_machine = [index for index, entry in enumerate(machines) if entry.machine == chosen]
    if len(of_machine) == 1:
        return of_machine[0]
    section = _SECTION.search(Path(recording.name).stem)
    of_section = [index for index in of_machine if section and machines[index].section == section[1]]
    if not of_section:
        raise _undecided(recording, names)
    return of_section[0]


def _by_folder(recording: Recording, machines: set[str]) -> str:
    """The innermost folder of the file that has the name of a machine, in the path as given, else behind links."""
    if isinstance(recording.source, Path):
        as_given = Path(os.path.abspath(recording.source))  # noqa: PTH100 (links are not followed)
        for path in (as_given, recording.source.resolve()):
            for name in reversed(path.parent.parts):
                if as_text(name) in machines:
                    return as_text(name)
    raise _undecided(recording, sorted(machines))


def _undecided(recording: Recording, names: Sequence[str]) -> InputError:
    return InputError(
        recording.name,
        found="a recording that could be of several machines",
        expected=f"one of {', '.join(names)}",
        remedy="Name the machine (machine), or keep the file in a folder of that name",
    )
