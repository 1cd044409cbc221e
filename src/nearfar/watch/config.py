"""The configuration of a watch: a TOML file with the machines, their sources, the rules of alarms, and sinks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from nearfar.config.validation import validated
from nearfar.errors import InputError
from nearfar.registry import Registry
from nearfar.settings import ChoiceTable, NotNegative, PositiveFloat, PositiveInt, Settings, refusal
from nearfar.watch.alarm import AlarmRule
from nearfar.watch.sinks import SINKS
from nearfar.watch.sources import AUDIO_SOURCES


class MachineTable(ChoiceTable):
    """``[machines.NAME]``: a machine, its detector and its source of sound; keys of the source are keys here."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"source": AUDIO_SOURCES}
    detector: Path
    """Folder that ``nearfar fit`` wrote."""
    machine: str | None = None
    """The machine's name in the detector; of a detector of one machine None."""
    source: str = "folder"
    near: Annotated[int, Field(ge=0)] | None = None
    """Channel of the near microphone, from 0; None is that of the detector."""
    far: Annotated[int, Field(ge=0)] | None = None
    alarm: AlarmRule | None = None
    """Rules of this machine; None is those of the file."""
    expect_every_minutes: PositiveFloat | None = None
    """A machine without sound for so long has a failure of its source; None: three windows of a live source."""


class SinkTable(ChoiceTable):
    """``[sinks.NAME]``: where events go; keys of the kind are keys here."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"kind": SINKS}
    kind: str


class FloodTable(Settings):
    """When alarms are so many that they are reported as one flood (ISA-18.2: ten in ten minutes)."""

    alarms: PositiveInt = 10
    minutes: PositiveFloat = 10.0


class KeepTable(Settings):
    """What is kept for how long."""

    windows_days: PositiveFloat = 7.0
    """Every window; then ten minutes each as one summary."""
    ten_minutes_days: PositiveFloat = 92.0
    """Then an hour each as one summary."""
    hours_days: PositiveFloat = 1830.0
    audio_bytes: PositiveInt = 2_000_000_000
    """Sound of alarms; the oldest is overwritten."""
    before_seconds: NotNegative = 30.0
    after_seconds: NotNegative = 30.0
    """Sound before the window that raises an alarm, and after it."""
    waiting_seconds: PositiveFloat = 120.0
    """So much sound of a live source may wait to be scored; what is older is missed, and said so."""


class TokenTable(Settings):
    """``[page.tokens.NAME]``: a token of the person or program of that name, as ``nearfar token`` prints it."""

    role: Literal["view", "operate", "configure"]
    """What it allows; every role includes those before it."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the token, in hex digits."""


class PagesTable(Settings):
    """``[page]``: the pages and the HTTP API."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than of this computer requires tokens."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8750
    """0 is any free one."""
    tokens: dict[str, TokenTable] = Field(default_factory=dict)
    certificate_file: Path | None = None
    key_file: Path | None = None
    """Certificate and its key, for HTTPS; behind a proxy that encrypts, none."""


class WatchConfig(Settings):
    """A configuration file."""

    name: str = "watch"
    memory: str = "watch.sqlite"
    """An SQLite file, or postgresql://..."""
    machines: dict[str, MachineTable]
    alarm: AlarmRule = AlarmRule()
    flood: FloodTable = FloodTable()
    keep: KeepTable = KeepTable()
    sinks: dict[str, SinkTable] = Field(default_factory=dict)
    page: PagesTable | None = None
    """None for no pages."""

    @field_validator("machines")
    @classmethod
    def _check_names(cls, machines: dict[str, MachineTable]) -> dict[str, MachineTable]:
        for name in machines:
            if not name.strip() or name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
                raise refusal("", name, "names of machines without slashes or a dot in front")
        return machines

    def memory_place(self, base: Path) -> str:
        """The memory: a path, relative to a folder, or an address."""
        return self.memory if "://" in self.memory else str(base / self.memory)

    def rule(self, machine: str) -> AlarmRule:
        """The alarm rule of a machine."""
        return self.machines[machine].alarm or self.alarm


def load_config(path: Path) -> WatchConfig:
    """Read a configuration; paths in it are relative to its folder.

    Raises:
        InputError: if there is no such file, a key is unknown or missing, or a value does not fit.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            path,
            found=f"no file that can be read ({error.strerror})",
            expected="a configuration of nearfar watch, in TOML",
            remedy="Check the path",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, found=f"text that is not TOML ({error})", expected="TOML", remedy="Correct the file"
        ) from None
    return checked_config(tree, str(path))


def checked_config(tree: dict[str, Any], where: str) -> WatchConfig:
    """A configuration from its tables; ``where`` is its name in errors.

    Raises:
        InputError: if a key is unknown or missing, or a value does not fit.
    """
    try:
        config = validated(WatchConfig, tree, where)
    except InputError as error:
        expected = error.expected.replace("a key of the recipe", "a key of nearfar watch")
        raise InputError(
            error.where, found=error.found, expected=expected, remedy="See docs/watch.md and correct it"
        ) from None
    if not config.machines:
        raise InputError(where, found="no machine", expected="a table [machines.NAME]", remedy="Add one")
    return config
