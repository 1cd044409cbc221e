"""How many recordings of a machine have problems of the microphones or the recorder, of all that were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nearfar.data.channel_check import DEAD_DB, QUIET_DB
from nearfar.data.quality import Problem, problems, profile
from nearfar.data.signals import SignalFacts


@dataclass(frozen=True, slots=True)
class ProblemCount:
    """A kind of problem of the recordings of a machine.

    Attributes:
        check: as of :class:`nearfar.data.quality.Problem`.
        recordings: number of recordings with it.
        example, message: one of them, and what was found in it.
    """

    check: str
    recordings: int
    example: str
    message: str


@dataclass(frozen=True, slots=True)
class MachineQuality:
    """The problems of the recordings of one machine, the most frequent first."""

    machine: str
    recordings: int
    problems: tuple[ProblemCount, ...]

    def __str__(self) -> str:
        found = [
            f"{entry.check} in {entry.recordings} of {self.recordings} recordings, such as {entry.example} "
            f"({entry.message})"
            for entry in self.problems
        ]
        return f"{self.machine}: {'; '.join(found)}"

    def to_json(self) -> dict[str, Any]:
        """The fields as text, numbers and lists."""
        return asdict(self)


def count_problems(
    machine: str, normal: Sequence[tuple[str, SignalFacts]], others: Sequence[tuple[str, SignalFacts]] = ()
) -> MachineQuality | None:
    """Count problems of the recordings of a machine; None without any.

    Args:
        machine: its name.
        normal: names and facts of its normal (training) recordings, which all are compared with as well.
        others: the same of other recordings, such as those of a test set.
    """
    if not normal:
        return None
    usual = profile([facts for _, facts in normal])
    found: dict[str, ProblemCount] = {}
    for name, facts in [*normal, *others]:
        own = {entry.check: entry for entry in reversed([*_absolute(facts), *problems(facts, usual, 0.0)])}
        for check, entry in own.items():
            first = found.get(check, ProblemCount(check, 0, name, entry.message))
            found[check] = ProblemCount(check, first.recordings + 1, first.example, first.message)
    counts = sorted(found.values(), key=lambda entry: (-entry.recordings, entry.check))
    return MachineQuality(machine, len(normal) + len(others), tuple(counts)) if counts else None


def _absolute(facts: SignalFacts) -> list[Problem]:
    """Problems that a recording has whatever the others are like."""
    found = []
    near, far = facts.channels.get("near"), facts.channels.get("far")
    if near is not None and far is not None and far.level_db < near.level_db + DEAD_DB:
        below = near.level_db - far.level_db
        found.append(Problem("dead", f"the far channel is {below:.0f} dB below near: no distance explains that"))
    if near is not None and near.level_db < QUIET_DB:
        message = (
            f"the near channel is quiet: at {near.level_db:.0f} dB of full scale the floor of the log-mel "
            "spectrogram hides the machine"
        )
        found.append(Problem("quiet", message))
    clipped = [name for name, channel in facts.channels.items() if channel.clipped]
    if clipped:
        message = f"the {clipped[0]} channel is clipped: its peaks are cut off at one value"
        found.append(Problem("clipped", message))
    return found
