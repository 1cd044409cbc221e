"""``fetch_encoder`` against a hub on the loopback interface: verification, record, retries, use of the cache."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from collections import namedtuple
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nearfar.data.download.transfer import RetryPolicy
from nearfar.encoders import encoder_hash, load_encoder, save_encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.encoders.hub import PUBLISHED, SHORT_NAMES, PublishedWeights, fetch_encoder
from nearfar.errors import InputError

COMMIT = "0123456789abcdef" * 2 + "01234567"
NAME = "owner/eat"
NOW = 1_780_000_000.0
Usage = namedtuple("Usage", "total used free")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, after the misbehaviours of its script: a status with headers, or other bytes."""

    files: dict[str, bytes]
    script: list
    asked: list[str]

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        content = self.files.get(self.path)
        step = self.script.pop(0) if self.script and self.command == "GET" else None
        if content is None or isinstance(step, tuple):
            status, headers = step or (404, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if step == "other bytes":
            content = bytes(255 - byte for byte in content)
        if self.command == "GET":
            self.wfile.write(content)


def point_hub_at(url: str, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def encoder():
    return build_encoder(EATConfig(embed_dim=24, depth=2, num_heads=2, max_length=12))


@pytest.fixture
def hub(tmp_path, monkeypatch, encoder):
    """A hub with one encoder, ``tiny-eat``, of which nothing is known but its commit; an empty local cache."""
    import huggingface_hub.constants

    save_encoder(encoder, tmp_path / "published")
    handler = type("Handler", (Hub,), {"script": [], "asked": []})
    handler.files = {
        f"/{NAME}/resolve/{COMMIT}/{path.name}": path.read_bytes() for path in (tmp_path / "published").iterdir()
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    point_hub_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own attempts
    monkeypatch.setitem(SHORT_NAMES, "tiny-eat", NAME)
    monkeypatch.setitem(PUBLISHED, NAME, PublishedWeights("https://example.org/eat", "MIT", COMMIT))
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()
    huggingface_hub.close_session()


@pytest.fixture
def weights(hub) -> bytes:
    return hub.files[f"/{NAME}/resolve/{COMMIT}/model.safetensors"]


def test_an_encoder_arrives_in_the_cache_and_is_recorded(hub, weights, encoder, tmp_path):
    fetched = fetch_encoder("tiny-eat")
    assert (fetched.how, fetched.name, fetched.revision) == ("downloaded", NAME, COMMIT)
    assert (fetched.size_bytes, fetched.sha256) == (len(weights), hashlib.sha256(weights).hexdigest())
    record = json.loads((tmp_path / "cache" / "models--owner--eat" / "nearfar-download.json").read_text())
    assert (record["size_bytes"], record["sha256"]) == (fetched.size_bytes, fetched.sha256)
    assert (record["licence"], record["expected_sha256"]) == ("MIT", None)
    assert encoder_hash(load_encoder(NAME)) == encoder_hash(encoder)


def test_a_second_time_nothing_is_asked(hub):
    fetch_encoder("tiny-eat")
    hub.asked.clear()
    assert fetch_encoder("tiny-eat").how == "already there"
    assert hub.asked == []


def test_a_copy_for_a_machine_without_network(hub, encoder, tmp_path, monkeypatch):
    out = tmp_path / "usb" / "eat"
    assert fetch_encoder("tiny-eat", out).how == "downloaded"
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "nearfar-download.json",
    ]
    assert encoder_hash(load_encoder(out)) == encoder_hash(encoder)
    shutil.rmtree(tmp_path / "cache")
    hub.asked.clear()
    assert fetch_encoder("tiny-eat", out).how == "already there"
    assert hub.asked == []


def test_files_put_there_by_hand_are_checked_and_recorded(hub, weights, tmp_path, monkeypatch):
    out = tmp_path / "published"
    assert fetch_encoder("tiny-eat", out).how == "already there"
    assert json.loads((out / "nearfar-download.json").read_text())["sha256"] == hashlib.sha256(weights).hexdigest()
    assert hub.asked == []
    monkeypatch.setitem(PUBLISHED, NAME, PublishedWeights("https://example.org/eat", "MIT", COMMIT, size_bytes=7))
    with pytest.raises(InputError, match=r"expected the 7 bytes of https://example\.org/eat"):
        fetch_encoder("tiny-eat", out)


def test_weights_that_changed_since_they_were_recorded(hub, weights, tmp_path):
    out = tmp_path / "published"
    fetch_encoder("tiny-eat", out)
    (out / "model.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(InputError, match=r"expected [0-9a-f]{64}, which .* recorded of the same revision"):
        fetch_encoder("tiny-eat", out)


def test_other_bytes_than_the_hub_states_are_fetched_anew(hub, weights):
    hub.script = [None, "other bytes"]  # of the two files, the second
    assert fetch_encoder("tiny-eat").sha256 == hashlib.sha256(weights).hexdigest()
    assert sum(line.startswith("GET") for line in hub.asked) == 4


def test_other_bytes_twice_are_an_error(hub, weights):
    hub.script = [None, "other bytes", None, "other bytes"]
    stated = hashlib.sha256(weights).hexdigest()
    with pytest.raises(InputError, match=f"another SHA-256, after a second download too; expected {stated}"):
        fetch_encoder("tiny-eat")


def test_a_known_size_is_required_and_a_known_hash_warned_about(hub, weights, monkeypatch):
    known = PublishedWeights("https://example.org/eat", "MIT", COMMIT, len(weights), "0" * 64)
    monkeypatch.setitem(PUBLISHED, NAME, known)
    with pytest.warns(UserWarning, match="expected hash comes from third parties"):
        assert fetch_encoder("tiny-eat").expected_sha256 == "0" * 64
    monkeypatch.setitem(PUBLISHED, NAME, PublishedWeights("https://example.org/eat", "MIT", COMMIT, 7))
    with pytest.raises(
        InputError, match=f"found {len(weights)} bytes, after a second download too; expected the 7"
    ):
        fetch_encoder("tiny-eat")


def test_a_hub_that_asks_to_wait_until_a_date(hub, monkeypatch):
    waits = []
    monkeypatch.setattr("time.time", lambda: NOW)
    date = formatdate(NOW + 45, usegmt=True)
    hub.script = [(503, {"Retry-After": date})] * 2 + [(502, {})]
    fetch_encoder("tiny-eat", retry=RetryPolicy(attempts=4, sleep=waits.append))
    assert waits == [45.0, 45.0, 4.0]


def test_retries_end(hub):
    waits = []
    hub.script = [(503, {})] * 9
    with pytest.raises(InputError, match=r"a failed download from the hub \(HfHubHTTPError: .*503"):
        fetch_encoder("tiny-eat", retry=RetryPolicy(attempts=3, sleep=waits.append))
    assert waits == [1.0, 2.0]


def test_a_file_that_the_hub_does_not_have_is_asked_for_once(hub):
    waits = []
    hub.files.clear()
    with pytest.raises(InputError, match=r"download config\.json and model\.safetensors by hand"):
        fetch_encoder("tiny-eat", retry=RetryPolicy(attempts=3, sleep=waits.append))
    assert waits == []


def test_the_disk_is_looked_at_first(hub, monkeypatch):
    known = PublishedWeights("https://example.org/eat", "MIT", COMMIT, about_bytes=10**9)
    monkeypatch.setitem(PUBLISHED, NAME, known)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 10**9))
    with pytest.raises(InputError, match=r"found 1\.00 GB free; expected 1\.10 GB for owner/eat"):
        fetch_encoder("tiny-eat")
    assert hub.asked == []


def test_without_network_the_way_by_hand_is_named(hub, monkeypatch):
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(InputError) as caught:
        fetch_encoder("tiny-eat")
    assert f"https://huggingface.co/owner/eat/tree/{COMMIT} into one folder" in str(caught.value)


def test_both_short_names_are_published():
    assert SHORT_NAMES.keys() >= {"eat-base", "eat-large"}
    for name in SHORT_NAMES.values():
        published = PUBLISHED[name]
        assert published.licence == "MIT"
        assert published.size_bytes or published.about_bytes


def test_the_size_of_eat_large_is_estimated_from_its_shapes(golden_arrays):
    large = json.loads((golden_arrays / "key_shapes.json").read_text())["large"]
    encoder = (shape for name, shape in large.items() if "decoder" not in name)
    values = sum(math.prod(shape) for shape in encoder)
    assert PUBLISHED[SHORT_NAMES["eat-large"]].about_bytes == 4 * values
