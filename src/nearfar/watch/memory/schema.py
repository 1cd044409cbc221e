"""The tables of the memory, and the steps from each version of them to the next.

A database says in ``schema_version`` which version it has. A new version is a function at the end of
:data:`STEPS`; steps that have been released never change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    inspect,
)

from nearfar.errors import InputError

METADATA = MetaData()

# SQLite counts only columns of the type INTEGER by itself.
_Number = BigInteger().with_variant(Integer, "sqlite")
_Time = Float(53)

SCHEMA_VERSION = Table("schema_version", METADATA, Column("version", Integer, nullable=False))

MACHINES = Table(
    "machines",
    METADATA,
    Column("machine", String, primary_key=True),
    Column("alarm", _Number),
    Column("state", JSON, nullable=False),
    Column("evidence", JSON),
    Column("health", String, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("health_state", JSON, nullable=False),
    Column("drift", String),
    Column("last", JSON),
    Column("windows", _Number, nullable=False),
    Column("version", String, nullable=False),
)
"""One row a machine: all that the next window depends on. ``evidence`` is of the window that made the condition
active."""

STREAMS = Table(
    "streams",
    METADATA,
    Column("machine", String, primary_key=True),
    Column("stream", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    Column("taken_s", _Time, nullable=False),
    Column("next", BigInteger, nullable=False),
    Column("finished", Boolean, nullable=False),
    Index("streams_by_name", "machine", "name"),
)
"""Recordings and continuous sound, by the SHA-256 of a file or the start of a stream, and how far each is scored:
``next`` is the first sample of the next window."""

WINDOWS = Table(
    "windows",
    METADATA,
    Column("machine", String, primary_key=True),
    Column("number", _Number, primary_key=True),
    Column("stream", String, nullable=False),
    Column("begin", BigInteger, nullable=False),
    Column("begin_s", _Time, nullable=False),
    Column("seconds", _Time, nullable=False),
    Column("slot", BigInteger, nullable=False),
    Column("score", _Time),
    Column("threshold", _Time),
    Column("level", _Time),
    Column("anomalous", Boolean),
    Column("checks", String, nullable=False),
    UniqueConstraint("machine", "stream", "begin"),
    Index("windows_by_time", "machine", "begin_s"),
    Index("windows_by_slot", "slot"),
)
"""``slot`` is the number of the ten minutes since 1970 in which the window begins."""

SUMMARIES = Table(
    "summaries",
    METADATA,
    Column("machine", String, primary_key=True),
    Column("slots", Integer, primary_key=True),
    Column("slot", BigInteger, primary_key=True),
    Column("windows", Integer, nullable=False),
    Column("compared", Integer, nullable=False),
    Column("anomalous", Integer, nullable=False),
    Column("lowest", _Time),
    Column("total", _Time),
    Column("highest", _Time),
    Index("summaries_by_slot", "slots", "slot"),
)
"""Windows of ``slots`` successive slots, from ``slot`` on; ``total`` is the sum of their levels."""

ALARMS = Table(
    "alarms",
    METADATA,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("machine", String, nullable=False),
    Column("status", String, nullable=False),
    Column("raised_s", _Time, nullable=False),
    Column("closed_s", _Time),
    Column("acknowledged_s", _Time),
    Column("acknowledged_by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("score", JSON, nullable=False),
    Column("level", _Time, nullable=False),
    Column("highest_level", _Time, nullable=False),
    Column("version", String, nullable=False),
    Column("audio_until", _Number, nullable=False),
    Column("feedback", String),
    Index("alarms_by_time", "machine", "raised_s"),
    sqlite_autoincrement=True,
)
"""``audio_until`` is the number of the last window whose sound is kept; 0 before any is."""

AUDIO = Table(
    "audio",
    METADATA,
    Column("alarm", _Number, primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("window", _Number, nullable=False),
    Column("begin_s", _Time, nullable=False),
    Column("seconds", _Time, nullable=False),
    Column("level", _Time),
    Column("size", BigInteger, nullable=False),
    Column("flac", LargeBinary, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),
    Column("time_s", _Time, nullable=False),
    Column("machine", String, nullable=False),
    Column("alarm", _Number),
    Column("body", JSON, nullable=False),
    Index("events_by_kind", "kind", "machine", "number"),
    Index("events_by_alarm", "alarm"),
    sqlite_autoincrement=True,
)
"""All that has happened, scored windows apart; numbers are in the order of commits and are never used again."""

SINK_POSITIONS = Table(
    "sink_positions",
    METADATA,
    Column("sink", String, primary_key=True),
    Column("delivered", _Number, nullable=False),
)

SITE = Table("site", METADATA, Column("key", String, primary_key=True), Column("value", JSON, nullable=False))
"""States of the whole site, such as a flood of alarms."""

SLOT_S = 600
"""Seconds of a slot."""


def _first(connection: Connection) -> None:
    METADATA.create_all(connection)


STEPS: tuple[Callable[[Connection], None], ...] = (_first,)
"""What makes each version, from the first on, of the one before it."""


def migrate(connection: Connection, where: str, steps: Sequence[Callable[[Connection], None]] = STEPS) -> None:
    """Bring a database to the newest version, within the transaction of the connection.

    Raises:
        InputError: if a later nearfar made it.
    """
    found = 0
    if inspect(connection).has_table(SCHEMA_VERSION.name):
        found = connection.execute(SCHEMA_VERSION.select()).scalar() or 0
    if found > len(steps):
        raise InputError(
            where,
            found=f"a memory of version {found}",
            expected=f"version {len(steps)} or an earlier one",
            remedy="Use the nearfar that wrote it or a later one, or name another file (memory)",
        )
    for make in steps[found:]:
        make(connection)
    if found < len(steps):
        connection.execute(SCHEMA_VERSION.delete())
        connection.execute(SCHEMA_VERSION.insert().values(version=len(steps)))
