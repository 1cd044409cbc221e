"""What a page says after a form was sent: words by a key, so that no text of an address is shown."""

from __future__ import annotations

from typing import Literal

Done = Literal["acknowledge", "reset", "shelve", "unshelve", "remove", "return", "note", "normal", "fault", "undo"]

DONE: dict[Done | None, str] = {
    "acknowledge": "The alarm is acknowledged.",
    "reset": "The alarm is reset.",
    "shelve": "The alarm is shelved.",
    "unshelve": "The alarm is no longer shelved.",
    "remove": "The machine is out of service: it raises no alarms.",
    "return": "The machine is in service again.",
    "note": "The note is kept.",
    "normal": "From the next window on, sound like this is normal. The machine's page can undo it.",
    "fault": "From the next window on, sound like this is named as this fault. The machine's page can undo it.",
    "undo": "The last change of the detector is undone.",
}
