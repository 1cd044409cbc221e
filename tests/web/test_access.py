"""Who may do what: tokens, roles, sessions, forged requests, sizes and headers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from starlette.testclient import TestClient
from tests.web.conftest import TOKENS, client_of, form_key

from nearfar.errors import InputError
from nearfar.watch.alarm import Status
from nearfar.web.access import (
    FAILED_LOGINS,
    FAILED_LOGINS_S,
    SESSION_S,
    Access,
    Role,
    Token,
    is_loopback,
    new_token,
    require_tokens,
    token_sha256,
)
from nearfar.web.protection import HEADERS, LARGEST_BODY
from nearfar.web.server import Server
from nearfar.web.sessions import COOKIE, local_path
from nearfar.web.site import Site, access_of

FORMS = {
    "/act/acknowledge": (Role.OPERATE, {"machine": "pump 7"}),
    "/act/shelve": (Role.OPERATE, {"machine": "pump 7", "hours": "1"}),
    "/note": (Role.OPERATE, {"machine": "pump 7", "text": "hello"}),
    "/feedback/preview": (Role.CONFIGURE, {"alarm": "2"}),
    "/feedback/apply": (Role.CONFIGURE, {"alarm": "2"}),
    "/feedback/undo": (Role.CONFIGURE, {"machine": "pump 7"}),
}
CALLS = {
    "/api/actions": (Role.OPERATE, {"machine": "pump 7", "action": "acknowledge"}),
    "/api/notes": (Role.OPERATE, {"machine": "pump 7", "text": "hello"}),
    "/api/feedback/preview": (Role.CONFIGURE, {"alarm": 2}),
    "/api/feedback": (Role.CONFIGURE, {"alarm": 2}),
    "/api/feedback/undo": (Role.CONFIGURE, {"machine": "pump 7"}),
}
FORM = {"content-type": "application/x-www-form-urlencoded"}
WITH_FORMS = "/machines/pump%207"
READ = ("/", "/machines/pump%207", "/alarms", "/alarms/2", "/alarms/2/own/near.flac")
API_READ = (
    "/api/machines", "/api/machines/pump%207", "/api/trend?machine=pump%207", "/api/alarms", "/api/alarms/2",
    "/api/notes", "/api/detectors?machine=pump%207", "/api/events",
)  # fmt: skip


def logged_in(site: Site, role: Role) -> TestClient:
    client = client_of(site)
    assert client.post("/login", data={"token": TOKENS[role], "back": "/alarms"}).headers["location"] == "/alarms"
    return client


def bearer(role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[role]}"}


@pytest.mark.parametrize("path", READ)
def test_pages_need_a_login_that_leads_back(guarded: Site, path: str) -> None:
    answer = client_of(guarded).get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?back=%2F")
    assert logged_in(guarded, Role.VIEW).get(path).status_code == 200


@pytest.mark.parametrize("path", API_READ)
def test_the_api_needs_a_token(guarded: Site, path: str) -> None:
    client = client_of(guarded)
    refused = client.get(path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get(path, headers={"authorization": f"Bearer {new_token()}"}).status_code == 401
    assert client.get(path, headers=bearer(Role.VIEW)).status_code == 200


def test_health_login_and_style_need_no_token(guarded: Site) -> None:
    client = client_of(guarded)
    assert client.get("/api/health").json() == {"status": "ok"}
    assert client.get("/login").status_code == 200
    assert client.get("/assets/style.css").status_code == 200


@pytest.mark.parametrize(("path", "role"), itertools.product(FORMS, Role))
def test_a_form_needs_its_role(guarded: Site, path: str, role: Role) -> None:
    needed, fields = FORMS[path]
    client = logged_in(guarded, role)
    key = form_key(client.get(WITH_FORMS).text)
    status = client.post(path, data={"form_key": key, **fields}).status_code
    assert (status == 403) == (role < needed), status


@pytest.mark.parametrize(("path", "role"), itertools.product(CALLS, Role))
def test_a_call_needs_its_role(guarded: Site, path: str, role: Role) -> None:
    needed, body = CALLS[path]
    status = client_of(guarded).post(path, json=body, headers=bearer(role)).status_code
    assert (status == 403) == (role < needed), status


def test_every_way_to_change_something_is_in_these_tests(site: Site) -> None:
    """A new form or call must be entered above, with its role."""
    from nearfar.web.api import api_routes
    from nearfar.web.forms import form_routes

    routes = [*form_routes(site).routes, *api_routes(site).routes]
    changing = {route.path for route in routes if "POST" in route.methods}  # type: ignore[attr-defined]
    assert changing == {
        path.replace("acknowledge", "{action}").replace("shelve", "{action}") for path in FORMS
    } | set(CALLS)


def test_a_role_sees_the_buttons_that_it_may_use(guarded: Site) -> None:
    pages = {role: logged_in(guarded, role).get("/alarms/2").text for role in Role}
    assert ["Acknowledge</button>" in pages[role] for role in Role] == [False, True, True]
    assert ["New note" in pages[role] for role in Role] == [False, True, True]


@pytest.mark.parametrize("path", FORMS)
def test_a_form_of_another_site_is_refused(guarded: Site, path: str) -> None:
    client = logged_in(guarded, Role.CONFIGURE)
    _, fields = FORMS[path]
    key = form_key(client.get(WITH_FORMS).text)
    assert client.post(path, data=fields).status_code == 403, "without the key of the session"
    assert client.post(path, data={**fields, "form_key": "x" * len(key)}).status_code == 403
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post(path, data={**fields, "form_key": key}, headers=headers).status_code == 403, headers
    other = form_key(logged_in(guarded, Role.CONFIGURE).get(WITH_FORMS).text)
    assert client.post(path, data={**fields, "form_key": other}).status_code == 403, "the key of another session"
    assert guarded.memory.alarm(2).status is Status.UNACKNOWLEDGED


def test_without_tokens_other_sites_are_refused_as_well(client: TestClient, site: Site) -> None:
    body = {"machine": "pump 7", "action": "acknowledge"}
    assert client.post("/act/acknowledge", data={"machine": "pump 7"}).status_code == 403
    assert client.post("/api/actions", json=body, headers={"origin": "https://evil.example"}).status_code == 403
    plain = client.post("/api/actions", content='{"machine": "pump 7", "action": "acknowledge"}')
    assert plain.status_code == 422, "only JSON that says so, which other sites cannot send unasked"
    for host in ("evil.example", "192.168.0.7:8750", "127.0.0.1.evil.example"):
        assert client.get("/", headers={"host": host}).status_code == 421, host
    for host in ("localhost", "127.0.0.1:8750", "[::1]:8750"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    assert site.memory.alarm(2).status is Status.UNACKNOWLEDGED
    assert client.post("/api/actions", json=body).status_code == 200


def test_every_answer_has_the_headers(guarded: Site) -> None:
    client = client_of(guarded)
    answers = [client.get(path) for path in ("/", "/login", "/nothing", "/api/machines", "/assets/page.js")]
    answers.append(client.post("/login", data={"token": "wrong"}, headers={"origin": "https://evil.example"}))
    for answer in answers:
        for name, value in HEADERS.items():
            if name != "cache-control":
                assert answer.headers[name] == value, answer.url
        assert "server" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert "default-src 'none'" in policy
    assert client.get("/login").headers["cache-control"] == "no-store"


def test_a_large_request_is_refused(client: TestClient) -> None:
    key = form_key(client.get(WITH_FORMS).text)
    fields = {"form_key": key, "machine": "pump 7", "text": "x" * LARGEST_BODY}
    assert client.post("/note", data=fields).status_code == 413
    chunks = (b"x" * 1000 for _ in range(LARGEST_BODY // 1000 + 1))
    assert client.post("/note", content=chunks, headers=FORM).status_code == 413, (
        "also where its length is not stated"
    )
    long_text = {**fields, "text": "x" * 3000}
    assert client.post("/note", data=long_text).status_code == 422


def test_logging_in_and_out(guarded: Site) -> None:
    client = logged_in(guarded, Role.OPERATE)
    page = client.get("/").text
    assert "operate, operate" in page
    assert client.post("/logout", data={"form_key": form_key(page)}).status_code == 303
    assert client.get("/").status_code == 303


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(guarded: Site) -> None:
    answer = client_of(guarded).post("/login", data={"token": TOKENS[Role.VIEW]})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKENS[Role.VIEW] not in cookie
    encrypted = TestClient(client_of(guarded).app, base_url="https://box.example", follow_redirects=False)
    assert "Secure" in encrypted.post("/login", data={"token": TOKENS[Role.VIEW]}).headers["set-cookie"]


def test_a_wrong_token_is_refused_and_guessing_is_slow(guarded: Site) -> None:
    client = client_of(guarded)
    for _ in range(FAILED_LOGINS):
        assert client.post("/login", data={"token": new_token()}).status_code == 403
    answer = client.post("/login", data={"token": TOKENS[Role.VIEW]})
    assert answer.status_code == 403
    assert "wait a minute" in answer.text
    assert "set-cookie" not in answer.headers


def access(times: list[float]) -> Access:
    tokens = [Token("ada", Role.OPERATE, token_sha256("right"))]
    return Access(tokens, clock=lambda: times[0])


def test_guessing_is_possible_again_later_and_from_elsewhere() -> None:
    times = [0.0]
    made = access(times)
    for _ in range(FAILED_LOGINS):
        assert made.holder("wrong", "10.0.0.1") is None
    assert made.holder("right", "10.0.0.1") is None
    assert made.holder("right", "10.0.0.2") is not None
    times[0] = FAILED_LOGINS_S + 1
    assert made.holder("right", "10.0.0.1") is not None


def test_a_session_ends_after_a_time_without_requests() -> None:
    times = [0.0]
    made = access(times)
    token = made.holder("right", "")
    assert token is not None
    session = made.start(token)
    times[0] = SESSION_S - 1
    assert made.session(session.id) is session
    times[0] = 2 * SESSION_S - 2
    assert made.session(session.id) is session
    times[0] = 3 * SESSION_S
    assert made.session(session.id) is None
    assert made.session(None) is None
    assert made.session("") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/alarms/2", "/alarms/2"), ("/machines/pump%207?span=week", "/machines/pump%207?span=week"),
        ("//evil.example", "/"), ("/\\evil.example", "/"), ("https://evil.example", "/"), ("", "/"),
        ("javascript:alert(1)", "/"), ("/a\r\nset-cookie: x=1", "/"),
    ],
)  # fmt: skip
def test_a_form_leads_back_to_this_site_alone(text: str, path: str) -> None:
    assert local_path(text) == path


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("192.168.0.7", False), ("box.example", False), ("", False),
    ],
)  # fmt: skip
def test_only_loopback_may_be_without_tokens(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    if local:
        require_tokens(host, [])
    else:
        with pytest.raises(InputError, match="nearfar token"):
            require_tokens(host, [])
    require_tokens(host, [Token("ada", Role.VIEW, "0" * 64)])


def test_a_site_without_tokens_does_not_start_elsewhere(site: Site) -> None:
    page = site.config.page
    assert page is not None
    config = site.config.model_copy(update={"page": page.model_copy(update={"host": "0.0.0.0"})})
    with pytest.raises(InputError, match=r"page\.host: found 0\.0\.0\.0 without tokens"):
        access_of(config)


def test_a_port_that_is_taken_is_an_input_error(site: Site) -> None:
    first = Server(site)
    try:
        port = int(first.address.rstrip("/").rpartition(":")[2])
        page = site.config.page
        assert page is not None
        config = site.config.model_copy(update={"page": page.model_copy(update={"port": port})})
        with pytest.raises(InputError, match=rf"page\.port: found 127\.0\.0\.1:{port} cannot be used"):
            Server(replace(site, config=config))
    finally:
        first.close()
