"""A site with a real memory and detector: an alarm, a dead microphone, and machines in order."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from nearfar.detector import Detector
from nearfar.watch.alarm import AlarmRule, WindowInput, step
from nearfar.watch.config import MachineTable, PagesTable, WatchConfig
from nearfar.watch.events import DetectorChanged, HealthChange, ScoredWindow
from nearfar.watch.health import Finding, Health
from nearfar.watch.memory import Memory
from nearfar.web.access import Access, Role, new_token, token_sha256
from nearfar.web.app import create_app
from nearfar.web.site import Site, access_of

NOW_S = 1_796_000_000.0  # 30 November 2026
WINDOW_S = 2.0
HISTORY_S = 600.0
"""Length of the windows long ago, so that few of them fill days."""


@dataclass(frozen=True)
class Recorded:
    """Recordings of a pump and a detector of it."""

    detector: Path
    fault: Path
    score: dict[str, Any]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    from tests.fixtures import write_clip  # at the top it would be imported before pytest reads it

    root = tmp_path_factory.mktemp("pump")
    for number in range(24):
        write_clip(root / "pump 7" / f"{number:04d}.wav", WINDOW_S, 440.0, number)
    fault = root / "fault.wav"
    write_clip(fault, WINDOW_S, 1300.0, 99)
    known = root / "known.wav"
    write_clip(known, WINDOW_S, 1310.0, 98)
    detector = Detector.fit(root / "pump 7").with_fault("worn belt", known, date="2026-05-03")
    detector.save(root / "detector")
    score = detector.score(fault)
    assert score.anomalous
    assert score.like is not None
    return Recorded(root / "detector", fault, score.to_json())


class Filler:
    """Writes windows into a memory as a watch does."""

    def __init__(self, memory: Memory, recorded: Recorded) -> None:
        self.memory, self._recorded = memory, recorded
        self._rule = AlarmRule(raise_level=1.0, count=3, of=5, clear_count=5)
        samples, rate = soundfile.read(recorded.fault)
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format="FLAC")
        self._flac = buffer.getvalue()

    def windows(self, machine: str, levels: Sequence[float], begin_s: float, seconds: float) -> None:
        """Successive windows, with the sound of the fault."""
        with self.memory.writing() as writer:
            row = writer.machine(machine)
            for number, level in enumerate(levels):
                start_s = begin_s + number * seconds
                end_s, was_active = start_s + seconds, row.state.active
                row.state, transitions = step(row.state, WindowInput(level, -30.0), end_s, self._rule)
                if row.state.active and not was_active:
                    reason = self._recorded.score["departure"]["sentence"]
                    score = self._recorded.score
                    row.evidence = {"score": score, "level": level, "reason": reason, "version": row.version}
                row.windows += 1
                row.last = ScoredWindow(
                    time_s=end_s,
                    machine=machine,
                    window=row.windows,
                    begin_s=start_s,
                    seconds=seconds,
                    score=level,
                    threshold=1.0,
                    level=level,
                    anomalous=level > 1,
                    checks=(),
                    status=row.state.status,
                    late_s=0.2,
                )
                writer.add_window(row.last, "stream", row.windows)
                writer.add_transitions(row, transitions, end_s)
                if row.alarm is not None:
                    writer.raise_highest(row.alarm, level)
                    writer.add_audio(row.alarm, row.windows, start_s, seconds, level, self._flac)
            writer.save(row)

    def dead_microphone(self, machine: str) -> None:
        """A failure of the instrument."""
        with self.memory.writing() as writer:
            row = writer.machine(machine)
            row.health = Health.FAILURE
            row.findings = (Finding("dead", "near records nothing but zeros: check its cable and its power"),)
            writer.add_event(
                HealthChange(
                    time_s=NOW_S - 60, machine=machine, before=Health.GOOD, after=row.health, findings=row.findings
                )
            )
            writer.save(row)

    def version(self, machine: str, text: str, time_s: float, by: str = "") -> None:
        """A version of the detector."""
        with self.memory.writing() as writer:
            row = writer.machine(machine)
            row.version = f"{abs(hash(text)):016x}"[:16]
            writer.add_event(
                DetectorChanged(time_s=time_s, machine=machine, version=row.version, text=text, by=by)
            )
            writer.save(row)


MACHINES = ("pump 7", "fan 2", "gearbox <west>", "valve/9")


def fill(memory: Memory, recorded: Recorded) -> None:
    """Three days of four machines."""
    memory.register(MACHINES)
    filler = Filler(memory, recorded)
    random = np.random.default_rng(1)
    for machine in MACHINES:
        filler.version(machine, "fitted on 24 normal recordings", NOW_S - 3 * 86_400)
        levels = np.clip(random.gamma(3.0, 0.09, 430), 0, 0.9)
        if machine == "valve/9":
            levels[200:212] = 1.3  # an earlier alarm
        filler.windows(machine, levels.tolist(), NOW_S - 431 * HISTORY_S, HISTORY_S)
    filler.windows("pump 7", [0.4, 1.2, 1.5, 1.7, 1.9, 2.4, 1.8, 2.1], NOW_S - 8 * WINDOW_S, WINDOW_S)
    filler.dead_microphone("fan 2")


def make_config(recorded: Recorded, **page: Any) -> WatchConfig:
    """The configuration of a site on a free port."""
    machines = {name: MachineTable.model_construct(detector=recorded.detector, alarm=None) for name in MACHINES}
    config = WatchConfig.model_validate({"name": "hall 3", "machines": {}, "page": {"port": 0, **page}})
    return config.model_copy(update={"machines": machines})


@pytest.fixture(scope="session")
def filled(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory to be copied."""
    path = tmp_path_factory.mktemp("memory") / "watch.sqlite"
    memory = Memory.open(path)
    fill(memory, recorded)
    memory.close()
    return path


@pytest.fixture
def site(filled: Path, recorded: Recorded, tmp_path: Path) -> Iterator[Site]:
    """A site on a memory of its own, open to everyone."""
    copied = tmp_path / "watch.sqlite"
    copied.write_bytes(filled.read_bytes())
    memory = Memory.open(copied)
    config = make_config(recorded)
    yield Site(config=config, memory=memory, access=Access(()), clock=lambda: NOW_S, zone=UTC)
    memory.close()


TOKENS = {role: new_token() for role in Role}
"""A token of each role, for the site behind tokens."""


@pytest.fixture
def guarded(site: Site) -> Site:
    """The site, behind tokens and listening to other computers."""
    tokens = {str(role): {"role": str(role), "sha256": token_sha256(text)} for role, text in TOKENS.items()}
    config = site.config.model_copy(update={"page": PagesTable(host="0.0.0.0", port=0, tokens=tokens)})
    return replace(site, config=config, access=access_of(config))


def client_of(site: Site, **options: Any) -> TestClient:
    """A browser without scripts, on this computer."""
    return TestClient(create_app(site), base_url="http://127.0.0.1:8750", follow_redirects=False, **options)


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


def form_key(page: str) -> str:
    """The key that the forms of a page send along."""
    found = re.search(r'name="form_key" value="([^"]+)"', page)
    assert found is not None
    return found[1]
