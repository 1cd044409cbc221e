"""What operators do to alarms, from forms and from the API."""

from __future__ import annotations

from typing import Literal

from nearfar.watch.alarm import (
    Acknowledge,
    Action,
    AlarmRule,
    RemoveFromService,
    Reset,
    ReturnToService,
    Shelve,
    Unshelve,
)
from nearfar.watch.events import AlarmTransition
from nearfar.web.access import Session
from nearfar.web.site import Site

ActionName = Literal["acknowledge", "reset", "shelve", "unshelve", "remove", "return"]

_SIMPLE: dict[ActionName, Action] = {
    "acknowledge": Acknowledge(),
    "reset": Reset(),
    "unshelve": Unshelve(),
    "remove": RemoveFromService(),
    "return": ReturnToService(),
}


def rule_of(site: Site, machine: str) -> AlarmRule:
    """The alarm rule of a machine; of one that is no longer configured that of all."""
    return site.config.rule(machine) if machine in site.config.machines else site.config.alarm


def operate(
    site: Site,
    session: Session,
    machine: str,
    action: ActionName,
    *,
    comment: str = "",
    hours: float = 0.0,
    one_shot: bool = False,
) -> tuple[AlarmTransition, ...]:
    """Apply an operator's action to a machine's alarm; ``hours`` and ``one_shot`` are of shelving.

    Raises:
        InputError: if it does not fit the status, or there is no such machine.
    """
    chosen = Shelve(hours, one_shot) if action == "shelve" else _SIMPLE[action]
    rule, text = rule_of(site, machine), comment.strip()
    return site.memory.act(machine, chosen, rule, by=session.name, comment=text, time_s=site.clock())
