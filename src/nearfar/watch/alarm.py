"""The life cycle of a machine's alarm, as a function of a state and an input: no clock, no files.

States and terms are those of ISA-18.2 (IEC 62682) and OPC UA Part 9. The *condition* is active after ``count`` of
the last ``of`` windows reached ``raise_level`` (on-delay), and no longer after ``clear_count`` successive windows
below ``clear_level`` (off-delay, hysteresis). The *status* is shown to an operator: it follows from the condition
and the operator's actions by :data:`ALLOWED`.

Levels are scores relative to the threshold: 0 is the median of normal recordings, 1 the threshold.

While a machine is off, windows count neither for nor against the condition. An alarm that was raised before stays
as it is: a machine that is stopped because of a fault must not lose the alarm of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import model_validator

from nearfar.errors import InputError
from nearfar.settings import PositiveFloat, PositiveInt, Settings, refusal


class Status(StrEnum):
    """The status of an alarm, as ISA-18.2 names them."""

    NORMAL = "normal"
    UNACKNOWLEDGED = "unacknowledged"
    """Active, and nobody has acknowledged it."""
    ACKNOWLEDGED = "acknowledged"
    """Active and acknowledged."""
    RETURNED = "returned unacknowledged"
    """No longer active before anybody acknowledged it."""
    LATCHED_UNACKNOWLEDGED = "latched unacknowledged"
    """No longer active, and kept until it is acknowledged and reset."""
    LATCHED_ACKNOWLEDGED = "latched acknowledged"
    SHELVED = "shelved"
    """Put aside by an operator for a time."""
    SUPPRESSED = "suppressed"
    """The machine is off."""
    OUT_OF_SERVICE = "out of service"


OPEN = (
    Status.UNACKNOWLEDGED,
    Status.ACKNOWLEDGED,
    Status.RETURNED,
    Status.LATCHED_UNACKNOWLEDGED,
    Status.LATCHED_ACKNOWLEDGED,
)
"""The statuses of an alarm that has been raised and not dealt with."""


class AlarmCause(StrEnum):
    """What makes a transition."""

    RAISED = "raised"
    CLEARED = "cleared"
    ACKNOWLEDGED = "acknowledged"
    RESET = "reset"
    RE_ALARM = "re-alarm"
    SHELVED = "shelved"
    UNSHELVED = "unshelved"
    SHELVING_ENDED = "shelving ended"
    REMOVED = "removed from service"
    RETURNED = "returned to service"
    SWITCHED_OFF = "machine off"
    SWITCHED_ON = "machine on"


class AlarmRule(Settings):
    """When an alarm is raised and cleared; ``[alarm]`` of a configuration, or of one machine in it."""

    raise_level: PositiveFloat = 3.0
    """The level that windows must reach. Thresholds are for single recordings; a month has many sessions."""
    count: PositiveInt = 15
    of: PositiveInt = 20
    """The alarm is raised when ``count`` of the last ``of`` windows reached the level (on-delay)."""
    clear_level: float = 0.7
    clear_count: PositiveInt = 60
    """It is cleared after so many successive windows below ``clear_level`` (off-delay)."""
    latching: bool = False
    """Whether an alarm that has cleared stays until it is acknowledged and reset."""
    re_alarm_minutes: PositiveFloat | None = None
    """An acknowledged alarm that is still active after this time is unacknowledged again; None is never."""
    longest_shelving_hours: PositiveFloat = 24.0
    off_below_db: float | None = None
    """The machine is off where the near channel is below so many dB relative to full scale; None is never."""

    @model_validator(mode="after")
    def _check(self) -> AlarmRule:
        if self.count > self.of:
            raise refusal("count", self.count, f"at most of = {self.of}")
        if self.clear_level > self.raise_level:
            raise refusal("clear_level", self.clear_level, f"at most raise_level = {self.raise_level:g}")
        return self


@dataclass(frozen=True, slots=True)
class WindowInput:
    """A window of sound.

    Attributes:
        level: its score relative to the threshold; None where it cannot be compared with normal recordings.
        level_db: of the near channel, relative to full scale.
    """

    level: float | None
    level_db: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """An operator has taken notice of the alarm."""


@dataclass(frozen=True, slots=True)
class Reset:
    """An operator resets a latched alarm."""


@dataclass(frozen=True, slots=True)
class Shelve:
    """An operator puts the alarm aside for a time; ``one_shot``: or until the condition clears."""

    hours: float
    one_shot: bool = False


@dataclass(frozen=True, slots=True)
class Unshelve:
    """An operator ends shelving."""


@dataclass(frozen=True, slots=True)
class RemoveFromService:
    """An operator takes the machine, or its microphones, out of service."""


@dataclass(frozen=True, slots=True)
class ReturnToService:
    """An operator puts the machine back into service."""


@dataclass(frozen=True, slots=True)
class Running:
    """An external signal says whether the machine is running."""

    running: bool


Action = Acknowledge | Reset | Shelve | Unshelve | RemoveFromService | ReturnToService | Running
"""What an operator, or a signal from outside, can do to an alarm."""

Input = WindowInput | Tick | Action


@dataclass(frozen=True, slots=True)
class AlarmState:
    """All that the next step depends on.

    Attributes:
        status: as shown to an operator.
        active: whether the condition is active.
        recent: whether each of the last windows reached the level that raises the alarm.
        below: how many successive windows were below the level that clears it.
        signalled_off: whether a signal from outside says that the machine is off.
        measured_off: whether the last window is below the level of a machine that is off.
        shelved_left_s: how long shelving lasts from ``time_s``; None while it is not shelved.
        one_shot: whether shelving ends when the condition clears.
        re_alarm_left_s: how long until an acknowledged alarm is unacknowledged again; None without.
        time_s: of the last step, in seconds since 1970; None before the first.
    """

    status: Status = Status.NORMAL
    active: bool = False
    recent: tuple[bool, ...] = ()
    below: int = 0
    signalled_off: bool = False
    measured_off: bool = False
    shelved_left_s: float | None = None
    one_shot: bool = False
    re_alarm_left_s: float | None = None
    time_s: float | None = None

    @property
    def off(self) -> bool:
        """Whether the machine is off."""
        return self.signalled_off or self.measured_off


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of status."""

    before: Status
    after: Status
    cause: AlarmCause


_ANY_BUT_OUT = tuple(status for status in Status if status is not Status.OUT_OF_SERVICE)
_RESTING = (Status.NORMAL, Status.SUPPRESSED)

ALLOWED: dict[AlarmCause, dict[Status, tuple[Status, ...]]] = {
    AlarmCause.RAISED: {
        Status.NORMAL: (Status.UNACKNOWLEDGED,),
        Status.RETURNED: (Status.UNACKNOWLEDGED,),
        Status.LATCHED_UNACKNOWLEDGED: (Status.UNACKNOWLEDGED,),
        Status.LATCHED_ACKNOWLEDGED: (Status.UNACKNOWLEDGED,),
    },
    AlarmCause.CLEARED: {
        Status.UNACKNOWLEDGED: (Status.RETURNED, Status.LATCHED_UNACKNOWLEDGED),
        Status.ACKNOWLEDGED: (Status.NORMAL, Status.LATCHED_ACKNOWLEDGED),
    },
    AlarmCause.ACKNOWLEDGED: {
        Status.UNACKNOWLEDGED: (Status.ACKNOWLEDGED,),
        Status.RETURNED: _RESTING,
        Status.LATCHED_UNACKNOWLEDGED: (Status.LATCHED_ACKNOWLEDGED,),
    },
    AlarmCause.RESET: {Status.LATCHED_ACKNOWLEDGED: _RESTING},
    AlarmCause.RE_ALARM: {Status.ACKNOWLEDGED: (Status.UNACKNOWLEDGED,)},
    AlarmCause.SHELVED: dict.fromkeys(_ANY_BUT_OUT, (Status.SHELVED,)),
    AlarmCause.UNSHELVED: {Status.SHELVED: (*_RESTING, Status.UNACKNOWLEDGED)},
    AlarmCause.SHELVING_ENDED: {Status.SHELVED: (*_RESTING, Status.UNACKNOWLEDGED)},
    AlarmCause.REMOVED: dict.fromkeys(_ANY_BUT_OUT, (Status.OUT_OF_SERVICE,)),
    AlarmCause.RETURNED: {Status.OUT_OF_SERVICE: _RESTING},
    AlarmCause.SWITCHED_OFF: {Status.NORMAL: (Status.SUPPRESSED,)},
    AlarmCause.SWITCHED_ON: {Status.SUPPRESSED: (Status.NORMAL,)},
}
"""Every transition that exists: the statuses that each cause can lead to, by the status before."""

Stepped = tuple[AlarmState, tuple[Transition, ...]]


def step(state: AlarmState, given: Input, time_s: float, rule: AlarmRule) -> Stepped:
    """The next state, and the transitions to it in order.

    Args:
        state: before.
        given: what happens.
        time_s: when, in seconds since 1970. A clock that is set back stops timers for one step.
        rule: of the machine.

    Raises:
        InputError: if an operator's action does not fit the status.
    """
    state, transitions = _elapsed(state, time_s, rule)
    changed, more = _applied(state, given, rule)
    return changed, transitions + more


def actions(state: AlarmState) -> tuple[type[Action], ...]:
    """The operator's actions that fit the status."""
    return tuple(action for action, cause in _CAUSES.items() if state.status in ALLOWED[cause])


def _applied(state: AlarmState, given: Input, rule: AlarmRule) -> Stepped:
    match given:
        case WindowInput():
            return _window(state, given, rule)
        case Tick():
            return state, ()
        case Running():
            return _switched(replace(state, signalled_off=not given.running), rule)
        case Acknowledge():
            return _acknowledge(state, given, rule)
        case Reset():
            return _reset(state, given, rule)
        case Shelve():
            return _shelve(state, given, rule)
        case Unshelve():
            return _unshelve(state, given, rule)
        case RemoveFromService():
            return _remove(state, given, rule)
        case ReturnToService():
            return _return(state, given, rule)


def _elapsed(state: AlarmState, time_s: float, rule: AlarmRule) -> Stepped:
    """The state at a later time: timers run, and those that end have their effect."""
    passed = 0.0 if state.time_s is None else max(0.0, time_s - state.time_s)
    state = replace(state, time_s=time_s)
    if state.shelved_left_s is not None:
        state = replace(state, shelved_left_s=state.shelved_left_s - passed)
        if state.shelved_left_s is not None and state.shelved_left_s <= 0:
            return _to(state, _resting(state), AlarmCause.SHELVING_ENDED, rule)
    elif state.re_alarm_left_s is not None:
        state = replace(state, re_alarm_left_s=state.re_alarm_left_s - passed)
        if state.re_alarm_left_s is not None and state.re_alarm_left_s <= 0:
            return _to(state, Status.UNACKNOWLEDGED, AlarmCause.RE_ALARM, rule)
    return state, ()


def _to(state: AlarmState, status: Status, cause: AlarmCause, rule: AlarmRule) -> Stepped:
    """The state with another status and the timers that belong to it."""
    transition = Transition(state.status, status, cause)
    re_alarm = None
    if status is Status.ACKNOWLEDGED and rule.re_alarm_minutes is not None:
        re_alarm = 60 * rule.re_alarm_minutes
    shelved = status is Status.SHELVED
    changed = replace(
        state,
        status=status,
        re_alarm_left_s=re_alarm,
        shelved_left_s=state.shelved_left_s if shelved else None,
        one_shot=shelved and state.one_shot,
    )
    return changed, (transition,)


def _resting(state: AlarmState) -> Status:
    """The status of an alarm that nobody has put aside."""
    if state.active:
        return Status.UNACKNOWLEDGED
    return Status.SUPPRESSED if state.off else Status.NORMAL


def _window(state: AlarmState, given: WindowInput, rule: AlarmRule) -> Stepped:
    off = rule.off_below_db is not None and given.level_db < rule.off_below_db
    state, switched = _switched(replace(state, measured_off=off), rule)
    if state.off or state.status is Status.OUT_OF_SERVICE or given.level is None:
        return state, switched
    state = replace(
        state,
        recent=(*state.recent, given.level >= rule.raise_level)[-rule.of :],
        below=state.below + 1 if given.level < rule.clear_level else 0,
    )
    if not state.active and sum(state.recent) >= rule.count:
        state, changed = _raised(replace(state, active=True), rule)
    elif state.active and state.below >= rule.clear_count:
        state, changed = _cleared(replace(state, active=False, recent=()), rule)
    else:
        changed = ()
    return state, switched + changed


def _raised(state: AlarmState, rule: AlarmRule) -> Stepped:
    if state.status in ALLOWED[AlarmCause.RAISED]:
        return _to(state, Status.UNACKNOWLEDGED, AlarmCause.RAISED, rule)
    return state, ()


def _cleared(state: AlarmState, rule: AlarmRule) -> Stepped:
    if state.status is Status.UNACKNOWLEDGED:
        after = Status.LATCHED_UNACKNOWLEDGED if rule.latching else Status.RETURNED
        return _to(state, after, AlarmCause.CLEARED, rule)
    if state.status is Status.ACKNOWLEDGED:
        after = Status.LATCHED_ACKNOWLEDGED if rule.latching else Status.NORMAL
        return _to(state, after, AlarmCause.CLEARED, rule)
    if state.status is Status.SHELVED and state.one_shot:
        return _to(state, _resting(state), AlarmCause.SHELVING_ENDED, rule)
    return state, ()


def _switched(state: AlarmState, rule: AlarmRule) -> Stepped:
    """The state after the machine may have been switched off or on; what came before no longer counts."""
    if state.off:
        state = replace(state, recent=(), below=0)
        if state.status is Status.NORMAL:
            return _to(state, Status.SUPPRESSED, AlarmCause.SWITCHED_OFF, rule)
    elif state.status is Status.SUPPRESSED:
        return _to(state, Status.NORMAL, AlarmCause.SWITCHED_ON, rule)
    return state, ()


def _acknowledge(state: AlarmState, given: Acknowledge, rule: AlarmRule) -> Stepped:
    _require(state, given)
    after = {
        Status.UNACKNOWLEDGED: Status.ACKNOWLEDGED,
        Status.LATCHED_UNACKNOWLEDGED: Status.LATCHED_ACKNOWLEDGED,
    }.get(state.status, _resting(state))
    return _to(state, after, AlarmCause.ACKNOWLEDGED, rule)


def _reset(state: AlarmState, given: Reset, rule: AlarmRule) -> Stepped:
    _require(state, given)
    return _to(state, _resting(state), AlarmCause.RESET, rule)


def _shelve(state: AlarmState, given: Shelve, rule: AlarmRule) -> Stepped:
    _require(state, given)
    if not 0 < given.hours <= rule.longest_shelving_hours:
        raise InputError(
            "shelving",
            found=f"{given.hours:g} hours",
            expected=f"more than 0 and at most {rule.longest_shelving_hours:g} hours",
            remedy="Shelve it for less, or take the machine out of service",
        )
    shelved = replace(state, shelved_left_s=3600 * given.hours, one_shot=given.one_shot)
    return _to(shelved, Status.SHELVED, AlarmCause.SHELVED, rule)


def _unshelve(state: AlarmState, given: Unshelve, rule: AlarmRule) -> Stepped:
    _require(state, given)
    return _to(state, _resting(state), AlarmCause.UNSHELVED, rule)


def _remove(state: AlarmState, given: RemoveFromService, rule: AlarmRule) -> Stepped:
    _require(state, given)
    return _to(replace(state, active=False, recent=(), below=0), Status.OUT_OF_SERVICE, AlarmCause.REMOVED, rule)


def _return(state: AlarmState, given: ReturnToService, rule: AlarmRule) -> Stepped:
    _require(state, given)
    return _to(state, _resting(state), AlarmCause.RETURNED, rule)


def _require(state: AlarmState, given: Action) -> None:
    """Raise an InputError if an operator's action does not fit the status."""
    possible = ALLOWED[_CAUSES[type(given)]]
    if state.status not in possible:
        raise InputError(
            "alarm",
            found=f"the status {state.status.value!r}",
            expected=" or ".join(repr(status.value) for status in possible),
            remedy="Reload the page, and act on the status it shows",
        )


_CAUSES: dict[type[Action], AlarmCause] = {
    Acknowledge: AlarmCause.ACKNOWLEDGED,
    Reset: AlarmCause.RESET,
    Shelve: AlarmCause.SHELVED,
    Unshelve: AlarmCause.UNSHELVED,
    RemoveFromService: AlarmCause.REMOVED,
    ReturnToService: AlarmCause.RETURNED,
}
