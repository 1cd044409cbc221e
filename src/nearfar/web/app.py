"""The application: pages, forms, sound and API behind one protection, and their errors as pages or JSON."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from nearfar import __version__
from nearfar.errors import InputError, NearfarError
from nearfar.watch.memory import MemoryUnavailableError
from nearfar.web.access import is_loopback
from nearfar.web.api import api_routes
from nearfar.web.audio import audio_routes
from nearfar.web.forms import form_routes
from nearfar.web.login import login_routes
from nearfar.web.pages import page_routes
from nearfar.web.protection import Application, Protection
from nearfar.web.sessions import LoginRequiredError, session_of
from nearfar.web.site import Site
from nearfar.web.templating import asset, render

ASSETS = {"style.css": "text/css", "page.js": "text/javascript"}
"""Style sheet and script of the pages, and their types."""
_ROUTING = {
    "Not Found": "There is no such page.",
    "Method Not Allowed": "This page takes no such request.",
}
"""The words of the router, and ours."""


def create_app(site: Site) -> Application:
    """The application of a site."""
    assert site.config.page is not None
    app = FastAPI(
        title=f"nearfar watch: {site.config.name}",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its scripts would be loaded from elsewhere
        redoc_url=None,
    )
    for make in (login_routes, page_routes, audio_routes, form_routes, api_routes):
        app.include_router(make(site))

    @app.get("/assets/{name}", include_in_schema=False)
    def assets(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "There is no such page.")
        headers = {"cache-control": "public, max-age=3600"}
        return Response(asset(name), media_type=ASSETS[name], headers=headers)

    _handle_errors(app, site)
    return Protection(app, local_only=is_loopback(site.config.page.host))


def _handle_errors(app: FastAPI, site: Site) -> None:
    @app.exception_handler(LoginRequiredError)
    def log_in(request: Request, error: LoginRequiredError) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _problem(site, request, 401, "You are logged out. Log in, and try again.")
        return RedirectResponse(error.address, status_code=303)

    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:  # of the router for 404 and 405
        detail = _ROUTING.get(error.detail, error.detail)
        return _problem(site, request, error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        parts = (f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors())
        return _problem(site, request, 422, "; ".join(parts))

    @app.exception_handler(MemoryUnavailableError)
    def unavailable(request: Request, error: MemoryUnavailableError) -> Response:
        return _problem(site, request, 503, str(error))

    @app.exception_handler(InputError)
    def unfit(request: Request, error: InputError) -> Response:
        return _problem(site, request, 409, str(error))

    @app.exception_handler(NearfarError)
    def failed(request: Request, error: NearfarError) -> Response:
        return _problem(site, request, 500, str(error))


def _problem(
    site: Site, request: Request, status: int, text: str, headers: dict[str, str] | None = None
) -> Response:
    """An error, as JSON of the API and else as a page."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": text}, status, headers)
    session = session_of(site, request)
    return HTMLResponse(render(site, session, "problem.html.j2", status=status, text=text), status, headers)
