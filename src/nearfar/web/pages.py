"""The pages that people read: machines at a glance, one machine, alarms, one alarm."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import HTMLResponse

from nearfar.errors import InputError
from nearfar.watch.alarm import Status, actions
from nearfar.watch.records import AlarmRecord, MachineNow
from nearfar.web.access import Session
from nearfar.web.messages import DONE, Done
from nearfar.web.operations import rule_of
from nearfar.web.sessions import reader
from nearfar.web.site import Site
from nearfar.web.sound import (
    OTHERS,
    Region,
    Spectrograms,
    decoded,
    drawn,
    raising_window,
    read_recording,
    recording_of,
)
from nearfar.web.templating import HEALTHS, STATUSES, render
from nearfar.web.trend import sparkline, trend

HOUR_S, DAY_S = 3600.0, 86400.0
Span = Literal["hours", "day", "week", "month", "year"]
SPANS: dict[Span, tuple[str, float]] = {
    "hours": ("6 hours", 6 * HOUR_S),
    "day": ("day", DAY_S),
    "week": ("week", 7 * DAY_S),
    "month": ("month", 31 * DAY_S),
    "year": ("year", 366 * DAY_S),
}
"""Spans of trends: their names and lengths."""
GLANCE_S = DAY_S
"""Length of the small trends."""
ALARMS_SHOWN = 50


def page_routes(site: Site) -> APIRouter:
    """The pages of a site."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    read = Depends(reader(site))
    spectrograms = Spectrograms()

    @router.get("/")
    def machines(session: Session = read) -> str:
        return render(site, session, "machines.html.j2", **glance(site))

    @router.get("/machines/{name:path}")
    def machine(name: str, session: Session = read, span: Span = "day", done: Done | None = None) -> str:
        content = machine_content(site, now_of(site, name), span)
        return render(site, session, "machine.html.j2", done=DONE.get(done, ""), **content)

    @router.get("/alarms")
    def alarms(
        session: Session = read,
        which: Literal["open", "all"] = "open",
        before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    ) -> str:
        found = site.memory.alarms(open_only=which == "open", end_s=before, limit=ALARMS_SHOWN)
        more = found[-1].raised_s if len(found) == ALARMS_SHOWN else None
        return render(site, session, "alarms.html.j2", which=which, alarms=found, more=more)

    @router.get("/alarms/{number}")
    def alarm(number: int, session: Session = read, done: Done | None = None) -> str:
        record = alarm_of(site, number)
        content = alarm_content(site, spectrograms, record)
        return render(site, session, "alarm.html.j2", done=DONE.get(done, ""), **content)

    return router


def alarm_of(site: Site, number: int) -> AlarmRecord:
    """The alarm of that number, or the answer 404."""
    try:
        return site.memory.alarm(number)
    except InputError:
        raise HTTPException(404, f"There is no alarm {number}.") from None


def now_of(site: Site, name: str) -> MachineNow:
    """The machine of that name, or the answer 404."""
    try:
        return site.memory.machine(name)
    except InputError:
        raise HTTPException(404, f"There is no machine {name}.") from None


def glance(site: Site) -> dict[str, Any]:
    """All machines, the most urgent first."""
    now_s = site.clock()
    found = sorted(site.memory.machines(), key=lambda now: (-_urgency(now), now.machine))
    begin_s = now_s - GLANCE_S
    trends = {
        now.machine: sparkline(
            site.memory.trend(now.machine, begin_s, now_s, points=96), begin_s=begin_s, end_s=now_s
        )
        for now in found
    }
    raised = {alarm.machine: alarm for alarm in reversed(site.memory.alarms(open_only=True))}
    return {"machines": found, "trends": trends, "alarms": raised, "counts": _counts(found)}


def _urgency(now: MachineNow) -> int:
    return max(STATUSES[now.status].urgency, HEALTHS[now.health].urgency, 1 if now.drift else 0)


def _counts(machines: list[MachineNow]) -> list[tuple[str, str, int]]:
    """(style, words, number) of the groups of machines that there are."""
    aside = (Status.SHELVED, Status.OUT_OF_SERVICE, Status.SUPPRESSED)
    normal = sum(now.status is Status.NORMAL for now in machines)
    set_aside = sum(now.status in aside for now in machines)
    alarms = len(machines) - normal - set_aside
    failures = sum(HEALTHS[now.health].urgency > 0 for now in machines)
    groups = (
        ("alarm", "with an alarm" if alarms == 1 else "with alarms", alarms),
        (
            "failure",
            "with a fault of its microphones" if failures == 1 else "with faults of microphones",
            failures,
        ),
        ("aside", "off, shelved or out of service", set_aside),
        ("normal", "normal", normal),
    )
    return [group for group in groups if group[2]]


def machine_content(site: Site, now: MachineNow, span: Span) -> dict[str, Any]:
    """What the page of a machine shows."""
    end_s = site.clock()
    words, length_s = SPANS[span]
    begin_s = end_s - length_s
    name = now.machine
    alarms = site.memory.alarms(name, limit=ALARMS_SHOWN)
    return {
        "now": now,
        "span": span,
        "spans": SPANS,
        "chart": trend(
            site.memory.trend(name, begin_s, end_s),
            begin_s=begin_s,
            end_s=end_s,
            alarms=alarms,
            raise_level=rule_of(site, name).raise_level,
            title=f"Levels of {name}, last {words}",
            zone=site.zone,
        ),
        "actions": action_names(now),
        "rule": rule_of(site, name),
        "alarms": alarms,
        "notes": site.memory.notes(name, limit=20),
        "versions": site.memory.detector_versions(name)[:10],
        "can_undo": name in site.feedback,
    }


def action_names(now: MachineNow) -> set[str]:
    """The names of the operator's actions that fit the status, such as ``Acknowledge``."""
    return {action.__name__ for action in actions(now.state)}


def alarm_content(site: Site, spectrograms: Spectrograms, alarm: AlarmRecord) -> dict[str, Any]:
    """What the page of an alarm shows."""
    now = now_of(site, alarm.machine)
    is_current = now.alarm == alarm.number
    parts = site.memory.audio(alarm.number)
    window = raising_window(alarm, parts)
    region = Region.of(alarm.score)
    own = ""
    if window is not None:
        key, title = (alarm.number, window.window), f"Sound of alarm {alarm.number}"
        own = spectrograms.get(key, lambda: drawn(decoded(window), title, region))
    return {
        "alarm": alarm,
        "now": now,
        "is_current": is_current,
        "actions": action_names(now) if is_current else set(),
        "rule": rule_of(site, alarm.machine),
        "parts": parts,
        "channels": tuple(decoded(parts[0]).channels) if parts else (),
        "spectrogram": own,
        "framed": region is not None,
        "others": [_other(site, spectrograms, alarm, other) for other in OTHERS],
        "notes": site.memory.notes(alarm.machine, alarm.number),
        "can_teach": alarm.machine in site.feedback and bool(parts),
    }


def _other(site: Site, spectrograms: Spectrograms, alarm: AlarmRecord, other: str) -> dict[str, Any]:
    """A recording that the sound of an alarm is compared with."""
    found, detector = recording_of(alarm, other), site.detector(alarm.machine)
    content: dict[str, Any] = {"kind": other, "found": found, "channels": (), "spectrogram": "", "problem": ""}
    if found is None or detector is None:
        return content
    path, begin_s = found
    try:
        sound = read_recording(path, begin_s, seconds_of(alarm), detector)
    except InputError as error:
        return content | {"problem": f"found {error.found}"}
    title = f"Sound of {path.name}"
    svg = spectrograms.get((alarm.number, other), lambda: drawn(sound, title))
    return content | {"channels": tuple(sound.channels), "spectrogram": svg}


def seconds_of(alarm: AlarmRecord) -> float:
    """The length of the window that raised an alarm."""
    windows = alarm.score.get("windows") or [{"begin_s": 0.0, "end_s": 10.0}]
    return float(windows[0]["end_s"]) - float(windows[0]["begin_s"])
