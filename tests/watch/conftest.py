"""A detector of tiny recordings, a memory, and a PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.watch.sounds import machine_sound, write_sound

from nearfar import Detector, load_recipe
from nearfar.watch.memory import Memory


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of one machine, ``mill``, fitted on 24 recordings of a second."""
    root = tmp_path_factory.mktemp("watched")
    for number in range(24):
        write_sound(root / "mill" / f"{number:02d}.wav", machine_sound(number))
    recipe = load_recipe("frozen-near").with_changes(**{"calibration.group_by": "recording"})
    Detector.fit(root / "mill", recipe, machine="mill").save(root / "mill.detector")
    return root / "mill.detector"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    opened = Memory.open(tmp_path / "memory.sqlite")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server without the database's name; started from Debian's package."""
    installed = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    found = installed or shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder, user = Path(found).resolve().parent, "postgres"
    # A server refuses to be root's, and whoever it is instead must reach its folder.
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    data = Path(tempfile.mkdtemp(prefix="nearfar-postgresql-"))
    os.chown(data, owner.pw_uid, owner.pw_gid)
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    options = {**as_owner, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    server = None
    try:
        subprocess.run([found, "-D", data, "-U", user, "-A", "trust", "--no-sync"], check=True, **options)
        port = free_port()
        command = [folder / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", data, "-F"]
        server = subprocess.Popen(command, **options)
        end = time.monotonic() + 60
        while subprocess.run([folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], **options).returncode:
            assert time.monotonic() < end, "the server does not answer"
            assert server.poll() is None, "the server has ended"
            time.sleep(0.1)
        yield f"postgresql://{user}@127.0.0.1:{port}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)
            server.wait(30)
        shutil.rmtree(data, ignore_errors=True)


def free_port() -> int:
    """A port of this computer that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def postgresql_database(postgresql: str) -> str:
    """The URL of a new database."""
    import psycopg

    name = f"watch_{time.time_ns()}"
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return f"{postgresql}/{name}"
