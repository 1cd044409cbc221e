"""Pages as text: what they show, what their forms do, and that names and notes cannot become markup."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient
from tests.web.conftest import MACHINES, NOW_S, WINDOW_S, Recorded, client_of, form_key

from nearfar.watch.alarm import Status
from nearfar.web.site import Site

PAGES = ("/", "/machines/pump%207", "/machines/valve/9", "/alarms", "/alarms?which=all", "/alarms/2")
VOID = {"meta", "link", "input", "br", "img"}


class Checked(HTMLParser):
    """Elements that are not closed, ids that stand twice, and the order of headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID and not (
            tag in ("path", "rect", "use", "image") and self.get_starttag_text()[-2] == "/"
        ):
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    """The words of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_well_formed(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    checked = Checked(answer.text)
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert checked.headings[0] == 1
    assert checked.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(checked.headings, checked.headings[1:], strict=False))
    assert "<style" not in answer.text
    assert not re.search(r"<script(?! src=\"/assets/)", answer.text)


def test_machines_stand_in_the_order_of_urgency(client: TestClient) -> None:
    page = client.get("/").text
    assert re.findall(r'<h2><a href="[^"]*">([^<]*)</a>', page) == [
        "pump 7", "fan 2", "valve/9", "gearbox &lt;west&gt;",
    ]  # fmt: skip
    words = text_of(page)
    assert "2 with alarms" in words
    assert "1 with a fault of its microphones" in words
    assert "Near records nothing but zeros: check its cable and its power." in words
    assert "alarm over, not acknowledged" in words
    assert re.search(r"level 2\.10 last window now", words)


def test_every_status_and_health_has_words_and_a_symbol() -> None:
    from nearfar.watch.health import Health
    from nearfar.web.templating import HEALTHS, STATUSES

    assert STATUSES.keys() == set(Status)
    assert HEALTHS.keys() == set(Health)
    shown = [(entry.symbol, entry.words) for entry in STATUSES.values()]
    assert len({words for _, words in shown}) == len(shown)
    assert all(symbol for symbol, _ in shown)


def test_an_alarm_says_why_and_what_it_is_like(client: TestClient, recorded: Recorded) -> None:
    words = text_of(client.get("/alarms/2").text)
    sentence = recorded.score["departure"]["sentence"]
    assert sentence[1:] in words
    assert "It is like worn belt of 3 May 2026." in words
    assert "Known fault: worn belt known.wav" in words
    assert f"Nearest normal recording {recorded.score['nearest']}" in words
    assert "alarm raised" in words
    assert "at level 1.70; highest since: 2.40" in words


def played(client: TestClient, path: str) -> np.ndarray:
    answer = client.get(path)
    assert answer.status_code == 200, path
    assert answer.headers["content-type"] == "audio/flac"
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 16_000
    return samples


@pytest.mark.parametrize("channel", [0, 1])
def test_the_sound_that_is_played_is_that_of_the_alarm(
    client: TestClient, recorded: Recorded, channel: int
) -> None:
    name = ("near", "far")[channel]
    assert f'src="/alarms/2/own/{name}.flac"' in client.get("/alarms/2").text
    samples = played(client, f"/alarms/2/own/{name}.flac")
    original = soundfile.read(recorded.fault)[0][:, channel]
    windows = len(samples) / len(original)
    assert windows == 5, "the windows since the alarm was raised"
    expected = np.tile(original, 5) * 0.9 / np.abs(original).max()
    np.testing.assert_allclose(samples, expected, atol=2e-4)


@pytest.mark.parametrize(("which", "file"), [("normal", "nearest_file"), ("fault", "like")])
def test_recordings_that_it_is_compared_with_are_played(
    client: TestClient, recorded: Recorded, which: str, file: str
) -> None:
    path = recorded.score[file] if which == "normal" else recorded.score["like"]["file"]
    original = soundfile.read(path)[0]
    for channel, name in enumerate(("near", "far")):
        samples = played(client, f"/alarms/2/{which}/{name}.flac")
        expected = original[:, channel] * 0.9 / np.abs(original[:, channel]).max()
        np.testing.assert_allclose(samples, expected, atol=2e-4)


def test_a_part_of_a_sound_can_be_asked_for(client: TestClient) -> None:
    path = "/alarms/2/own/near.flac"
    whole = client.get(path).content
    for asked, part in (
        ("bytes=0-99", whole[:100]),
        ("bytes=100-", whole[100:]),
        ("bytes=-50", whole[-50:]),
        (f"bytes=10-{10 * len(whole)}", whole[10:]),
    ):
        answer = client.get(path, headers={"range": asked})
        assert answer.status_code == 206
        assert answer.content == part, asked
        first = len(whole) - len(part) if asked != "bytes=0-99" else 0
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
    assert client.get(path, headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get(path, headers={"range": "bytes=a-b"}).content == whole


def test_a_recording_that_is_gone_is_said_to_be(site: Site, recorded: Recorded) -> None:
    from nearfar.web.pages import alarm_content
    from nearfar.web.sound import Spectrograms

    alarm = site.memory.alarm(2)
    gone = replace(alarm, score={**alarm.score, "nearest_file": "/nowhere/0001.wav"})
    normal, fault = alarm_content(site, Spectrograms(), gone)["others"]
    assert "no" in normal["problem"]
    assert fault["problem"] == ""
    assert fault["spectrogram"].startswith("<svg")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/alarms/99", 404), ("/alarms/two", 422), ("/machines/pump 8", 404), ("/nothing", 404),
        ("/assets/../app.py", 404), ("/assets/%2e%2e%2fapp.py", 404), ("/alarms/2/own/middle.flac", 422),
        ("/alarms/2/own/..%2f..%2fetc%2fpasswd", 404), ("/alarms/2/other/near.flac", 422),
        ("/alarms/99/own/near.flac", 404), ("/machines/pump%207?span=aeon", 422),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_not_found(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("span", ["hours", "day", "week", "month", "year"])
def test_trends_of_every_span(client: TestClient, span: str) -> None:
    page = client.get(f"/machines/pump%207?span={span}").text
    (chart,) = re.findall(r'<svg class="trend".*?</svg>.*?</svg>', page)
    assert chart.count('class="alarm"') == 1
    assert "threshold 1" in chart
    assert chart.count('class="mean"') >= 1


def send(client: TestClient, path: str, page: str, **fields: object) -> int:
    answer = client.post(path, data={"form_key": form_key(client.get(page).text), **fields})
    return answer.status_code


def test_an_alarm_is_acknowledged_shelved_and_noted(client: TestClient, site: Site) -> None:
    here = "/alarms/2"
    assert send(client, "/act/acknowledge", here, machine="pump 7", back=here) == 303
    alarm = site.memory.alarm(2)
    assert (alarm.status, alarm.acknowledged_by, alarm.acknowledged_s) == (Status.ACKNOWLEDGED, "local", NOW_S)
    fields = {"machine": "pump 7", "hours": 8, "one_shot": "true", "comment": "WO 4711", "back": here}
    assert send(client, "/act/shelve", here, **fields) == 303
    state = site.memory.machine("pump 7").state
    assert (state.status, state.shelved_left_s, state.one_shot) == (Status.SHELVED, 8 * 3600, True)
    assert site.memory.alarm(2).transitions[-1].comment == "WO 4711"
    assert send(client, "/act/unshelve", here, machine="pump 7", back=here) == 303
    assert send(client, "/act/remove", here, machine="pump 7", comment="overhaul", back=here) == 303
    assert site.memory.machine("pump 7").status is Status.OUT_OF_SERVICE
    assert send(client, "/act/return", "/machines/pump%207", machine="pump 7", back="/") == 303
    note = {"machine": "pump 7", "alarm": 2, "text": "belt is worn\nordered one", "back": here}
    assert send(client, "/note", here, **note) == 303
    page = client.get(f"{here}?done=note").text
    assert "The note is kept." in page
    assert "belt is worn\nordered one" in page
    words = text_of(page)
    for text in (
        "acknowledged by local",
        "shelved by local : “WO 4711”",
        "taken out of service by local",
        "closed",
    ):
        assert re.sub(" :", ":", text) in re.sub(" :", ":", words)


def test_an_action_that_does_not_fit_is_refused_with_a_reason(client: TestClient, site: Site) -> None:
    for path, fields in (
        ("/act/acknowledge", {"machine": "fan 2"}),
        ("/act/shelve", {"machine": "fan 2", "hours": 1000}),
        ("/note", {"machine": "fan 2", "text": "  "}),
    ):
        assert send(client, path, "/alarms/2", **fields) == 409, path
    assert send(client, "/act/explode", "/alarms/2", machine="fan 2") == 422
    assert send(client, "/act/acknowledge", "/alarms/2", machine="fan 99") == 404
    assert site.memory.notes() == []
    assert site.memory.machine("fan 2").status is Status.NORMAL


def test_names_and_notes_are_text(client: TestClient, site: Site) -> None:
    nasty = "<script>alert(1)</script>\"'&"
    site.memory.add_note(MACHINES[2], nasty, by=nasty, time_s=NOW_S)
    for path in ("/machines/gearbox <west>", "/"):
        page = client.get(path).text
        assert "<west>" not in page
        assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in client.get("/machines/gearbox <west>").text


def test_an_address_cannot_put_words_on_a_page(client: TestClient) -> None:
    assert client.get("/alarms/2?done=Pay+now").status_code == 422
    assert client.get("/alarms?which=all&before=nan").status_code == 422


def test_old_alarms_are_on_further_pages(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.web.pages.ALARMS_SHOWN", 1)
    first = client.get("/alarms?which=all").text
    (link,) = re.findall(r'href="(/alarms\?which=all&amp;before=[^"]+)"', first)
    second = client.get(link.replace("&amp;", "&")).text
    rows = [re.findall(r'<th scope="row"><a href="/alarms/(\d+)"', page) for page in (first, second)]
    assert rows == [["2"], ["1"]]


def test_a_site_without_windows_has_a_page(site: Site) -> None:
    later = replace(site, clock=lambda: NOW_S + 400 * 86_400)
    page = client_of(later).get("/machines/pump%207?span=hours")
    assert page.status_code == 200
    assert "no windows, threshold 1" in page.text


def test_the_note_of_a_site_is_on_every_page(site: Site) -> None:
    client = client_of(replace(site, note="Everything here is simulated."))
    assert all("Everything here is simulated." in client.get(path).text for path in (*PAGES, "/nothing"))


def test_windows_of_an_alarm_are_joined_without_long_silence(site: Site) -> None:
    from nearfar.web.sound import PAUSE_S, decoded, joined, raising_window

    parts = site.memory.audio(2)
    whole = joined(parts)
    assert whole is not None
    assert whole.begin_s == parts[0].begin_s
    assert whole.seconds == pytest.approx(5 * WINDOW_S)
    far_apart = joined([parts[0], replace(parts[1], begin_s=parts[0].begin_s + 3600)])
    assert far_apart is not None
    assert far_apart.seconds == pytest.approx(2 * WINDOW_S + PAUSE_S)
    near = far_apart.channels["near"]
    np.testing.assert_array_equal(near[: round(WINDOW_S * 16_000)], decoded(parts[0]).channels["near"])
    assert not near[round(WINDOW_S * 16_000) : round((WINDOW_S + PAUSE_S) * 16_000)].any()
    half = replace(parts[1], begin_s=parts[0].begin_s + WINDOW_S / 2)
    overlapping = joined([parts[0], half])
    assert overlapping is not None
    assert overlapping.seconds == pytest.approx(1.5 * WINDOW_S)
    raised = raising_window(site.memory.alarm(2), parts)
    assert raised is not None
    assert raised.window == parts[0].window
    assert joined([]) is None
    assert raising_window(site.memory.alarm(2), []) is None
