"""Sources of sound: folders, pipes, URLs and sound cards."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.watch.sounds import RATE_HZ, machine_sound, write_sound

from nearfar.errors import InputError
from nearfar.settings import Settings
from nearfar.watch.sources import AUDIO_SOURCES, AudioBlock, SourceError, Taken
from nearfar.watch.sources import sound_card as sound_card_module
from nearfar.watch.sources.pcm import PcmSettings, PcmSource


class Nothing:
    """Nothing was taken before, but perhaps these streams, and files of these names."""

    def __init__(self, *streams: str, files: tuple[str, ...] = ()) -> None:
        self._streams, self._files = streams, files

    def find(self, stream: str) -> Taken | None:
        return Taken(0, finished=True) if stream in self._streams else None

    def is_known(self, name: str, size: int, changed_ns: int) -> bool:
        return name in self._files


def source(kind: str, base: Path, **settings: Any) -> Any:
    entry = AUDIO_SOURCES[kind]
    chosen: Settings = entry.settings.model_validate(settings)
    return entry.build(chosen, base)


def joined(blocks: list[AudioBlock]) -> dict[str, np.ndarray]:
    """The samples of each stream, by the name that is shown."""
    names = dict.fromkeys(block.name for block in blocks)
    return {name: np.concatenate([b.samples for b in blocks if b.name == name], axis=1) for name in names}


def collect(
    given: Any, taken: Any, until: Callable[[list[AudioBlock]], bool], timeout_s: float = 20.0
) -> list[AudioBlock]:
    """Blocks until enough have come; then the source is stopped."""
    found: list[AudioBlock] = []
    stop = threading.Event()
    timer = threading.Timer(timeout_s, stop.set)
    timer.start()
    for block in given.blocks(taken, stop):
        found.append(block)
        if until(found):
            stop.set()
    timer.cancel()
    return found


def ended(count: int) -> Callable[[list[AudioBlock]], bool]:
    return lambda blocks: sum(block.ends for block in blocks) >= count


def old(path: Path, age_s: float) -> Path:
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


# --- folders ---


def test_recordings_of_a_folder_come_whole_and_the_oldest_first(tmp_path: Path) -> None:
    sounds = [machine_sound(number, seconds=0.5) for number in range(3)]
    for number, age_s in enumerate((20.0, 40.0, 30.0)):
        old(write_sound(tmp_path / "rec" / "day" / f"{number}.wav", sounds[number]), age_s)
    (tmp_path / "rec" / "notes.txt").write_text("no sound", encoding="utf-8")
    blocks = list(source("folder", tmp_path, folder="rec", once=True).blocks(Nothing(), threading.Event()))
    assert [block.name for block in blocks if block.ends] == ["day/1.wav", "day/2.wav", "day/0.wav"]
    for number in range(3):
        np.testing.assert_array_equal(joined(blocks)[f"day/{number}.wav"], sounds[number])
    age_s = time.time() - blocks[0].begin_s
    assert 40.0 < age_s < 60.0  # a recording ends when its file was last written


def test_a_long_recording_comes_in_blocks(tmp_path: Path) -> None:
    sound = machine_sound(0, seconds=70.0)
    old(write_sound(tmp_path / "long.wav", sound), 10.0)
    blocks = list(source("folder", tmp_path, folder=".", once=True).blocks(Nothing(), threading.Event()))
    assert [block.begin for block in blocks] == [0, 30 * RATE_HZ, 60 * RATE_HZ]
    assert [block.ends for block in blocks] == [False, False, True]
    np.testing.assert_array_equal(joined(blocks)["long.wav"], sound)


def test_a_file_that_is_being_written_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    whole = write_sound(tmp_path / "elsewhere" / "a.wav", machine_sound(0, seconds=2.0)).read_bytes()
    folder = tmp_path / "rec"
    folder.mkdir()

    def record() -> None:
        with (folder / "a.wav").open("wb") as file:
            for part in range(8):
                file.write(whole[part * len(whole) // 8 : (part + 1) * len(whole) // 8])
                file.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=record)
    writer.start()
    given = source("folder", tmp_path, folder="rec", settle_seconds=0.3)
    blocks = collect(given, Nothing(), ended(1))
    writer.join()
    assert [block.error for block in blocks] == [None]
    np.testing.assert_array_equal(blocks[0].samples, machine_sound(0, seconds=2.0))


def test_new_files_are_seen_while_the_folder_is_watched(tmp_path: Path) -> None:
    (tmp_path / "rec").mkdir()
    given = source("folder", tmp_path, folder="rec", settle_seconds=0.1)
    threading.Timer(0.5, lambda: write_sound(tmp_path / "rec" / "late.wav", machine_sound(1))).start()
    begun = time.monotonic()
    blocks = collect(given, Nothing(), ended(1))
    assert [block.name for block in blocks] == ["late.wav"]
    assert time.monotonic() - begun < 15


def test_a_recording_is_taken_once_by_its_content(tmp_path: Path) -> None:
    old(write_sound(tmp_path / "a.wav", machine_sound(0)), 30.0)
    first = list(source("folder", tmp_path, folder=".", once=True).blocks(Nothing(), threading.Event()))
    old(write_sound(tmp_path / "copy of a.wav", machine_sound(0)), 20.0)
    old(tmp_path / "a.wav", 15.0)  # touched
    old(write_sound(tmp_path / "b.wav", machine_sound(1)), 10.0)
    again = list(
        source("folder", tmp_path, folder=".", once=True).blocks(Nothing(first[0].stream), threading.Event())
    )
    assert [block.name for block in again] == ["b.wav"]


def test_known_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(write_sound(tmp_path / "a.wav", machine_sound(0)), 30.0)
    taken = Nothing(files=("a.wav",))
    monkeypatch.setattr("nearfar.watch.sources.folder.file_sha256", lambda path: pytest.fail("it was read"))
    assert list(source("folder", tmp_path, folder=".", once=True).blocks(taken, threading.Event())) == []


def test_a_file_that_stays_cut_off_is_given_up_once_and_the_others_are_taken(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "cut.wav", machine_sound(0))
    path.write_bytes(path.read_bytes()[:20_001])
    old(path, 30.0)
    old(write_sound(tmp_path / "good.wav", machine_sound(1)), 20.0)
    settings = {"folder": ".", "settle_seconds": 0.1, "incomplete_seconds": 10.0}
    blocks = collect(source("folder", tmp_path, **settings), Nothing(), ended(2))
    failed, good = blocks
    assert failed.name == "cut.wav"
    assert failed.error is not None
    assert "cut.wav" in failed.error
    assert (good.name, good.error) == ("good.wav", None)


def test_a_folder_that_is_missing_is_a_source_that_fails(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        list(source("folder", tmp_path, folder="nowhere").blocks(Nothing(), threading.Event()))


# --- standard input ---


@pytest.fixture
def pipe() -> Iterator[tuple[Any, Any]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as out, os.fdopen(writing, "wb") as into:
        yield out, into


@pytest.mark.parametrize(
    ("name", "kind", "scale"), [("s16", "<i2", 2.0**15), ("s32", "<i4", 2.0**31), ("f32", "<f4", 1.0)]
)
def test_samples_of_a_pipe(pipe: tuple[Any, Any], name: str, kind: str, scale: float) -> None:
    sound = machine_sound(0, seconds=0.7)
    data = (sound.T * scale).astype(kind).tobytes()
    out, into = pipe

    def send() -> None:
        for begin in range(0, len(data), 1003):  # parts of samples
            into.write(data[begin : begin + 1003])
            into.flush()
        into.close()

    given = PcmSource(PcmSettings.model_validate({"format": name}), Path(), out)
    threading.Thread(target=send).start()
    blocks = list(given.blocks(Nothing(), threading.Event()))
    assert blocks[-1].ends
    np.testing.assert_allclose(np.concatenate([b.samples for b in blocks], axis=1), sound, atol=1e-7)
    assert [block.begin for block in blocks] == np.cumsum([0, *(b.samples.shape[1] for b in blocks[:-1])]).tolist()


# --- URLs ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the files of ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_file_of_another_format_is_decoded_and_taken_once(tmp_path: Path) -> None:
    sound = machine_sound(0, seconds=1.3)
    soundfile.write(tmp_path / "a.aiff", sound.T, RATE_HZ, subtype="PCM_16")
    blocks = list(source("url", tmp_path, url="a.aiff").blocks(Nothing(), threading.Event()))
    assert blocks[-1].ends
    np.testing.assert_allclose(np.concatenate([b.samples for b in blocks], axis=1), sound, atol=1e-6)
    again = source("url", tmp_path, url="a.aiff").blocks(Nothing(blocks[0].stream), threading.Event())
    assert list(again) == []


def test_a_stream_by_http_is_decoded_and_its_end_is_a_failure(tmp_path: Path, server: str) -> None:
    sound = machine_sound(0, seconds=1.3)
    write_sound(tmp_path / "a.wav", sound)
    blocks: list[AudioBlock] = []
    given = source("url", tmp_path, url=f"{server}/a.wav")
    with pytest.raises(SourceError, match="ended the stream"):
        blocks.extend(given.blocks(Nothing(), threading.Event()))
    np.testing.assert_allclose(np.concatenate([b.samples for b in blocks], axis=1), sound, atol=1e-6)


@pytest.mark.parametrize("url", ["{server}/missing.wav", "http://127.0.0.1:9/a.wav", "missing.wav"])
def test_a_url_without_sound_is_a_source_that_fails(tmp_path: Path, server: str, url: str) -> None:
    with pytest.raises(SourceError, match=r"missing\.wav|127\.0\.0\.1"):
        list(source("url", tmp_path, url=url.format(server=server)).blocks(Nothing(), threading.Event()))


# --- sound cards ---


class Card:
    """What sounddevice does, with a card that gives these blocks and then nothing."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, blocks: list[np.ndarray], *, overflow_at: int | None = None) -> None:
        self._blocks, self._overflow_at = blocks, overflow_at
        self.opened: dict[str, Any] = {}

    def InputStream(self, **options: Any) -> Card:  # noqa: N802
        if options["device"] == "absent":
            raise self.PortAudioError("no such device")
        self.opened = options
        return self

    def __enter__(self) -> Card:
        def play() -> None:
            for number, block in enumerate(self._blocks):
                flags = type(
                    "Flags", (), {"input_overflow": number == self._overflow_at, "__str__": lambda s: "overflow"}
                )
                self.opened["callback"](block.T, block.shape[1], None, flags())

        threading.Thread(target=play).start()
        return self

    def __exit__(self, *error: object) -> None:
        pass


def card_source(monkeypatch: pytest.MonkeyPatch, card: Card, **settings: Any) -> Any:
    monkeypatch.setattr(sound_card_module, "_sounddevice", lambda: card)
    monkeypatch.setattr(sound_card_module, "SILENT_AFTER_S", 0.2)
    return source("sound-card", Path(), **settings)


def test_blocks_of_a_sound_card(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = machine_sound(0, seconds=1.0)
    card = Card(np.split(sound, 10, axis=1))
    given = card_source(monkeypatch, card, device="USB", channels=2)
    stop = threading.Event()
    blocks = list(islice(given.blocks(Nothing(), stop), 10))
    np.testing.assert_array_equal(np.concatenate([b.samples for b in blocks], axis=1), sound)
    assert [block.begin for block in blocks] == list(range(0, RATE_HZ, RATE_HZ // 10))
    assert (card.opened["device"], card.opened["channels"]) == ("USB", 2)


def test_a_card_that_is_unplugged_or_loses_samples_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = np.split(machine_sound(0, seconds=1.0), 10, axis=1)
    with pytest.raises(SourceError, match="no samples for"):
        list(card_source(monkeypatch, Card(parts)).blocks(Nothing(), threading.Event()))
    with pytest.raises(SourceError, match="samples were lost"):
        list(card_source(monkeypatch, Card(parts, overflow_at=3)).blocks(Nothing(), threading.Event()))
    with pytest.raises(SourceError, match="no such device"):
        list(card_source(monkeypatch, Card(parts), device="absent").blocks(Nothing(), threading.Event()))


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'folder'"):
        AUDIO_SOURCES["foldr"]
