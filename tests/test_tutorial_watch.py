"""Every command of the tutorial about watching, run in an empty folder; docs/watch.md against the code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import tomli_w
from tests.documentation import page

from nearfar.settings import Settings
from nearfar.watch.alarm import AlarmRule, Status
from nearfar.watch.config import FloodTable, KeepTable, MachineTable, PagesTable, checked_config
from nearfar.watch.sinks import SINKS
from nearfar.watch.sources import AUDIO_SOURCES
from nearfar.web.access import Role

ROOT = Path(__file__).resolve().parents[1]
WATCH, TUTORIAL = "docs/watch.md", "docs/tutorial-watch.md"


# --- the tutorial -----------------------------------------------------------------------------------------------


class Terminal:
    """Runs blocks of commands; a watch stays until the next one, or the end."""

    def __init__(self, folder: Path, port: int) -> None:
        commands = folder.parent / "bin"
        commands.mkdir()
        (commands / "nearfar").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m nearfar "$@"\n', encoding="utf-8"
        )
        (commands / "nearfar").chmod(0o755)
        self._folder, self._port = folder, port
        self._environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
        self._watch: subprocess.Popen[bytes] | None = None

    def run(self, block: str) -> None:
        block = block.replace("8750", str(self._port)).replace(
            "--demo", f"--demo --no-browser --port {self._port}"
        )
        if block.startswith("nearfar watch"):
            self.stop()
            command = ["bash", "-c", f"exec {block.strip()}"]
            with (self._folder / "errors").open("w", encoding="utf-8") as errors:
                self._watch = subprocess.Popen(command, cwd=self._folder, env=self._environment, stderr=errors)
            self.wait(lambda: self.ask("health")["status"] == "ok")
            return
        script = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(
            script, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, block + done.stdout + done.stderr

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.send_signal(signal.SIGINT)
            code = self._watch.wait(60)
            errors = (self._folder / "errors").read_text(encoding="utf-8")
            self._watch = None
            assert code == 0, errors
            assert "Traceback" not in errors

    def kill(self) -> None:
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()

    def ask(self, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self._port}/api/{path}", timeout=10) as answer:
            return json.load(answer)

    def wait(self, condition: Any, seconds: float = 240.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(OSError):
                if condition():
                    return
            assert self._watch is None or self._watch.poll() is None, "the watch has ended"
            time.sleep(0.5)
        raise AssertionError("it took too long")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "empty").mkdir()
    made = Terminal(tmp_path / "empty", port)
    yield made
    made.kill()


@pytest.mark.slow
def test_every_command_of_the_tutorial_about_watching(terminal: Terminal, tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page(TUTORIAL), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    assert blocks[0] == "nearfar watch --demo\n"
    terminal.run(blocks[0])
    machines = {"conveyor bearing", "filler valve", "hall fan", "mill gearbox"}
    assert {now["machine"] for now in terminal.ask("machines")} == machines
    for block in blocks[1:]:
        terminal.run(block)
        if "anomaly" in block:
            terminal.wait(lambda: len(terminal.ask("alarms")) == 1)
    (alarm,) = terminal.ask("alarms")
    assert (alarm["machine"], alarm["status"]) == ("slider 1", "unacknowledged")
    assert alarm["reason"]
    (note,) = terminal.ask("notes")
    assert note["text"] == "belt ordered"
    windows = terminal.ask("machines")[0]["windows"]
    assert windows == 6 + 12
    terminal.run("nearfar watch site.toml")
    time.sleep(5)
    assert terminal.ask("machines")[0]["windows"] == windows, "no recording is scored twice"
    terminal.stop()
    assert 'role = "operate"' in (tmp_path / "empty" / "token.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demonstration_has_something_to_deal_with(terminal: Terminal) -> None:
    terminal.run("nearfar watch --demo")
    found: dict[str, Any] = {}

    def eventful() -> bool:
        found.update({now["machine"]: now for now in terminal.ask("machines")})
        alarms = {name for name, now in found.items() if now["alarm"] is not None}
        return alarms >= {"conveyor bearing", "mill gearbox"} and found["hall fan"]["health"] == "failure"

    terminal.wait(eventful)
    assert found["filler valve"]["health"] == "good"
    terminal.stop()


# --- the page about watching ------------------------------------------------------------------------------------


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    return re.split(r"^#", page(WATCH).split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str) -> dict[str, str]:
    """Default by key of the table below a heading; a row may have several keys."""
    found = {}
    for keys, default in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", section(heading), re.MULTILINE):
        found |= dict.fromkeys(re.findall("`([^`]+)`", keys), default.strip().strip("`"))
    return found


def defaults(kind: type[Settings]) -> dict[str, str]:
    """Default by key of a class, as the tables write it."""
    found = {}
    for name, field in kind.model_fields.items():
        value = field.get_default(call_default_factory=True)
        given = value is not None and not field.is_required()
        found[name] = tomli_w.dumps({"x": value}).removeprefix("x = ").strip() if given and value != {} else "–"
        if value == {}:
            found[name] = "{}"
    return found


TABLES: dict[str, type[Settings]] = {
    "### `[machines.NAME]`": MachineTable,
    "### `[alarm]`": AlarmRule,
    "### `[flood]`": FloodTable,
    "### `[keep]`": KeepTable,
    "### `[page]`": PagesTable,
    **{f'### `kind = "{name}"`': kind.settings for name, kind in SINKS.items()},
}


@pytest.mark.parametrize("heading", TABLES)
def test_the_tables_have_every_key_and_its_default(heading: str) -> None:
    found = rows(heading)
    if heading == "### `[machines.NAME]`":
        found = {key: value for key, value in found.items() if key not in AUDIO_SOURCES}
    assert found == defaults(TABLES[heading])


def test_every_source_is_there_with_its_keys() -> None:
    lines = re.findall(r"^\| `([\w-]+)` \| ([^|]*) \|", section("### `[machines.NAME]`"), re.MULTILINE)
    found = {name: set(re.findall("`([^`]+)`", keys)) for name, keys in lines if name in AUDIO_SOURCES}
    assert found == {name: set(kind.settings.model_fields) for name, kind in AUDIO_SOURCES.items()}


def test_every_status_and_role_is_there() -> None:
    assert set(re.findall(r"^\| `([a-z ]+)` \| \S", section("## Levels and alarms"), re.MULTILINE)) == set(Status)
    assert set(re.findall(r"^\| `(\w+)` \|", section("## Pages and tokens"), re.MULTILINE)) == {
        str(role) for role in Role
    }


def test_every_request_of_the_api_is_there() -> None:
    from nearfar.web.api import api_routes

    told = set(re.findall(r"^\| `(\w+ /api/[^`?]*)", section("## HTTP API"), re.MULTILINE))
    routes = api_routes(None).routes  # type: ignore[arg-type]
    served = {
        f"{method} {re.sub(':path', '', route.path)}"  # type: ignore[attr-defined]
        for route in routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert told == served


def test_the_configuration_of_the_page_can_be_read(tmp_path: Path) -> None:
    import tomllib

    (text,) = re.findall(r"^```toml\n(.*?)^```$", page(WATCH), re.MULTILINE | re.DOTALL)
    config = checked_config(tomllib.loads(text), "the page")
    assert set(config.machines) == {"pump 7", "fan 2"}
    assert config.machines["fan 2"].settings_of("source").device == "USB Audio"
    assert config.sinks["control-room"].settings_of("kind").host == "broker.example.org"


def test_the_service_files_run_commands_that_exist() -> None:
    unit = page("docs/service/nearfar-watch.service")
    container = page("docs/service/Dockerfile")
    assert re.findall(r"^Exec\w+=-?/opt/nearfar/bin/nearfar (\w+)", unit, re.MULTILINE) == ["doctor", "watch"]
    assert 'ENTRYPOINT ["nearfar", "watch"]' in container
    assert re.search(r"^USER \d+$", container, re.MULTILINE), "not as root"
    assert "User=nearfar" in unit
    assert "/api/health" in container
    port = str(PagesTable().port)
    assert f"EXPOSE {port}" in container
    assert f"127.0.0.1:{port}/" in container
