"""Thinning of old windows: summaries of ten minutes, then of an hour, and nothing after that.

Alarms, their transitions, notes and versions of detectors are kept for ever; which recordings were taken, as
long as summaries of an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update
from sqlalchemy.sql import Select

from nearfar.watch.memory.schema import SLOT_S, STREAMS, SUMMARIES, WINDOWS

DAY_S = 86_400.0
SLOTS_OF_AN_HOUR = 6


@dataclass(frozen=True, slots=True)
class Ages:
    """From which age on windows are summaries of ten minutes, of an hour, and gone; in days."""

    windows_days: float
    ten_minutes_days: float
    hours_days: float


def thin(connection: Connection, now_s: float, ages: Ages) -> None:
    """Thin what is old, in whole slots and hours."""
    before = _slot(now_s - ages.windows_days * DAY_S)
    old = WINDOWS.c.slot < before
    of_windows = select(
        WINDOWS.c.machine,
        WINDOWS.c.slot,
        func.count(),
        func.count(WINDOWS.c.level),
        func.count().filter(WINDOWS.c.anomalous),
        func.min(WINDOWS.c.level),
        func.sum(WINDOWS.c.level),
        func.max(WINDOWS.c.level),
    )
    _summarise(connection, of_windows.where(old).group_by(WINDOWS.c.machine, WINDOWS.c.slot), 1)
    connection.execute(delete(WINDOWS).where(old))

    before = _slot(now_s - ages.ten_minutes_days * DAY_S) // SLOTS_OF_AN_HOUR * SLOTS_OF_AN_HOUR
    table = SUMMARIES.c
    old = and_(table.slots == 1, table.slot < before)
    hour = (table.slot - table.slot % SLOTS_OF_AN_HOUR).label("hour")
    of_summaries = select(
        table.machine,
        hour,
        func.sum(table.windows),
        func.sum(table.compared),
        func.sum(table.anomalous),
        func.min(table.lowest),
        func.sum(table.total),
        func.max(table.highest),
    )
    _summarise(connection, of_summaries.where(old).group_by(table.machine, hour), SLOTS_OF_AN_HOUR)
    connection.execute(delete(SUMMARIES).where(old))

    gone_s = now_s - ages.hours_days * DAY_S
    connection.execute(delete(SUMMARIES).where(table.slots == SLOTS_OF_AN_HOUR, table.slot < _slot(gone_s)))
    connection.execute(delete(STREAMS).where(STREAMS.c.finished, STREAMS.c.taken_s < gone_s))


def _slot(time_s: float) -> int:
    return int(time_s // SLOT_S)


def _summarise(connection: Connection, query: Select[Any], slots: int) -> None:
    """Add summaries, each to the one that is there already: old recordings may come late."""
    for row in connection.execute(query).all():
        _add(connection, row, slots)


def _add(connection: Connection, row: Sequence[Any], slots: int) -> None:
    machine, slot, windows, compared, anomalous, lowest, total, highest = row
    table = SUMMARIES.c
    own = and_(table.machine == machine, table.slots == slots, table.slot == slot)
    known = connection.execute(select(SUMMARIES).where(own)).mappings().first()
    if known is None:
        connection.execute(
            insert(SUMMARIES).values(
                machine=machine,
                slots=slots,
                slot=slot,
                windows=windows,
                compared=compared,
                anomalous=anomalous,
                lowest=lowest,
                total=total,
                highest=highest,
            )
        )
        return
    connection.execute(
        update(SUMMARIES)
        .where(own)
        .values(
            windows=known["windows"] + windows,
            compared=known["compared"] + compared,
            anomalous=known["anomalous"] + anomalous,
            lowest=_both(min, known["lowest"], lowest),
            total=_both(add, known["total"], total),
            highest=_both(max, known["highest"], highest),
        )
    )


def _both(join: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    """Two numbers joined; of one that is missing the other."""
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)
