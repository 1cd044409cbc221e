"""The login page: a token becomes a session of the browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from nearfar.web.access import Role, Session
from nearfar.web.sessions import COOKIE, address_of, form_sender, local_path
from nearfar.web.site import Site
from nearfar.web.templating import render


def login_routes(site: Site) -> APIRouter:
    """Login and logout of a site."""
    router = APIRouter(include_in_schema=False)
    viewer = Depends(form_sender(site, Role.VIEW))

    @router.get("/login", response_class=HTMLResponse)
    def ask(back: str = "/") -> str:
        return render(site, None, "login.html.j2", back=local_path(back), problem="")

    @router.post("/login")
    def log_in(
        request: Request,
        token: Annotated[str, Form(max_length=200)],
        back: Annotated[str, Form(max_length=500)] = "/",
    ) -> Response:
        holder = site.access.holder(token.strip(), address_of(request))
        if holder is None:
            problem = "This is not a token of this site, or there were too many attempts: wait a minute."
            page = render(site, None, "login.html.j2", back=local_path(back), problem=problem)
            return HTMLResponse(page, status_code=403)
        session = site.access.start(holder)
        answer = RedirectResponse(local_path(back), status_code=303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session.id or "", httponly=True, samesite="lax", secure=secure)
        return answer

    @router.post("/logout")
    def log_out(session: Session = viewer) -> RedirectResponse:
        site.access.end(session)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    return router
