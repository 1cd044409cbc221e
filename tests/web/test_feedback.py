"""This is normal, this is a fault, and undo: from the button to the detector's folder and back."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.web.conftest import NOW_S, Recorded, client_of, form_key

from nearfar.detector import Detector
from nearfar.watch.feedback import Feedback
from nearfar.web.site import Site

HERE = "/alarms/2"


@pytest.fixture
def folder(recorded: Recorded, tmp_path: Path) -> Path:
    """A detector that may be changed."""
    shutil.copytree(recorded.detector, tmp_path / "detector")
    return tmp_path / "detector"


@pytest.fixture
def teachable(site: Site, folder: Path, tmp_path: Path) -> TestClient:
    feedback = Feedback(site.memory, "pump 7", folder, tmp_path / "feedback", clock=site.clock)
    return client_of(replace(site, feedback={"pump 7": feedback}))


def send(client: TestClient, path: str, **fields: object) -> str:
    """The page that a form leads to."""
    answer = client.post(path, data={"form_key": form_key(client.get(HERE).text), **fields})
    if answer.status_code == 303:
        answer = client.get(answer.headers["location"])
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text))


def state(folder: Path) -> list[object]:
    detector = Detector.load(folder)
    return [detector.thresholds, detector.calibrations]


def test_normal_sound_is_added_after_a_preview_and_undone(
    teachable: TestClient, folder: Path, recorded: Recorded, site: Site
) -> None:
    before, files = state(folder), {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    preview = send(teachable, "/feedback/preview", alarm=2)
    assert "Nothing is changed yet" in preview
    assert "1 window of this alarm, as normal; 4 more repeat known sound" in preview
    assert "1 of 1 now" in preview
    assert "times as high: faults that raise alarms now may raise none then" in preview
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    assert site.memory.notes() == []

    page = send(teachable, "/feedback/apply", alarm=2, comment="new belt")
    assert "sound like this is normal" in page
    assert "This sound was called normal." in page
    assert site.memory.alarm(2).feedback == "normal"
    changed = Detector.load(folder)
    assert changed.history[-1].note == "local: this is normal: new belt"
    assert len(changed.history[-1].files) == 1
    assert changed.score(recorded.fault).score < Detector.load(recorded.detector).score(recorded.fault).score
    note = site.memory.notes(alarm=2)[0]
    assert (note.by, note.time_s) == ("local", NOW_S)

    page = send(teachable, "/feedback/undo", machine="pump 7")
    assert "The last change of the detector is undone." in page
    assert state(folder) == before


def test_a_fault_is_named_from_then_on(
    teachable: TestClient, folder: Path, recorded: Recorded, site: Site
) -> None:
    preview = send(teachable, "/feedback/preview", alarm=2, fault="  broken seal ")
    assert "This is a fault, called broken seal?" in preview
    assert "Levels and thresholds stay." in preview
    assert "stays" in preview
    assert "times as high" not in preview
    page = send(teachable, "/feedback/apply", alarm=2, fault="broken seal")
    assert "named as this fault" in page
    assert "This sound was called broken seal." in page
    score = Detector.load(folder).score(recorded.fault)
    assert score.anomalous
    assert score.like is not None
    assert score.like.fault == "broken seal"


def test_the_api_does_the_same(teachable: TestClient, folder: Path) -> None:
    before = state(folder)
    preview = teachable.post("/api/feedback/preview", json={"alarm": 2}).json()
    assert state(folder) == before
    applied = teachable.post("/api/feedback", json={"alarm": 2, "note": "new belt"}).json()
    for answer in (preview, applied):
        assert (answer["windows"], answer["alarms_before"]) == (5, 1)
        assert answer["change"]["kind"] == "normal"
    undone = teachable.post("/api/feedback/undo", json={"machine": "pump 7"}).json()
    assert undone["undone"]
    again = teachable.post("/api/feedback/undo", json={"machine": "pump 7"})
    assert again.status_code == 200, "the known fault that the detector came with"
    nothing = teachable.post("/api/feedback/undo", json={"machine": "pump 7"})
    assert nothing.status_code == 409
    assert "no change with effect" in nothing.json()["detail"]


def test_an_alarm_without_sound_and_a_machine_without_feedback_have_no_buttons(teachable: TestClient) -> None:
    assert "This is normal" in teachable.get(HERE).text
    assert "This is normal" not in teachable.get("/alarms/1").text
    refused = teachable.post("/api/feedback", json={"alarm": 1})
    assert refused.status_code == 409
    assert "whose detector can be changed" in refused.json()["detail"]


def test_a_name_of_a_fault_is_text(teachable: TestClient) -> None:
    key = form_key(teachable.get(HERE).text)
    fields = {"form_key": key, "alarm": 2, "fault": "<script>alert(1)</script>"}
    page = teachable.post("/feedback/preview", data=fields).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
