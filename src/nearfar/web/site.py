"""What all pages and the API need: configuration, memory, feedback, access and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.watch.config import WatchConfig
from nearfar.watch.memory import Memory
from nearfar.web.access import Access, Role, Token, require_tokens

if TYPE_CHECKING:
    from nearfar.watch.feedback import Feedback


def local_zone() -> tzinfo:
    """The time zone of this computer."""
    zone = datetime.now().astimezone().tzinfo
    assert zone is not None
    return zone


@dataclass(frozen=True, kw_only=True)
class Site:
    """One watch and its pages.

    Attributes:
        config: its configuration.
        memory: what it keeps.
        access: tokens and sessions.
        base: the folder that paths of the configuration are relative to.
        feedback: on the alarms of machines, by name; machines without have no buttons for it.
        clock: seconds since 1970, also those of a simulation.
        zone: of times on pages.
        note: a line on all pages, such as that everything is simulated; empty for none.
    """

    config: WatchConfig
    memory: Memory
    access: Access
    base: Path = Path()
    feedback: Mapping[str, Feedback] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    zone: tzinfo = field(default_factory=local_zone)
    note: str = ""

    def feedback_on(self, machine: str) -> Feedback:
        """The feedback on a machine.

        Raises:
            InputError: if its detector cannot be changed from here.
        """
        if machine not in self.feedback:
            raise InputError(
                "machine",
                found=repr(machine),
                expected="a machine of the configuration whose detector can be changed",
                remedy="Use nearfar add",
            )
        return self.feedback[machine]

    def detector(self, machine: str) -> Path | None:
        """The folder of a machine's detector; None of one that is no longer configured."""
        table = self.config.machines.get(machine)
        return None if table is None else self.base / table.detector


def make_site(
    config: WatchConfig, base: Path, memory: Memory, *, clock: Callable[[], float] = time.time, note: str = ""
) -> Site:
    """The site of a watch, with feedback on all its machines; sound of feedback is kept in ``base / feedback``.

    Raises:
        InputError: as :func:`access_of`.
    """
    from nearfar.watch.feedback import Feedback

    require_extras("the pages", "report")
    feedback = {
        name: Feedback(memory, name, base / table.detector, base / "feedback", table.machine, clock=clock)
        for name, table in config.machines.items()
    }
    return Site(
        config=config,
        memory=memory,
        access=access_of(config),
        base=base,
        feedback=feedback,
        clock=clock,
        note=note,
    )


def access_of(config: WatchConfig) -> Access:
    """The tokens of a configuration.

    Raises:
        InputError: if there are none and other computers reach the address.
    """
    assert config.page is not None
    tokens = [Token(name, Role.of(entry.role), entry.sha256) for name, entry in config.page.tokens.items()]
    require_tokens(config.page.host, tokens)
    return Access(tokens)
