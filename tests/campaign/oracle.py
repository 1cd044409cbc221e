"""What may come of a command after a fault: a message that names the file, or exactly the unharmed numbers."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.commands import Command, Numbers
from tests.campaign.processes import Finished

MESSAGE, UNHARMED = "message", "unharmed"
ERROR = 2


class WrongError(Exception):
    """An outcome that is not allowed, in words."""


@dataclass(frozen=True)
class Unharmed:
    """A command without a fault.

    Attributes:
        code: its exit code.
        numbers: what it computed.
        before, after: the numbers in files before and after it.
        seconds: its duration.
        events: how many operations on files it makes.
    """

    code: int
    numbers: Numbers
    before: Numbers
    after: Numbers
    seconds: float
    events: int


def judge(
    command: Command,
    finished: Finished,
    folder: Path,
    unharmed: Sequence[Unharmed],
    names: Sequence[str],
    *,
    other_sound: bool = False,
    harmed: str = "",
) -> str:
    """:data:`MESSAGE` or :data:`UNHARMED`; raises WrongError for any other outcome.

    Args:
        unharmed: without a fault; where several are allowed, all numbers must be of one of them.
        names: words of which a message must hold one: the harmed file, or its folder.
        other_sound: whether the samples of a recording changed, so that other numbers are right.
        harmed: the recording that was harmed, whose row of scores may differ then.
    """
    code, _, err, _ = finished
    if code is None:
        raise WrongError("it did not end")
    if code < 0:
        raise WrongError(f"ended by signal {-code}: {err[-500:]}")
    if "Traceback" in err or "defect of nearfar" in err:
        raise WrongError(f"a traceback: {err[-1500:]}")
    named = any(name in err for name in names)
    allowed_codes = {entry.code for entry in unharmed} | (
        {0, 1} if other_sound and unharmed[0].code == 1 else set()
    )
    if code not in allowed_codes and code != ERROR:
        raise WrongError(f"exit code {code}: {err[-500:]}")
    if code == ERROR and ERROR not in allowed_codes:
        if not named:
            raise WrongError(f"a message that names none of {', '.join(names)}: {err[-700:]}")
        if command.writes:
            return MESSAGE
    differences = [_difference(command, finished, folder, entry, other_sound, harmed) for entry in unharmed]
    if None in differences:
        return MESSAGE if code == ERROR else UNHARMED
    if named and code != ERROR:
        return MESSAGE
    raise WrongError(f"exit code {code} and {differences[0]}; standard error: {err[-500:]}")


def _difference(
    command: Command, finished: Finished, folder: Path, entry: Unharmed, other_sound: bool, harmed: str
) -> str | None:
    """The first difference between the numbers and unharmed ones; None without one."""
    partial = finished.code == ERROR
    if partial and not finished.out:
        return None
    try:
        found = command.numbers(folder, finished.out)
    except (ValueError, KeyError) as error:
        return f"output that cannot be read ({error})"
    if other_sound and command.writes:
        return _not_finite(found)
    for key in entry.numbers.keys() | found.keys():
        if other_sound and key == harmed:
            if key in found and "nan" in found[key].lower():
                return f"NaN in {found[key]}"
        elif key not in found:
            if not partial:
                return f"no {key}"
        elif key not in entry.numbers:
            return f"{key}, which should not be there"
        elif found[key] != entry.numbers[key] and not (partial and _nearly(found[key], entry.numbers[key])):
            return f"another {key}: {_changed(found[key], entry.numbers[key])}"
    return None


def _nearly(found: str, expected: str) -> bool:
    """Whether numbers agree to ten digits: where a recording fails, others are in a batch of another size."""
    pattern = r"-?\d+\.\d+(?:e-?\d+)?"
    if re.sub(pattern, "#", found) != re.sub(pattern, "#", expected):
        return False
    pairs = zip(re.findall(pattern, found), re.findall(pattern, expected), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=1e-10) for one, other in pairs)


def _changed(found: str, expected: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
    return f"{found[max(at - 40, 0) : at + 40]!r} instead of {expected[max(at - 40, 0) : at + 40]!r}"


def _not_finite(found: Numbers) -> str | None:
    for key, text in found.items():
        for word in re.findall(r"(?i)\b(?:nan|infinity|inf)\b", text):
            if not math.isfinite(float(word)) and key.startswith("scores/"):
                return f"{word} in {key}"
    return None


def require_whole(state: Numbers, unharmed: Unharmed) -> None:
    """Raise WrongError unless everything that was there before is there, each as before or as it should become."""
    for key, value in unharmed.before.items():
        if key not in state and key in unharmed.after:
            raise WrongError(f"{key} is lost")
        if key in state and state[key] not in (value, unharmed.after.get(key)):
            raise WrongError(f"{key} is changed: {_changed(state[key], value)}")
    for key in state.keys() - unharmed.before.keys():
        if state[key] != unharmed.after.get(key):
            raise WrongError(f"{key} is not whole")


def contents(folder: Path) -> Numbers:
    """SHA-256 of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
