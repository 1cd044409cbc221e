"""The HTTP API: the same as the pages as JSON, for programs. Its description is at ``/api/openapi.json``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from nearfar.watch.events import AlarmTransition
from nearfar.watch.feedback import Effect
from nearfar.watch.records import AlarmRecord, DetectorVersion, MachineNow, NoteRecord, TrendPoint
from nearfar.web.access import Role, Session
from nearfar.web.forms import LONGEST_NAME, LONGEST_TEXT
from nearfar.web.operations import ActionName, operate
from nearfar.web.pages import alarm_of, now_of
from nearfar.web.sessions import client
from nearfar.web.site import Site

MOST_RECORDS = 1000
Time = Annotated[float | None, Query(allow_inf_nan=False, description="seconds since 1970")]
Limit = Annotated[int, Query(ge=1, le=MOST_RECORDS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ActionBody(_Body):
    """An operator's action on a machine's alarm."""

    machine: str
    action: ActionName
    comment: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of shelving."""
    one_shot: bool = False
    """Whether shelving ends when the condition clears."""


class NoteBody(_Body):
    """A note on a machine, or on an alarm of it."""

    machine: str
    text: Annotated[str, Field(max_length=LONGEST_TEXT)]
    alarm: int | None = None


class FeedbackBody(_Body):
    """What the sound of an alarm is: normal (``fault`` null), or a fault of that name."""

    alarm: int
    fault: Annotated[str, Field(max_length=LONGEST_NAME)] | None = None
    note: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None


class UndoBody(_Body):
    """The machine whose detector's last change is undone."""

    machine: str


def api_routes(site: Site) -> APIRouter:
    """The API of a site."""
    router = APIRouter(prefix="/api")
    _reading(router, site)
    _writing(router, site)
    return router


def _reading(router: APIRouter, site: Site) -> None:
    view = [Depends(client(site, Role.VIEW))]

    @router.get("/health")
    def health() -> dict[str, str]:
        """Whether the program answers and its memory can be read; needs no token."""
        site.memory.last_event()
        return {"status": "ok"}

    @router.get("/machines", dependencies=view)
    def machines() -> list[MachineNow]:
        """All machines as they are now."""
        return site.memory.machines()

    @router.get("/machines/{name:path}", dependencies=view)
    def machine(name: str) -> MachineNow:
        """One machine as it is now."""
        return now_of(site, name)

    @router.get("/trend", dependencies=view)
    def trend(
        machine: str, begin_s: Time = None, end_s: Time = None, points: Annotated[int, Query(ge=1, le=5000)] = 500
    ) -> list[TrendPoint]:
        """Levels of a machine between two times, by default the last day; the threshold is 1."""
        end = site.clock() if end_s is None else end_s
        return site.memory.trend(machine, end - 86_400.0 if begin_s is None else begin_s, end, points)

    @router.get("/alarms", dependencies=view)
    def alarms(
        machine: str | None = None,
        open_only: bool = False,
        begin_s: Time = None,
        end_s: Time = None,
        limit: Limit = 100,
    ) -> list[AlarmRecord]:
        """Alarms, the newest first, without their transitions."""
        return site.memory.alarms(machine, open_only=open_only, begin_s=begin_s, end_s=end_s, limit=limit)

    @router.get("/alarms/{number}", dependencies=view)
    def alarm(number: int) -> AlarmRecord:
        """One alarm with its transitions."""
        return alarm_of(site, number)

    @router.get("/notes", dependencies=view)
    def notes(machine: str | None = None, alarm: int | None = None, limit: Limit = 100) -> list[NoteRecord]:
        """Notes, the newest first."""
        return site.memory.notes(machine, alarm, limit)

    @router.get("/detectors", dependencies=view)
    def detectors(machine: str) -> list[DetectorVersion]:
        """The versions of a machine's detector, the newest first."""
        return site.memory.detector_versions(machine)

    @router.get("/events", dependencies=view)
    def events(after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100) -> list[dict[str, Any]]:
        """Kept events with numbers above ``after``, in order."""
        return [event.to_json() for event in site.memory.events(after, limit)]


def _writing(router: APIRouter, site: Site) -> None:
    operator, configurer = Depends(client(site, Role.OPERATE)), Depends(client(site, Role.CONFIGURE))

    @router.post("/actions")
    def act(body: ActionBody, session: Session = operator) -> list[AlarmTransition]:
        """Acknowledge, reset, shelve, unshelve, remove from service or return to service."""
        now_of(site, body.machine)
        options = body.model_dump(include={"comment", "hours", "one_shot"})
        return list(operate(site, session, body.machine, body.action, **options))

    @router.post("/notes")
    def note(body: NoteBody, session: Session = operator) -> NoteRecord:
        """Write a note."""
        now_of(site, body.machine)
        return site.memory.add_note(
            body.machine, body.text, by=session.name, alarm=body.alarm, time_s=site.clock()
        )

    @router.post("/feedback/preview")
    def preview(body: FeedbackBody, session: Session = configurer) -> dict[str, Any]:
        """What feedback would change; nothing is changed."""
        effect = site.feedback_on(alarm_of(site, body.alarm).machine).preview(body.alarm, body.fault)
        return _effect(effect)

    @router.post("/feedback")
    def feedback(body: FeedbackBody, session: Session = configurer) -> dict[str, Any]:
        """Add the sound of an alarm to the detector, as normal or as a fault."""
        found = site.feedback_on(alarm_of(site, body.alarm).machine)
        return _effect(found.apply(body.alarm, body.fault, by=session.name, note=body.note))

    @router.post("/feedback/undo")
    def undo(body: UndoBody, session: Session = configurer) -> dict[str, Any]:
        """Undo the last change of a machine's detector."""
        now_of(site, body.machine)
        return site.feedback_on(body.machine).undo(by=session.name).model_dump(mode="json")


def _effect(effect: Effect) -> dict[str, Any]:
    change = effect.change.model_dump(mode="json")
    counts = {"alarms_before": effect.alarms_before, "alarms_after": effect.alarms_after}
    return {"change": change, "windows": effect.windows, **counts}
