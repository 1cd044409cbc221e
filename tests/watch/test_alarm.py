"""The life cycle of an alarm: every transition against a table written by hand, and rules that always hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import InputError
from nearfar.watch.alarm import (
    ALLOWED,
    Acknowledge,
    AlarmRule,
    AlarmState,
    Input,
    RemoveFromService,
    Reset,
    ReturnToService,
    Running,
    Shelve,
    Status,
    Tick,
    Transition,
    Unshelve,
    WindowInput,
    actions,
    step,
)

RULE = AlarmRule(count=2, of=3, clear_count=2, raise_level=1.0, clear_level=0.7, off_below_db=-60.0)
HIGH, LOW, BETWEEN, OFF = (
    WindowInput(1.5, -20.0),
    WindowInput(0.1, -20.0),
    WindowInput(0.8, -20.0),
    WindowInput(0.1, -80.0),
)
NOT_COMPARABLE = WindowInput(None, -20.0)

# Written by hand from the alarm states of ISA-18.2: the status that follows in each status, by NAMES.
# Empty where nothing changes, "!" where the action does not fit. H H: two windows that raise the alarm, L L: two
# that clear it.
TABLE = """
     | H H | L L | ack | reset | shelve | unshelve | out | in | off | on | expire
N    | U   |     | !   | !     | S      | !        | OUT | !  | OFF |    |
U    |     | R   | A   | !     | S      | !        | OUT | !  |     |    |
A    |     | N   | !   | !     | S      | !        | OUT | !  |     |    |
R    | U   |     | N   | !     | S      | !        | OUT | !  |     |    |
LU   | U   |     | LA  | !     | S      | !        | OUT | !  |     |    |
LA   | U   |     | !   | N     | S      | !        | OUT | !  |     |    |
S    |     |     | !   | !     | S      | N        | OUT | !  |     |    | N
OFF  | U   |     | !   | !     | S      | !        | OUT | !  |     | N  |
OUT  |     |     | !   | !     | !      | !        | !   | N  |     |    |
"""
NAMES = {
    "N": Status.NORMAL,
    "U": Status.UNACKNOWLEDGED,
    "A": Status.ACKNOWLEDGED,
    "R": Status.RETURNED,
    "LU": Status.LATCHED_UNACKNOWLEDGED,
    "LA": Status.LATCHED_ACKNOWLEDGED,
    "S": Status.SHELVED,
    "OFF": Status.SUPPRESSED,
    "OUT": Status.OUT_OF_SERVICE,
}
INPUTS: dict[str, tuple[Input, ...]] = {
    "H H": (HIGH, HIGH),
    "L L": (LOW, LOW),
    "ack": (Acknowledge(),),
    "reset": (Reset(),),
    "shelve": (Shelve(2.0),),
    "unshelve": (Unshelve(),),
    "out": (RemoveFromService(),),
    "in": (ReturnToService(),),
    "off": (Running(False),),
    "on": (Running(True),),
}


def state_in(status: Status) -> AlarmState:
    """A state with that status, as it comes about."""
    active = status in (Status.UNACKNOWLEDGED, Status.ACKNOWLEDGED)
    shelved = 3600.0 if status is Status.SHELVED else None
    return AlarmState(
        status, active=active, time_s=0.0, shelved_left_s=shelved, signalled_off=status is Status.SUPPRESSED
    )


def cases() -> list[tuple[str, str, str]]:
    header, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return [(row[0], name, cell) for row in rows for name, cell in zip(header[1:], row[1:], strict=True)]


@pytest.mark.parametrize(("before", "name", "after"), cases())
def test_every_cell_of_the_table(before: str, name: str, after: str) -> None:
    state = state_in(NAMES[before])
    if name == "H H" and before == "OFF":  # by a machine that runs again
        state = replace(state, signalled_off=False)
    if name == "expire":
        state, _ = step(state, Tick(), 3601.0, RULE)
    elif after == "!":
        with pytest.raises(InputError, match=f"'{NAMES[before]}'"):
            step(state, INPUTS[name][0], 1.0, RULE)
        return
    for given_input in INPUTS.get(name, ()):
        state, _ = step(state, given_input, 1.0, RULE)
    assert state.status == NAMES[after or before]


def test_the_actions_of_a_status_are_those_without_an_error() -> None:
    kinds = {"ack": Acknowledge, "reset": Reset, "shelve": Shelve, "unshelve": Unshelve}
    kinds |= {"out": RemoveFromService, "in": ReturnToService}
    for status in Status:
        own = [(name, after) for before, name, after in cases() if NAMES[before] == status and name in kinds]
        assert set(actions(state_in(status))) == {kinds[name] for name, after in own if after != "!"}


def run(state: AlarmState, inputs: list[Input], rule: AlarmRule = RULE, seconds: float = 10.0) -> AlarmState:
    for given_input in inputs:
        state, _ = step(state, given_input, (state.time_s or 0.0) + seconds, rule)
    return state


@pytest.mark.parametrize(
    ("windows", "raised"),
    [("H", 0), ("HH", 1), ("HLH", 1), ("HLLH", 0), ("HNNNH", 1), ("HBH", 1), ("HOH", 0), ("LLLLHLLHLLH", 0)],
)
def test_k_of_n_windows_raise_the_alarm(windows: str, raised: int) -> None:
    letters = {"H": HIGH, "L": LOW, "B": BETWEEN, "N": NOT_COMPARABLE, "O": OFF}
    assert run(AlarmState(), [letters[letter] for letter in windows]).active == bool(raised)


@pytest.mark.parametrize(
    ("windows", "cleared"), [("L", 0), ("LL", 1), ("LBL", 0), ("LHL", 0), ("LNL", 1), ("LOL", 0), ("BB", 0)]
)
def test_an_alarm_clears_after_successive_low_windows(windows: str, cleared: int) -> None:
    letters = {"H": HIGH, "L": LOW, "B": BETWEEN, "N": NOT_COMPARABLE, "O": OFF}
    state = run(AlarmState(), [HIGH, HIGH, *(letters[letter] for letter in windows)])
    assert state.status == (Status.RETURNED if cleared else Status.UNACKNOWLEDGED)


def test_a_latched_alarm_stays_until_it_is_acknowledged_and_reset() -> None:
    rule = RULE.model_copy(update={"latching": True})
    state = run(AlarmState(), [HIGH, HIGH, LOW, LOW], rule)
    assert state.status is Status.LATCHED_UNACKNOWLEDGED
    assert run(state, [Acknowledge(), Reset()], rule).status is Status.NORMAL
    assert run(state, [Acknowledge(), HIGH, HIGH], rule).status is Status.UNACKNOWLEDGED


def test_an_alarm_of_a_machine_that_is_stopped_is_not_lost() -> None:
    state = run(AlarmState(), [HIGH, HIGH, *[OFF] * 50])
    assert state.status is Status.UNACKNOWLEDGED
    assert run(state, [Acknowledge(), *[OFF] * 50]).status is Status.ACKNOWLEDGED
    assert run(AlarmState(), [HIGH, HIGH, LOW, LOW, OFF, Acknowledge()]).status is Status.SUPPRESSED


def test_shelving_ends_by_itself_and_an_active_condition_raises_the_alarm_again() -> None:
    shelved = run(AlarmState(), [Shelve(1.0), HIGH, HIGH])
    assert shelved.status is Status.SHELVED
    assert shelved.active
    assert run(shelved, [Tick()], seconds=3600.0).status is Status.UNACKNOWLEDGED
    assert run(run(shelved, [LOW, LOW]), [Tick()], seconds=3600.0).status is Status.NORMAL


def test_one_shot_shelving_ends_with_the_condition() -> None:
    shelved = run(AlarmState(), [HIGH, HIGH, Shelve(20.0, one_shot=True)])
    assert run(shelved, [LOW, LOW]).status is Status.NORMAL
    assert run(run(AlarmState(), [Shelve(20.0, one_shot=True)]), [LOW] * 9).status is Status.SHELVED


@pytest.mark.parametrize("hours", [0.0, -1.0, 24.01])
def test_shelving_has_a_longest_time(hours: float) -> None:
    with pytest.raises(InputError, match="at most 24 hours"):
        step(AlarmState(), Shelve(hours), 0.0, RULE)


def test_an_acknowledged_alarm_comes_back_if_it_stays_active() -> None:
    rule = RULE.model_copy(update={"re_alarm_minutes": 30.0})
    state = run(AlarmState(), [HIGH, HIGH, Acknowledge()], rule)
    assert run(state, [HIGH], rule, 1790.0).status is Status.ACKNOWLEDGED
    assert run(state, [HIGH, HIGH], rule, 910.0).status is Status.UNACKNOWLEDGED


def test_a_clock_that_is_set_back_ends_no_timer_early_and_none_late() -> None:
    state, _ = step(AlarmState(), Shelve(1.0), 100_000.0, RULE)
    state, _ = step(state, Tick(), 100_000.0 - 7200.0, RULE)  # two hours back
    state, _ = step(state, Tick(), 100_000.0 - 7200.0 + 3590.0, RULE)
    assert state.status is Status.SHELVED
    state, _ = step(state, Tick(), 100_000.0 - 7200.0 + 3601.0, RULE)
    assert state.status is Status.NORMAL


def test_out_of_service_begins_anew() -> None:
    state = run(AlarmState(), [HIGH, HIGH, RemoveFromService(), HIGH, HIGH, HIGH])
    assert state.status is Status.OUT_OF_SERVICE
    state = run(state, [ReturnToService()])
    assert state.status is Status.NORMAL
    assert run(state, [HIGH]).status is Status.NORMAL


inputs = st.one_of(
    st.builds(
        WindowInput, st.one_of(st.none(), st.sampled_from([0.0, 0.8, 2.0])), st.sampled_from([-20.0, -80.0])
    ),
    st.builds(Shelve, st.sampled_from([0.01, 1.0]), st.booleans()),
    st.builds(Running, st.booleans()),
    st.sampled_from([Tick(), Acknowledge(), Reset(), Unshelve(), RemoveFromService(), ReturnToService()]),
)
rules = st.builds(
    AlarmRule,
    count=st.integers(1, 3),
    of=st.integers(3, 5),
    clear_count=st.integers(1, 3),
    latching=st.booleans(),
    re_alarm_minutes=st.sampled_from([None, 1.0]),
    off_below_db=st.sampled_from([None, -60.0]),
)
moves = st.lists(st.tuples(inputs, st.floats(-100.0, 2000.0)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(moves, rules)
def test_whatever_happens_only_allowed_transitions_are_made(
    given_moves: list[tuple[Input, float]], rule: AlarmRule
) -> None:
    state, now_s, open_alarm = AlarmState(), 1e9, False
    for given_input, passed_s in given_moves:
        now_s += passed_s
        before = state
        try:
            state, made = step(before, given_input, now_s, rule)
        except InputError:
            assert (
                type(given_input) not in actions(before)
                or isinstance(given_input, Shelve)
                or timer_ended(before, now_s)
            )
            continue
        check_chain(before, state, made)
        check_invariants(state, rule)
        for transition in made:
            if transition.after is Status.UNACKNOWLEDGED:
                open_alarm = True
            if transition.after in (Status.NORMAL, Status.SUPPRESSED, Status.OUT_OF_SERVICE):
                open_alarm = False
        if state.status in (Status.UNACKNOWLEDGED, Status.ACKNOWLEDGED, Status.RETURNED):
            assert open_alarm


def timer_ended(state: AlarmState, now_s: float) -> bool:
    """Whether a timer of the state has ended by then, so that the action came too late."""
    passed = max(0.0, now_s - (state.time_s or now_s))
    return any(left is not None and left <= passed for left in (state.shelved_left_s, state.re_alarm_left_s))


def check_chain(before: AlarmState, after: AlarmState, made: tuple[Transition, ...]) -> None:
    status = before.status
    for transition in made:
        assert transition.before is status
        assert transition.after in ALLOWED[transition.cause][status]
        status = transition.after
    assert status is after.status


def check_invariants(state: AlarmState, rule: AlarmRule) -> None:
    assert (state.shelved_left_s is not None) == (state.status is Status.SHELVED)
    assert state.re_alarm_left_s is None or state.status is Status.ACKNOWLEDGED
    assert len(state.recent) <= rule.of
    if state.status in (Status.UNACKNOWLEDGED, Status.ACKNOWLEDGED):
        assert state.active
    if state.status in (Status.NORMAL, Status.RETURNED, Status.SUPPRESSED, Status.OUT_OF_SERVICE):
        assert not state.active
    if state.status is Status.NORMAL:
        assert not state.off
    if state.status is Status.SUPPRESSED:
        assert state.off


def test_the_rule_of_k_of_n_is_checked() -> None:
    with pytest.raises(ValueError, match="at most of = 20"):
        AlarmRule(count=21)
    with pytest.raises(ValueError, match="at most raise_level"):
        AlarmRule(clear_level=3.5)
