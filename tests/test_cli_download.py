"""``nearfar download`` as a person types it, against a plain file server on the loopback interface."""

from __future__ import annotations

import functools
import hashlib
import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nearfar.data.download import catalogue, transfer
from nearfar.data.download.catalogue import Archive
from nearfar.encoders import hub


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def run(nearfar_command):
    return nearfar_command


@pytest.fixture
def mirror(small_factory: Path, tmp_path: Path, monkeypatch):
    """The address of a server with the small factory's machines: one to develop on, one of the evaluation set."""
    archives = []
    for part, machine, splits in (
        ("dev", "hummer", ("train", "test")),
        ("train", "whiner", ("train",)),
        ("eval", "whiner", ("test",)),
    ):
        archive = Archive(part, machine, f"{part}_{machine}.zip", "")
        path = tmp_path / "mirror" / archive.url("").lstrip("/")
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as packed:
            for split in splits:
                for clip in sorted((small_factory / machine / split).iterdir()):
                    packed.write(clip, f"{machine}/{split}/{clip.name}")
        content = path.read_bytes()
        archives.append(Archive(part, machine, archive.filename, hashlib.md5(content).hexdigest(), len(content)))
    monkeypatch.setattr(catalogue, "ARCHIVES", tuple(archives))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("NEARFAR_ZENODO", f"http://127.0.0.1:{server.server_port}")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def clips(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")}


def test_from_nothing_to_a_folder_that_nearfar_reads(run, mirror, small_factory, tmp_path):
    out = tmp_path / "data"
    code, out_text, err = run("download", "dcase2026", "--out", out)
    assert (code, clips(out)) == (0, clips(small_factory))
    assert out_text.splitlines()[:3] == [
        "dev_hummer.zip: downloaded",
        "train_whiner.zip: downloaded",
        "eval_whiner.zip: downloaded",
    ]
    assert "Licence of record 20151556 of Zenodo: CC BY-NC-SA 4.0" in out_text
    assert f"The recordings are in {out}. Summarise them with: nearfar data {out}" in out_text
    assert "unpacking dev_hummer.zip, MB: 2/2" in err

    code, out_text, _ = run("data", out)
    assert code == 0
    assert "hummer" in out_text
    assert "warning" not in out_text


def test_a_finished_download_is_skipped(run, mirror, tmp_path):
    run("download", "dcase2026", "dev", "--out", tmp_path / "data")
    code, out_text, err = run("download", "dcase2026", "dev", "--out", tmp_path / "data")
    assert (code, out_text.splitlines()[0], err) == (0, "dev_hummer.zip: already complete", "")


def test_parts_and_machines_are_chosen(run, mirror, tmp_path):
    out = tmp_path / "data"
    assert run("download", "dcase2026", "eval", "--machines", "whiner", "--out", out)[0] == 0
    assert {name.rpartition("/")[0] for name in clips(out)} == {"whiner/test"}
    code, _, err = run("download", "dcase2026", "dev", "--machines", "whiner", "--out", out)
    assert code == 2
    assert "found whiner, which is in eval and train; expected machines of dev: hummer" in err
    assert run("download", "dcase2026", "everything", "--out", out)[0] == 2


def test_the_list_for_fetching_by_hand(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out_text, _ = run("download", "dcase2026", "dev", "--machines", "fan,ToyCar", "--list")
    assert code == 0
    assert out_text.splitlines() == [
        "https://zenodo.org/records/19336329/files/dev_ToyCar_r2.zip  722655322 bytes  "
        "md5 353201db217e25377a7e7eccf9c1c8a7",
        "https://zenodo.org/records/19336329/files/dev_fan.zip  704228804 bytes  "
        "md5 58b79bac4b05bf14a11e9d53e6cdfae9",
    ]
    assert list(tmp_path.iterdir()) == []


def test_without_network_by_hand(run, mirror, small_factory, tmp_path, monkeypatch):
    out = tmp_path / "data"
    monkeypatch.setenv("NEARFAR_ZENODO", "http://127.0.0.1:9")
    monkeypatch.setattr(transfer.RetryPolicy, "wait_seconds", lambda *args: 0.0)
    code, _, err = run("download", "dcase2026", "--out", out)
    assert code == 2
    assert "nearfar: could not download 3 of the archives (ConnectionRefusedError" in err
    assert f"copy them as they are into {out}" in err
    addresses = [line.split()[0] for line in err.splitlines() if line.startswith("http") and " md5 " in line]
    assert len(addresses) == 3
    for address in addresses:
        shutil.copy(tmp_path / "mirror" / address.removeprefix("http://127.0.0.1:9/"), out)
    code, out_text, _ = run("download", "dcase2026", "--out", out)
    assert code == 0
    assert out_text.count("local file") == 3
    assert clips(out) == clips(small_factory)


@pytest.mark.parametrize("short_name", ["eat-base", "eat-large"])
def test_encoders(run, tmp_path, monkeypatch, short_name):
    def fetch_encoder(name, out):
        assert (name, out) == (short_name, tmp_path)
        return hub.FetchedEncoder(
            "owner/eat", "v1", "MIT", "downloaded", tmp_path / "w", 7, "ab", None, tmp_path / "record.json"
        )

    monkeypatch.setattr(hub, "fetch_encoder", fetch_encoder)
    code, out_text, _ = run("download", short_name, "--out", tmp_path)
    assert code == 0
    assert out_text.splitlines() == [
        "owner/eat at v1: downloaded, MIT",
        f"{tmp_path}/w: 7 bytes, sha256 ab",
        f"Recorded in {tmp_path}/record.json. Use it with: --encoder {tmp_path}",
    ]
