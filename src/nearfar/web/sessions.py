"""Who a request comes from, and whether that allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import Form, HTTPException, Request

from nearfar.web.access import Role, Session, is_own_form
from nearfar.web.site import Site

COOKIE = "nearfar_session"


class LoginRequiredError(Exception):
    """A page was asked for without a session; ``address`` is that of the login page that leads back."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(address)


def session_of(site: Site, request: Request) -> Session | None:
    """The session of a request: of everyone, of the token that it carries, or of its cookie."""
    access = site.access
    if access.everyone is not None:
        return access.everyone
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind.casefold() == "bearer":
        token = access.holder(text.strip(), address_of(request))
        return None if token is None else Session(token.name, token.role, None)
    return access.session(request.cookies.get(COOKIE))


def address_of(request: Request) -> str:
    """The address of the client."""
    return "" if request.client is None else request.client.host


def reader(site: Site) -> Callable[[Request], Session]:
    """A dependency of pages: the session, or the way to the login page."""

    def session(request: Request) -> Session:
        found = session_of(site, request)
        if found is None:
            back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            raise LoginRequiredError(f"/login?back={quote(back, safe='')}")
        return found

    return session


def client(site: Site, role: Role) -> Callable[[Request], Session]:
    """A dependency of the API: a session with that role."""

    def session(request: Request) -> Session:
        found = session_of(site, request)
        if found is None:
            headers = {"www-authenticate": "Bearer"}
            raise HTTPException(401, "a token is required: Authorization: Bearer TOKEN", headers)
        require(found, role)
        return found

    return session


def form_sender(site: Site, role: Role) -> Callable[..., Session]:
    """A dependency of forms: a session with that role, from a page of its own."""
    read = reader(site)

    def session(request: Request, form_key: Annotated[str, Form()] = "") -> Session:
        found = read(request)
        require(found, role)
        if not is_own_form(found, form_key):
            raise HTTPException(403, "This form is out of date. Go back, reload the page, and send it again.")
        return found

    return session


def require(session: Session, role: Role) -> None:
    """Refuse a session without that role."""
    if session.role < role:
        raise HTTPException(403, f"This takes the role {role}; yours, {session.name}, is {session.role}.")


def local_path(text: str) -> str:
    """A path of this site to go back to, or that of the first page for any other text."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_path and "\\" not in text else "/"
