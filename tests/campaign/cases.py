"""The folders of a campaign: recordings and prepared outputs, copied to a fresh case for every fault."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import soundfile as sf
from tests.campaign.commands import BEGUN, COMMANDS, PREPARED, Command, Numbers
from tests.campaign.oracle import Unharmed, WrongError, contents
from tests.campaign.processes import Child, Finished, import_what_they_need

from nearfar.cli import app

SIMULATE = (
    *("simulate", "factory", "--machines", "fan,valve", "--train-source", "7", "--train-target", "2"),
    *("--test", "1", "--seconds", "1", "--seed", "1"),
)
"""The command that makes the recordings."""

ALREADY = ("found a detector", "which is there already")
"""Errors of commands that were complete before: of ``fit`` and of ``add``."""


class Campaign:
    """Prepared folders in ``root``, and what commands give without a fault.

    Args:
        root: a folder for all files; it should be empty.
        commands: the names of the commands to prepare for; default all.
    """

    def __init__(self, root: Path, commands: Sequence[str] | None = None) -> None:
        self.root, self.case = root, root / "case"
        root.chmod(0o755)
        known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
        self.commands = {
            name: command
            for name, command in COMMANDS.items()
            if command.arguments[0] in known and (commands is None or name in commands)
        }
        self._prepare()
        self.unharmed = {name: self._unharmed(command) for name, command in self.commands.items()}

    def fresh(self, command: Command | None = None) -> Path:
        """An empty case with the recordings, and the folders that a command starts from."""
        for _ in range(5):
            with suppress(OSError):
                shutil.rmtree(self.case)
            if not self.case.exists():
                break
            subprocess.run(["umount", "-l", self.case / "disk"], capture_output=True, check=False)
        for name in ("factory", "recordings", "normals"):
            if (self.root / name).is_dir():
                shutil.copytree(self.root / name, self.case / name)
        (self.case / "disk").mkdir(parents=True)
        (self.case / "tmp").mkdir()
        for name, place in (command.start if command is not None else {}).items():
            shutil.copytree(self.root / name, self.case / place)
        return self.case

    def start(self, command: Command, prepare: Callable[[], None] | None = None, out: Path | None = None) -> Child:
        """Start a command in the case."""
        return Child(command.arguments, self.case, prepare, out)

    def inputs(self) -> Numbers:
        """The content of the recordings."""
        return {
            f"{name}/{key}": value
            for name in ("factory", "recordings", "normals")
            for key, value in contents(self.case / name).items()
        }

    def _prepare(self) -> None:
        self.fresh()
        finished = Child(SIMULATE, self.root).wait()
        if finished.code:
            raise RuntimeError(f"recordings cannot be simulated: {finished.err}")
        listing = self.root / "factory" / "valve" / "attributes_00.csv"
        text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
        for path in sorted((self.root / "factory" / "valve").rglob("*_000[02]_*.wav")):  # some recordings are FLAC
            samples, rate = sf.read(path, dtype="int16")
            sf.write(path.with_suffix(".flac"), samples, rate, subtype="PCM_16")
            path.unlink()
            text = text.replace(path.name, f"{path.stem}.flac")
        if text:
            listing.write_text(text, encoding="utf-8")
        for machine in ("fan", "valve"):
            tested = self.root / "factory" / machine / "test"
            shutil.copytree(tested, self.root / "recordings" / machine)
            without_faults = shutil.ignore_patterns("*anomaly*")
            shutil.copytree(tested, self.root / "normals" / machine, ignore=without_faults)
        self.fresh()
        first = ("score", "disk/out", "recordings")
        import_what_they_need([PREPARED["detector"], first, PREPARED["run"], PREPARED["run-ae"]], self.case)
        import_what_they_need([PREPARED["run-tiny"]], self.fresh())
        needed = {name for command in self.commands.values() for name in command.start}
        needed |= {BEGUN[name] for name in needed & BEGUN.keys()}
        for name in [name for name in PREPARED if name in needed]:
            self.fresh()
            finished = Child(PREPARED[name], self.case).wait()
            if finished.code:
                raise RuntimeError(f"{name} cannot be prepared: {finished.err}")
            shutil.copytree(self.case / "disk" / "out", self.root / name)
        for name in sorted(needed & BEGUN.keys()):
            self._begin(name)

    def _begin(self, name: str) -> None:
        """A training that was killed once it had a checkpoint."""
        self.fresh()
        folder = self.case
        Child(PREPARED[BEGUN[name]], folder, lambda: kill_after_checkpoint(folder)).wait()
        if not list(folder.rglob("checkpoint.safetensors")):
            raise RuntimeError(f"{name}: no checkpoint was written")
        shutil.copytree(folder / "disk" / "out", self.root / name)

    def _unharmed(self, command: Command) -> Unharmed:
        self.fresh(command)
        before = command.state(self.case, "")
        counted = self.case / "tmp" / "events"

        def note() -> None:
            counted.write_text(str(count[0]))

        count = [0]
        child = Child(command.arguments, self.case, lambda: count_events(self.case, count), at_end=note)
        finished = child.wait()
        if finished.code not in (0, 1) or (finished.code and "--fail-on-anomaly" not in command.arguments):
            raise RuntimeError(f"{command.arguments}: exit code {finished.code} without a fault: {finished.err}")
        numbers = command.numbers(self.case, finished.out)
        after = command.state(self.case, finished.out)
        return Unharmed(finished.code, numbers, before, after, finished.seconds, int(counted.read_text()))


def writes_to(folder: Path, event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an audit event changes a file in a folder, or opens one for writing."""
    if event == "open":
        path, mode, flags = arguments[:3]
        writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        writes |= isinstance(mode, str) and any(letter in mode for letter in "wax+")
    else:
        path, writes = arguments[0] if arguments else None, event in EVENTS
    if not writes or not isinstance(path, str | bytes | os.PathLike):
        return False
    return str(Path(os.fsdecode(path)).absolute()).startswith(str(folder))


EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")
"""Audit events of Python that change files, besides opening one."""


def count_events(folder: Path, count: list[int]) -> None:
    """Count operations on files below a folder from here on, in the first item of ``count``."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (event == "open" or event in EVENTS) and writes_to(folder, event, arguments):
            count[0] += 1

    sys.addaudithook(hook)


def at_event(folder: Path, number: int, act: Callable[[], None]) -> None:
    """Call ``act`` at the operation of that number, from 1, on files below a folder, before it is made."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (event == "open" or event in EVENTS) and writes_to(folder, event, arguments):
            count[0] += 1
            if count[0] == number:
                act()

    sys.addaudithook(hook)


def kill_after_checkpoint(folder: Path) -> None:
    """Kill -9 at the first operation on files below a folder after a checkpoint was put in its place."""
    written = [False]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" and event not in EVENTS:
            return
        if written[0] and writes_to(folder, event, arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        written[0] |= event == "os.rename" and str(arguments[1]).endswith("checkpoint.safetensors")

    sys.addaudithook(hook)


def again(campaign: Campaign, command: Command, unharmed: Unharmed) -> None:
    """Run a command once more after a fault: it must succeed with the unharmed numbers, or find them there."""
    finished: Finished = campaign.start(command).wait()
    complete = command.state(campaign.case, "") == unharmed.after
    if command.once and complete and finished.code == 2 and any(text in finished.err for text in ALREADY):
        return
    if finished.code != unharmed.code:
        raise WrongError(f"the next call ends with {finished.code}: {finished.err[-700:]}")
    found = command.numbers(campaign.case, finished.out)
    if found != unharmed.numbers:
        different = sorted(
            key for key in found.keys() | unharmed.numbers.keys() if found.get(key) != unharmed.numbers.get(key)
        )
        raise WrongError(f"the next call gives other numbers: {', '.join(different)}")
