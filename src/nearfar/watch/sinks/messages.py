"""Messages to people by e-mail or chat, through Apprise: one for each alarm, failure and drift."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import InputError
from nearfar.settings import Settings
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow
from nearfar.watch.secret_files import secret_in
from nearfar.watch.wording import calls_for_a_person, title_and_sentence

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory


class MessageSettings(Settings):
    """Keys of a sink with ``kind = "messages"``."""

    urls_file: Path
    """File with one address of Apprise in a line, such as ``mailto://name:password@example.org``."""
    page: str | None = None
    """Address of the pages as people reach it, for links in messages, such as ``https://box.example.org``."""
    sound: bool = False
    """Whether a message about an alarm has its sound so far attached, as FLAC."""


class MessageSink:
    """Sends messages; where one of several addresses fails, it alone is tried again."""

    def __init__(self, name: str, settings: MessageSettings, memory: Memory) -> None:
        import apprise

        self._settings, self._memory = settings, memory
        self._addresses: list[tuple[str, Any]] = []
        for line in secret_in(settings.urls_file).splitlines():
            url = line.strip()
            if not url or url.startswith("#"):
                continue
            address = apprise.Apprise()
            if not address.add(url):
                raise InputError(
                    settings.urls_file,
                    found=f"{url.partition(':')[0]}:..., which Apprise cannot use",
                    expected="addresses as https://appriseit.com lists them, one in a line",
                    remedy="Correct the line",
                )
            self._addresses.append((url, address))
        self._number, self._reached = -1, set[str]()

    def send(self, event: Event) -> None:
        """Send a message about an event that calls for a person.

        Raises:
            ConnectionError: if an address cannot be reached.
        """
        if isinstance(event, ScoredWindow) or not calls_for_a_person(event):
            return
        if event.number != self._number:
            self._number, self._reached = event.number, set()
        title, text = title_and_sentence(event)
        alarm = event.alarm if isinstance(event, AlarmTransition) else None
        if self._settings.page is not None:
            path = f"alarms/{alarm}" if alarm is not None else ""
            text += f"\n\n{self._settings.page.rstrip('/')}/{path}"
        with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
            attached = self._sound(alarm, Path(folder)) if self._settings.sound and alarm is not None else []
            for url, address in self._addresses:
                if url not in self._reached and address.notify(
                    body=text, title=title, body_format="text", attach=[str(path) for path in attached] or None
                ):
                    self._reached.add(url)
        failed = sorted({url.partition(":")[0] for url, _ in self._addresses if url not in self._reached})
        if failed:
            raise ConnectionError(f"no message could be sent by {', '.join(failed)}")

    def close(self) -> None:
        """Nothing is open between two messages."""

    def _sound(self, alarm: int, folder: Path) -> list[Path]:
        paths = []
        for number, part in enumerate(self._memory.audio(alarm)):
            paths.append(folder / f"alarm-{alarm}-{number}.flac")
            paths[-1].write_bytes(part.flac)
        return paths
