"""The forms of pages: an operator's actions, notes, and feedback that changes a detector."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from nearfar.web.access import Role, Session
from nearfar.web.messages import Done
from nearfar.web.operations import ActionName, operate
from nearfar.web.pages import alarm_of, now_of
from nearfar.web.sessions import form_sender, local_path
from nearfar.web.site import Site
from nearfar.web.templating import render

LONGEST_TEXT = 2000
"""Characters of a note or comment."""
LONGEST_NAME = 80
"""Characters of the name of a fault."""

Text = Annotated[str, Form(max_length=LONGEST_TEXT)]
Back = Annotated[str, Form(max_length=500)]
FaultName = Annotated[str, Form(max_length=LONGEST_NAME)]
MachineName = Annotated[str, Form()]
AlarmNumber = Annotated[int, Form()]


def form_routes(site: Site) -> APIRouter:
    """The answers to forms of a site: each leads back to a page."""
    router = APIRouter(include_in_schema=False)
    operator, configurer = Depends(form_sender(site, Role.OPERATE)), Depends(form_sender(site, Role.CONFIGURE))

    @router.post("/act/{action}")
    def act(
        *,
        action: ActionName,
        session: Session = operator,
        machine: MachineName,
        comment: Text = "",
        hours: Annotated[float, Form(allow_inf_nan=False)] = 0.0,
        one_shot: Annotated[bool, Form()] = False,
        back: Back = "/",
    ) -> RedirectResponse:
        now_of(site, machine)
        operate(site, session, machine, action, comment=comment, hours=hours, one_shot=one_shot)
        return _back(back, action)

    @router.post("/note")
    def note(
        *,
        session: Session = operator,
        machine: MachineName,
        text: Text,
        alarm: Annotated[int | None, Form()] = None,
        back: Back = "/",
    ) -> RedirectResponse:
        site.memory.add_note(machine, text, by=session.name, alarm=alarm, time_s=site.clock())
        return _back(back, "note")

    @router.post("/feedback/preview", response_class=HTMLResponse)
    def preview(*, session: Session = configurer, alarm: AlarmNumber, fault: FaultName = "") -> str:
        record = alarm_of(site, alarm)
        effect = site.feedback_on(record.machine).preview(alarm, fault.strip() or None)
        return render(
            site,
            session,
            "preview.html.j2",
            alarm=record,
            fault=fault.strip(),
            effect=effect,
            pairs=list(zip(effect.change.thresholds_before, effect.change.thresholds_after, strict=False)),
        )

    @router.post("/feedback/apply")
    def apply(
        *, session: Session = configurer, alarm: AlarmNumber, fault: FaultName = "", comment: Text = ""
    ) -> RedirectResponse:
        record, name = alarm_of(site, alarm), fault.strip() or None
        feedback = site.feedback_on(record.machine)
        feedback.apply(alarm, name, by=session.name, note=comment.strip() or None)
        return _back(f"/alarms/{alarm}", "normal" if name is None else "fault")

    @router.post("/feedback/undo")
    def undo(*, session: Session = configurer, machine: MachineName) -> RedirectResponse:
        now_of(site, machine)
        site.feedback_on(machine).undo(by=session.name)
        return _back(f"/machines/{quote(machine)}", "undo")

    return router


def _back(path: str, done: Done) -> RedirectResponse:
    target = local_path(path)
    return RedirectResponse(f"{target}{'&' if '?' in target else '?'}done={done}", status_code=303)
