"""Downloads into ``<out>/<machine>/{train,test}`` with server faults, interruptions and wrong archives."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace

import pytest

from nearfar.data.download import dataset
from nearfar.data.download.dataset import STORE, address_list, download
from nearfar.data.download.transfer import RetryPolicy
from nearfar.data.layouts import read_dataset
from nearfar.errors import InputError, NearfarError

Usage = namedtuple("Usage", "total used free")
QUICK = RetryPolicy(attempts=3, timeout_seconds=5, sleep=lambda seconds: None)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def get(loopback, out):
    """``get(*archives)``: where each came from."""

    def got(*archives, **settings):
        fetched = download(archives, out, **{"base_url": loopback.url, "retry": QUICK, **settings})
        assert [entry.archive for entry in fetched] == list(archives)
        return [entry.how for entry in fetched]

    return got


def visible(folder) -> set[str]:
    """The files of a data folder that are not hidden."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not path.parts[0].startswith(".")}


def stored(out) -> set[str]:
    return {path.name for path in (out / STORE).iterdir()} - {"lock"}


FAN = {
    "fan/train/section_00_source_train_normal_0000_noAttribute.wav",
    "fan/train/section_00_source_train_normal_0001_noAttribute.wav",
    "fan/test/section_00_0000.wav",
    "fan/test/section_00_0001.wav",
}


def test_archives_of_one_machine_and_of_several_become_one_data_folder(serve, get, out, loopback):
    archives = [serve("dev", "fan"), serve("train", "Sander"), serve("eval", "Sander", sized=False)]
    assert get(*archives) == ["downloaded"] * 3
    assert visible(out) == FAN | {name.replace("fan", "Sander") for name in FAN}
    data = read_dataset(out)
    assert (data.machines, data.warnings) == (("Sander", "fan"), ())
    assert (len(data.train("Sander")), len(data.test("Sander"))) == (2, 2)
    assert stored(out) == {f"{archive.filename}.json" for archive in archives}  # no other file is left


def test_the_record_of_an_archive(serve, get, out, loopback):
    archive = serve("eval", "Sander")
    get(archive)
    record = json.loads((out / STORE / "eval_Sander.zip.json").read_text())
    assert record["md5"] == archive.md5
    assert record["from"] == archive.url(loopback.url)
    assert record["size_bytes"] == len(loopback.files[archive.url("")])
    assert record["licence"] == "CC BY-NC-SA 4.0"
    assert record["clips"] == {"test": {"files": 2, "bytes": 40_000}}


def test_a_second_run_does_nothing(serve, get, loopback):
    archives = [serve("dev", "fan"), serve("eval", "Sander")]
    get(*archives)
    asked = len(loopback.requests)
    assert get(*archives) == ["already complete"] * 2
    assert len(loopback.requests) == asked


@pytest.mark.parametrize(
    "loss", ["clip gone", "clip gone, another longer", "clip cut", "record gone", "record broken", "another md5"]
)
def test_an_incomplete_archive_is_downloaded_again(serve, get, out, loss):
    archive = serve("dev", "fan")
    get(archive)
    clip, record = out / min(FAN), out / STORE / "dev_fan.zip.json"
    if loss.startswith("clip gone"):
        clip.unlink()
        if loss.endswith("another longer"):
            longer = out / "fan/test/section_00_0001.wav"
            longer.write_bytes(longer.read_bytes() + bytes(20_001))
            with pytest.raises(NearfarError, match="a clip of that name with other content"):
                get(archive)
            longer.unlink()
    elif loss == "clip cut":
        clip.write_bytes(clip.read_bytes()[:-1])
        with pytest.raises(NearfarError, match="a clip of that name with other content"):
            get(archive)  # clips are never replaced
        clip.unlink()
    elif loss == "record gone":
        record.unlink()
    elif loss == "record broken":
        record.write_text('{"md5"')
    else:
        record.write_text(record.read_text().replace(archive.md5, "0" * 32))
    assert get(archive) == ["downloaded"]
    assert visible(out) == FAN
    assert get(archive) == ["already complete"]


def test_a_partial_archive_is_resumed(serve, get, out, loopback):
    archive = serve("dev", "fan", sized=False)
    content = loopback.files[archive.url("")]
    (out / STORE).mkdir(parents=True)
    (out / STORE / "dev_fan.zip.part").write_bytes(content[:5000])
    assert get(archive) == ["downloaded"]
    assert loopback.ranges(archive.url("")) == ["bytes=5000-"]


def test_a_partial_archive_of_other_content_is_downloaded_again_once(serve, get, out, loopback):
    archive = serve("dev", "fan")
    (out / STORE).mkdir(parents=True)
    (out / STORE / "dev_fan.zip.part").write_bytes(b"x" * 5000)
    assert get(archive) == ["downloaded"]
    assert loopback.ranges(archive.url("")) == ["bytes=5000-", None]


def test_a_verified_archive_is_not_downloaded_again(serve, get, out, loopback):
    archive = serve("dev", "fan")
    aside = out / STORE / "dev_fan.unpacking" / "fan" / "train"
    aside.mkdir(parents=True)
    (aside / "half.wav").write_bytes(b"of a run that was killed")
    (out / STORE / "dev_fan.zip").write_bytes(loopback.files[archive.url("")])
    assert get(archive) == ["downloaded"]
    assert (loopback.requests, visible(out)) == ([], FAN)


def test_wrong_bytes_once_are_downloaded_again(serve, get, out, loopback):
    archive = serve("dev", "fan")
    loopback.script[archive.url("")] = ["wrong bytes"]
    assert get(archive) == ["downloaded"]
    assert loopback.ranges(archive.url("")) == [None, None]


def test_wrong_bytes_twice_are_an_error_and_leave_nothing(serve, get, out, loopback):
    bad, good = serve("dev", "fan"), serve("dev", "valveEmu")
    content = loopback.files[bad.url("")]
    loopback.script[bad.url("")] = ["wrong bytes", "wrong bytes"]
    with pytest.raises(NearfarError) as caught:
        get(bad, good)
    wrong = hashlib.md5(bytes(255 - byte for byte in content)).hexdigest()
    assert f"found md5 {wrong}, after a second download too; the file was removed" in str(caught.value)
    assert f"expected md5 {bad.md5}" in str(caught.value)
    assert stored(out) == {"dev_valveEmu.zip.json"}  # the other one is complete
    assert get(bad, good) == ["downloaded", "already complete"]


def test_all_at_once(serve, get, out, loopback):
    archives = [serve("dev", machine) for machine in ("fan", "ToyCar", "valveEmu", "sliderEmu", "bearingEmu")]
    steps = [
        ["drop", "ignore range, drop"],
        [(429, {"Retry-After": "1"}), "truncate"],
        ["hang up", "ignore range"],
        [(503, {}), "wrong bytes"],
    ]
    for archive, step in zip(archives, [*steps, ["a page"]], strict=True):
        loopback.script[archive.url("")] = step
    assert get(*archives) == ["downloaded"] * 5
    assert len(visible(out)) == 20


@pytest.mark.parametrize("connections", [1, 2])
def test_no_more_connections_than_allowed(serve, get, loopback, connections):
    archives = [serve("dev", f"machine{number}") for number in range(6)]
    loopback.script = {archive.url(""): ["slow"] for archive in archives}
    get(*archives, connections=connections)
    assert loopback.busiest == connections


def test_progress_of_every_archive(serve, get):
    steps = []
    get(serve("dev", "fan"), progress=lambda *step: steps.append(step))
    assert steps[0][0] == "dev_fan.zip, MB"
    assert steps[-1] == ("unpacking dev_fan.zip, MB", 1, 1)


def test_without_network_the_message_lists_archives_to_download_by_hand(serve, get, out, loopback):
    archives = [serve("dev", f"machine{number}") for number in range(5)]
    get(archives[0])
    waits = []
    with pytest.raises(NearfarError) as caught:
        get(
            *archives,
            base_url="http://127.0.0.1:9",
            retry=RetryPolicy(attempts=3, sleep=waits.append),
            connections=1,
        )
    message = str(caught.value)
    assert message.startswith("could not download 4 of the archives (ConnectionRefusedError: ")
    assert "1 are complete" in message
    assert f"copy them as they are into {out}, and rerun the same command" in message
    assert message.endswith(address_list(archives[1:], "http://127.0.0.1:9"))
    line = message.splitlines()[-1]
    size = len(loopback.files[archives[4].url("")])
    assert line == f"{archives[4].url('http://127.0.0.1:9')}  {size} bytes  md5 {archives[4].md5}"
    assert waits == [1.0, 2.0]  # not for each archive

    for archive in archives[1:]:
        (out / archive.filename).write_bytes(loopback.files[archive.url("")])
    assert get(*archives, base_url="http://127.0.0.1:9") == ["already complete"] + ["local file"] * 4
    assert all((out / archive.filename).is_file() for archive in archives[1:])
    assert set(read_dataset(out).machines) == {archive.machine for archive in archives}


def test_a_wrong_local_archive_is_an_error_and_not_changed(serve, get, out, loopback):
    archive = serve("dev", "fan")
    out.mkdir()
    (out / archive.filename).write_bytes(b"an interrupted download")
    with pytest.raises(NearfarError, match=r"found md5 \w{32} in 23 bytes; expected md5") as caught:
        get(archive)
    assert "it was not changed" in str(caught.value)
    assert (out / archive.filename).read_bytes() == b"an interrupted download"
    assert loopback.requests == []


def test_a_refusal_of_one_archive_does_not_stop_the_others(serve, get, loopback, out):
    gone, there = serve("dev", "fan"), serve("dev", "valveEmu")
    loopback.script[gone.url("")] = [(404, {})]
    with pytest.raises(
        NearfarError, match=r"could not download 1 of the archives \(the server answers 404"
    ) as caught:
        get(gone, there, connections=1)
    assert gone.md5 in str(caught.value)
    assert there.md5 not in str(caught.value)
    assert {name.split("/")[0] for name in visible(out)} == {"valveEmu"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (
            {"ToyCar/train/1.wav": b"", "ToyCar/test/1.wav": b""},
            "the folders ToyCar, no clips in fan/train and test",
        ),
        ({"fan/train/1.wav": b""}, "the folders fan, no clips in fan/test"),
        ({"fan/train/1.wav": b"", "fan/test/1.wav": b"", "x/1.wav": b""}, "the folders fan, x; expected"),
        ({"train/1.wav": b"", "test/1.wav": b""}, "the folders test, train, no clips"),
    ],
)
def test_an_archive_of_another_layout_is_kept_and_nothing_is_moved(serve, get, out, files, found):
    archive = serve("dev", "fan", files)
    with pytest.raises(NearfarError, match=found) as caught:
        get(archive)
    assert "expected fan/train/*.wav and fan/test/*.wav" in str(caught.value)
    assert (out / STORE / "dev_fan.zip").is_file()
    assert visible(out) == set()


def test_files_of_macos_are_left_out(serve, get, out):
    clips = {"fan/train/a.wav": b"a", "fan/test/b.wav": b"b"}
    shadows = {"__MACOSX/fan/train/._a.wav": b"", "fan/train/._a.wav": b"", "fan/.DS_Store": b""}
    get(serve("dev", "fan", clips | shadows))
    assert visible(out) == set(clips)


def test_a_malicious_archive_is_refused_even_with_the_right_sum(serve, get, out, tmp_path):
    archive = serve("dev", "fan", {"fan/train/a.wav": b"a", "fan/test/b.wav": b"b", "../../evil.wav": b"evil"})
    with pytest.raises(NearfarError, match="a path that leaves the folder"):
        get(archive)
    assert not list(tmp_path.rglob("evil.wav"))
    assert visible(out) == set()


def test_two_archives_with_the_same_companion(serve, get, out):
    train = serve("train", "Sander", {"Sander/train/a.wav": b"a", "Sander/attributes_00.csv": b"train"})
    test = serve("eval", "Sander", {"Sander/test/b.wav": b"b", "Sander/attributes_00.csv": b"test"})
    get(train)
    get(test)
    assert (out / "Sander/attributes_00.csv").read_bytes() == b"train"
    assert (out / "Sander/attributes_00.eval_Sander.csv").read_bytes() == b"test"


def test_free_space_is_checked_before_the_download(serve, get, out, loopback, monkeypatch):
    archive = replace(serve("dev", "fan"), size_bytes=1_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 2_490_000_000))
    with pytest.raises(InputError, match=r"found 2\.49 GB free; expected 2\.50 GB for 1 archives, unpacked"):
        get(archive)
    assert loopback.requests == []


def test_free_space_is_checked_when_the_size_is_known(serve, get, out, loopback, monkeypatch):
    archive = serve("eval", "Sander", {"Sander/test/a.wav": b"", "Sander/test/big": b""}, sized=False)
    loopback.files[archive.url("")] = bytes(1_000_000)
    free = iter([10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, next(free, 102_000_000)))
    with pytest.raises(NearfarError, match=r"GB for eval_Sander\.zip and its content"):
        get(archive)
    assert stored(out) <= {"eval_Sander.zip.part"}
    assert not (out / STORE / "eval_Sander.zip.part").exists()


def test_a_second_command_in_the_folder_is_refused(serve, get, out, loopback):
    archive = serve("dev", "fan")
    loopback.script[archive.url("")] = ["stall"]
    first = threading.Thread(target=get, args=(archive,))
    first.start()
    try:
        assert loopback.stalled.wait(10)
        with pytest.raises(InputError, match="found another nearfar download running in this folder"):
            get(archive)
    finally:
        loopback.go_on.set()
        first.join()
    assert get(archive) == ["already complete"]


def test_an_interruption_ends_every_thread_and_keeps_partial_files(serve, get, out, loopback):
    archives = [serve("dev", f"machine{number}") for number in range(6)]
    loopback.script[archives[1].url("")] = ["stall"]
    go_on = threading.Timer(0.2, loopback.go_on.set)

    def interrupt(task, done, total):
        if task.startswith("dev_machine0"):
            assert loopback.stalled.wait(10)
            go_on.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(*archives, progress=interrupt, connections=2)
    go_on.join()
    assert not {path for path, _ in loopback.requests} & {archive.url("") for archive in archives[3:]}
    assert visible(out) == set()
    assert get(*archives) == ["downloaded"] * 6


def test_archives_are_merged_one_after_the_other(serve, get, monkeypatch):
    merge, at_once, moving = dataset.merge, [], threading.Semaphore(9)

    def watched(*args, **settings):
        with moving:
            at_once.append(9 - moving._value)
            time.sleep(0.05)
            merge(*args, **settings)

    monkeypatch.setattr(dataset, "merge", watched)
    get(*(serve("dev", f"machine{number}") for number in range(3)), connections=3)
    assert at_once == [1, 1, 1]


KILLED = """
import sys, pathlib
from nearfar.data.download.catalogue import Archive
from nearfar.data.download.dataset import download
base_url, out, md5, size = sys.argv[1:]
archive = Archive("dev", "fan", "dev_fan.zip", md5, int(size))
print(download([archive], pathlib.Path(out), base_url=base_url)[0].how)
"""


def test_a_killed_command_resumes(serve, out, loopback):
    archive = serve("dev", "fan")
    address, size = archive.url(""), archive.size_bytes
    loopback.script[address] = ["stall"]
    command = [sys.executable, "-c", KILLED, loopback.url, str(out), archive.md5, str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert loopback.stalled.wait(20)
    partial = out / STORE / "dev_fan.zip.part"
    deadline = time.monotonic() + 20
    while not partial.exists() or partial.stat().st_size < size // 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    loopback.go_on.set()
    assert visible(out) == set()

    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert again.stdout == "downloaded\n"
    assert loopback.ranges(address) == [None, f"bytes={size // 2}-"]
    assert visible(out) == FAN


def test_a_wrong_base_url(out):
    with pytest.raises(InputError, match="base_url: found file:///etc"):
        download([], out, base_url="file:///etc")


def test_the_default_bound_is_small():
    assert 2 <= dataset.CONNECTIONS <= 4
