"""Connections to the database: SQLite in WAL mode or PostgreSQL, with one writer at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nearfar.errors import InputError, NearfarError

BUSY_S = 10.0
"""How long a transaction waits for another one, in seconds."""

_LOCK = 7_305_831_640_019
"""The number of the advisory lock of PostgreSQL that one writer holds."""


class MemoryUnavailableError(NearfarError):
    """The database cannot be used now: a full disk, a lock, a server that is gone. Nothing was changed."""


class Database:
    """A database, by the path of an SQLite file or a URL of SQLAlchemy.

    Raises:
        InputError: if there is no such database, or it is of another kind.
    """

    def __init__(self, url: str) -> None:
        self.where = url
        is_url = "://" in url
        if not is_url:
            Path(url).absolute().parent.mkdir(parents=True, exist_ok=True)
        address = url.replace("postgresql://", "postgresql+psycopg://", 1) if is_url else f"sqlite:///{url}"
        try:
            self._engine = create_engine(address, **({} if is_url else _SQLITE))
        except (SQLAlchemyError, ImportError) as error:
            raise InputError(
                "memory",
                found=f"{url}, which cannot be used ({error})",
                expected="the path of an SQLite file, or postgresql://user@host/database and its driver",
                remedy="Correct it",
            ) from None
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads one state of the database."""
        with self._errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: all of it or, after an error, nothing. Writers wait for one another.

        Raises:
            MemoryUnavailableError: if the database cannot be written; nothing was changed.
        """
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                if self._engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise InputError(
                self.where,
                found=f"a window that is there already ({error.orig})",
                expected="one watch at a time for each memory",
                remedy="Stop the other one, or name another memory",
            ) from error
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(cause, sqlite3.DatabaseError) and "not a database" in str(cause):
                raise InputError(
                    self.where,
                    found="a file that is no SQLite database",
                    expected="the memory of a watch, or no file",
                    remedy="Name another file (memory)",
                ) from None
            raise MemoryUnavailableError(
                f"{self.where}: the memory cannot be used now ({cause}). Free space on the disk, "
                "or start the database; nothing is lost meanwhile but sound that nobody can keep."
            ) from error


_SQLITE: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": 4,
    "max_overflow": 12,
    "connect_args": {"timeout": BUSY_S, "check_same_thread": False},
}


def _prepare_sqlite(engine: Engine) -> None:
    """Write-ahead log, waiting for locks, and transactions that lock for writing from their first statement on."""

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_S)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
