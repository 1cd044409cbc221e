"""The API: the same answers as the memory gives, and a description of all of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from starlette.testclient import TestClient
from tests.web.conftest import NOW_S

from nearfar.watch.alarm import Status
from nearfar.web.site import Site


def plain(record: object) -> object:
    """A record as JSON has it."""
    return json.loads(json.dumps(asdict(record)))  # type: ignore[call-overload]


def test_answers_are_the_records_of_the_memory(client: TestClient, site: Site) -> None:
    memory = site.memory
    assert client.get("/api/machines").json() == [plain(now) for now in memory.machines()]
    assert client.get("/api/machines/valve/9").json() == plain(memory.machine("valve/9"))
    assert client.get("/api/alarms").json() == [plain(alarm) for alarm in memory.alarms()]
    assert client.get("/api/alarms?open_only=true&machine=fan+2").json() == []
    assert client.get("/api/alarms/2").json() == plain(memory.alarm(2))
    assert client.get("/api/detectors?machine=fan+2").json() == [
        plain(v) for v in memory.detector_versions("fan 2")
    ]
    trend = client.get(f"/api/trend?machine=pump+7&begin_s={NOW_S - 3600}&end_s={NOW_S}&points=5").json()
    assert trend == [plain(point) for point in memory.trend("pump 7", NOW_S - 3600, NOW_S, 5)]
    assert trend[-1]["highest"] == 2.4
    assert client.get("/api/trend?machine=pump+7").json()[0]["begin_s"] >= NOW_S - 86_400 - 600


def test_events_can_be_followed(client: TestClient, site: Site) -> None:
    first = client.get("/api/events?limit=3").json()
    assert [event["number"] for event in first] == [1, 2, 3]
    rest = client.get("/api/events?after=3&limit=1000").json()
    assert [event["number"] for event in rest] == list(range(4, site.memory.last_event() + 1))
    assert {event["kind"] for event in first + rest} == {"detector", "alarm", "health"}


def test_an_action_answers_with_its_transitions(client: TestClient, site: Site) -> None:
    body = {"machine": "pump 7", "action": "shelve", "hours": 2, "one_shot": True, "comment": "WO 4711"}
    (transition,) = client.post("/api/actions", json=body).json()
    assert (transition["after"], transition["by"], transition["comment"]) == ("shelved", "local", "WO 4711")
    assert transition["time_s"] == NOW_S
    assert site.memory.machine("pump 7").status is Status.SHELVED
    refused = client.post("/api/actions", json={"machine": "pump 7", "action": "acknowledge"})
    assert refused.status_code == 409
    assert "the status 'shelved'" in refused.json()["detail"]


def test_a_note_is_kept(client: TestClient, site: Site) -> None:
    note = client.post("/api/notes", json={"machine": "pump 7", "alarm": 2, "text": "belt is worn"}).json()
    assert [plain(entry) for entry in site.memory.notes()] == [note]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/actions", {"machine": "pump 9", "action": "acknowledge"}, 404),
        ("/api/actions", {"machine": "pump 7", "action": "explode"}, 422),
        ("/api/actions", {"machine": "pump 7", "action": "shelve", "hours": 1e9}, 409),
        ("/api/actions", {"machine": "pump 7", "action": "acknowledge", "extra": 1}, 422),
        ("/api/notes", {"machine": "pump 7", "text": ""}, 409),
        ("/api/notes", {"machine": "fan 2", "text": "of another machine", "alarm": 2}, 409),
        ("/api/feedback", {"alarm": 99}, 404),
        ("/api/feedback", {"alarm": 2, "fault": "x" * 81}, 422),
    ],
)
def test_what_cannot_be_done_is_an_error_in_words(
    client: TestClient, path: str, body: object, status: int
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert client.post(path, content="{", headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "begin_s=nan", "begin_s=soon"])
def test_a_query_out_of_range_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/api/alarms?{query}").status_code == 422


def test_every_path_is_described(client: TestClient) -> None:
    tree = client.get("/api/openapi.json").json()
    assert tree["info"]["title"] == "nearfar watch: hall 3"
    assert sum(map(len, tree["paths"].values())) == 14
    for path, methods in tree["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert operation["responses"]["200"]["content"]["application/json"]["schema"]
