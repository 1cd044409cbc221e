"""The kinds of faults, each an entry of a table: from a campaign and a generator to an outcome that is allowed."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.cases import Campaign, again, at_event
from tests.campaign.commands import PAIRS, Command
from tests.campaign.harm import FLIPS, TRUNCATIONS, damage
from tests.campaign.oracle import ERROR, MESSAGE, UNHARMED, Unharmed, WrongError, judge, require_whole
from tests.campaign.processes import Child, Finished

NOBODY = 65_534
MEGABYTE = 1 << 20
SPACE_WORDS = ("disk", "out", "No space", "space", "File too large")


class Case:
    """One fault of one command: the command is chosen at random from those that the kind is of.

    Attributes:
        words: what was done, for a report of a wrong outcome.
    """

    def __init__(self, campaign: Campaign, rng: random.Random, names: list[str]) -> None:
        self.campaign, self.rng = campaign, rng
        self.name = rng.choice([name for name in names if name in campaign.commands])
        self.command: Command = campaign.commands[self.name]
        self.unharmed: Unharmed = campaign.unharmed[self.name]
        self.folder = campaign.fresh(self.command)
        self.words = self.name

    def state(self) -> dict[str, str]:
        return self.command.state(self.folder, "")

    def files(self, *below: str) -> list[Path]:
        found = [path for name in below for path in sorted((self.folder / name).rglob("*"))]
        return [path for path in found if path.is_file()]

    def judged(self, finished: Finished, names: list[str], **more: object) -> str:
        return judge(self.command, finished, self.folder, [self.unharmed], names, **more)  # type: ignore[arg-type]

    def afterwards(self) -> None:
        """Nothing that was complete is lost, and the next call gives the unharmed numbers."""
        require_whole(self.state(), self.unharmed)
        again(self.campaign, self.command, self.unharmed)


def _names(path: Path, folder: Path) -> list[str]:
    """The file's name, and the paths of the folders that it is in, below ``disk/out``."""
    inside = path.relative_to(folder)
    parents = [str(parent) for parent in inside.parents if len(parent.parts) > 2]
    return [path.name, *parents]


def of_input(case: Case, ways: tuple[Callable[..., None], ...]) -> str:
    """Damage to a recording."""
    path = case.rng.choice(case.files("recordings" if not case.command.writes else "factory"))
    words, other_sound = damage(path, case.rng, ways)
    case.words += f", {words}"
    harmed = str(path.relative_to(case.folder))
    finished = case.campaign.start(case.command).wait()
    return case.judged(finished, [path.name], other_sound=other_sound, harmed=harmed)


def of_stored(case: Case, ways: tuple[Callable[..., None], ...]) -> str:
    """Damage to a file of a detector or run."""
    path = case.rng.choice(case.files("disk"))
    words, _ = damage(path, case.rng, ways)
    if case.rng.random() < 0.05:
        path.unlink()
        words = f"no {path.name}"
    case.words += f", {words}"
    before = case.campaign.inputs()
    finished = case.campaign.start(case.command).wait()
    if case.campaign.inputs() != before:
        raise WrongError("recordings are changed")
    return case.judged(finished, _names(path, case.folder))


def kill_at_a_time(case: Case) -> str:
    """Kill -9 after a random time."""
    seconds = case.rng.uniform(0, case.unharmed.seconds)
    case.words += f", killed after {seconds:.3f} s"
    return _killed(case, case.campaign.start(case.command).wait(kill_after=seconds))


def kill_at_an_operation(case: Case) -> str:
    """Kill -9 just before a random operation on files."""
    number = case.rng.randint(1, max(case.unharmed.events, 1))
    case.words += f", killed at file operation {number} of {case.unharmed.events}"
    folder = case.folder

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return _killed(case, case.campaign.start(case.command, lambda: at_event(folder, number, die)).wait())


def _killed(case: Case, finished: Finished) -> str:
    if finished.code not in (-signal.SIGKILL, case.unharmed.code):
        raise WrongError(f"exit code {finished.code}: {finished.err[-700:]}")
    case.afterwards()
    return UNHARMED


def error_at_an_operation(case: Case) -> str:
    """A random operation on files fails as it does on a full disk."""
    number = case.rng.randint(1, max(case.unharmed.events, 1))
    code = case.rng.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
    case.words += f", {errno.errorcode[code]} at file operation {number} of {case.unharmed.events}"
    folder = case.folder

    def fail() -> None:
        raise OSError(code, os.strerror(code), "disk/out")

    finished = case.campaign.start(case.command, lambda: at_event(folder, number, fail)).wait()
    verdict = case.judged(finished, list(SPACE_WORDS))
    case.afterwards()
    return verdict


def largest_file(case: Case) -> str:
    """No file may grow above a random size (RLIMIT_FSIZE), as by a quota."""
    size = int(2 ** case.rng.uniform(0, 23))
    case.words += f", no file above {size} bytes"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    verdict = case.judged(case.campaign.start(case.command, limit).wait(), list(SPACE_WORDS))
    case.afterwards()
    return verdict


def small_disk(case: Case) -> str:
    """The output is on a file system that is too small, or full before it starts."""
    if not case.command.writes:
        case.words += ", standard output on a full disk"
        finished = case.campaign.start(case.command, out=Path("/dev/full")).wait()
        if finished.code not in (ERROR, 120):
            raise WrongError(f"exit code {finished.code} without output: {finished.err[-700:]}")
        if "Traceback" in finished.err:
            raise WrongError(f"a traceback: {finished.err[-700:]}")
        case.afterwards()
        return MESSAGE
    size = int(2 ** case.rng.uniform(12, 24)) // 4096 * 4096
    with _mounted(case.folder / "disk", size) as resize:
        if resize is None:
            return largest_file(case)
        case.words += f", a disk of {size} bytes"
        try:
            for name, place in case.command.start.items():
                resize(64 * MEGABYTE)
                _copy(case.campaign.root / name, case.folder / place)
                resize(_used(case.folder / "disk") + size)
            verdict = case.judged(case.campaign.start(case.command).wait(), list(SPACE_WORDS))
            resize(64 * MEGABYTE)
            case.afterwards()
        finally:
            resize(64 * MEGABYTE)
    return verdict


def wrong_owner(case: Case) -> str:
    """A file or folder that another user owns and that this one may not read or write."""
    paths = [path for name in ("factory", "recordings", "disk") for path in (case.folder / name).rglob("*")]
    paths += [case.folder / "disk", case.folder / "factory"]
    path = case.rng.choice(sorted(paths))
    mode = case.rng.choice([0o700, 0o755] if path.is_dir() else [0o600, 0o644])
    case.words += f", {path.relative_to(case.folder)} of another user with mode {mode:o}"
    is_root = os.geteuid() == 0
    _give(case.folder, NOBODY)
    if is_root:
        os.chown(path, 0, 0)
    path.chmod(mode if is_root else (mode & 0o055) << 3)

    def become_nobody() -> None:
        if is_root:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    finished = Child(case.command.arguments, case.folder, become_nobody).wait()
    verdict = case.judged(finished, [path.name, *_names(path, case.folder), str(path.parent.name)])
    if is_root:
        _give(case.folder, 0)
    path.chmod(0o755 if path.is_dir() else 0o644)
    case.afterwards()
    return verdict


def two_at_once(campaign: Campaign, rng: random.Random) -> tuple[str, Callable[[], str]]:
    """Two commands on one folder; in a third of cases one of them is killed."""
    pairs = [pair for pair in PAIRS if pair[0] in campaign.commands]
    first, second = rng.choice(pairs)
    case = Case(campaign, rng, [first])
    delay = rng.uniform(0, case.unharmed.seconds)
    kill_after = rng.uniform(0, 2 * case.unharmed.seconds) if rng.random() < 1 / 3 else None
    killed = f", the first killed after {kill_after:.3f} s" if kill_after else ""
    words = f"{first} and {delay:.3f} s later {second}{killed}"
    run = (lambda: _scored_meanwhile(case, delay)) if second == "score of it" else None
    return words, run or (lambda: _both(case, delay, kill_after))


def _both(case: Case, delay: float, kill_after: float | None) -> str:
    one = case.campaign.start(case.command)
    time.sleep(delay)
    other = case.campaign.start(case.command)
    finished = [one.wait(kill_after), other.wait()]
    verdicts = []
    for entry in finished:
        if entry.code == -signal.SIGKILL and kill_after is not None:
            continue
        verdicts.append(judge(case.command, entry, case.folder, [case.unharmed], ["disk/out"]))
    if kill_after is None and all(entry.code for entry in finished):
        raise WrongError(f"both failed: {finished[0].err[-400:]} {finished[1].err[-400:]}")
    case.afterwards()
    return MESSAGE if MESSAGE in verdicts else UNHARMED


def _scored_meanwhile(case: Case, delay: float) -> str:
    """``score`` while ``fit --replace`` replaces the detector: all rows are by the old or all by the new one."""
    campaign, score = case.campaign, case.campaign.commands["score --csv"]
    old = Child(score.arguments, case.folder).wait()
    one = campaign.start(case.command)
    time.sleep(delay)
    between = Child(score.arguments, case.folder).wait()
    finished = one.wait()
    judge(case.command, finished, case.folder, [case.unharmed], ["disk/out"])
    new = Child(score.arguments, case.folder).wait()
    rows = [score.numbers(case.folder, entry.out) for entry in (old, new)]
    allowed = [Unharmed(0, numbers, {}, {}, 0.0, 0) for numbers in rows]
    verdict = judge(score, between, case.folder, allowed, ["disk/out"])
    case.afterwards()
    return verdict


@contextmanager
def _mounted(folder: Path, size: int) -> Iterator[Callable[[int], None] | None]:
    """A file system in memory of that size at a folder, and a function that resizes it; None if not permitted."""
    folder.mkdir(exist_ok=True)
    content = list(folder.iterdir())
    for path in content:
        subprocess.run(["rm", "-rf", path], check=True)
    options = f"size={size},mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        yield None
        return

    def resize(to: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to}", folder], capture_output=True, check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def _used(folder: Path) -> int:
    used = os.statvfs(folder)
    return (used.f_blocks - used.f_bfree) * used.f_frsize


def _give(folder: Path, user: int) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{user}:{user}", folder], check=True)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        share: how often it is tried, in relation to the others.
        inject: makes the fault and returns the outcome; raises WrongError for one that is not allowed.
        commands: the names of the commands that it is tried on.
    """

    share: int
    inject: Callable[[Case], str]
    commands: tuple[str, ...]


_SCORE = ("score --csv", "score --json", "score --fail-on-anomaly")
_STORED = (*8 * _SCORE, "score, autoencoder", "score, trained", "run again", "run again, autoencoder",
           "run again, trained", "run resumed, autoencoder", "run resumed, trained", "add")  # fmt: skip
_WRITES = (*4 * ("fit", "fit --replace"), "run", "fit, trained", "run", "run again",
           "run, autoencoder", "run, trained",
           "run resumed, autoencoder", "run resumed, trained", "add")  # fmt: skip
_QUICK = (*_SCORE, "fit", "fit --replace", "fit", "run", "run again", "add")

KINDS: dict[str, Kind] = {
    "flipped bytes of a recording": Kind(
        10, lambda case: of_input(case, FLIPS), (*3 * _SCORE, "fit", "run", "add")
    ),
    "truncated recording": Kind(6, lambda case: of_input(case, TRUNCATIONS), (*3 * _SCORE, "fit", "run", "add")),
    "flipped bytes of a stored file": Kind(18, lambda case: of_stored(case, FLIPS), _STORED),
    "truncated stored file": Kind(8, lambda case: of_stored(case, TRUNCATIONS), _STORED),
    "kill -9 at a random time": Kind(3, kill_at_a_time, (*_WRITES, "score --csv")),
    "kill -9 at a file operation": Kind(4, kill_at_an_operation, _WRITES),
    "error at a file operation": Kind(3, error_at_an_operation, _WRITES),
    "limit of a file's size": Kind(2, largest_file, _WRITES),
    "full disk": Kind(3, small_disk, (*_WRITES, *_SCORE)),
    "wrong owner": Kind(3, wrong_owner, _QUICK),
}
"""The kinds of faults by name, besides :data:`TWO`."""

TWO, TWO_SHARE = "two processes on one folder", 3
