"""The sound that pages play: of an alarm, and of the recordings that it is compared with."""

from __future__ import annotations

import re
from typing import Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from nearfar.data.clips import Channel
from nearfar.errors import InputError
from nearfar.web.access import Session
from nearfar.web.pages import alarm_of, seconds_of
from nearfar.web.sessions import reader
from nearfar.web.site import Site
from nearfar.web.sound import Sound, flac_of, joined, read_recording, recording_of


def audio_routes(site: Site) -> APIRouter:
    """The sound of a site; files are named by the memory alone, never by a request."""
    router = APIRouter(include_in_schema=False)
    read = Depends(reader(site))

    @router.get("/alarms/{number}/{which}/{channel}.flac")
    def sound(
        request: Request,
        number: int,
        which: Literal["own", "normal", "fault"],
        channel: Channel,
        session: Session = read,
    ) -> Response:
        found = _own(site, number) if which == "own" else _other(site, number, which)
        if found is None or channel not in found.channels:
            raise HTTPException(404, "There is no such sound, or it is no longer kept.")
        return ranged(flac_of(found.channels[channel]), request.headers.get("range", ""))

    return router


def _own(site: Site, number: int) -> Sound | None:
    alarm_of(site, number)
    return joined(site.memory.audio(number))


def _other(site: Site, number: int, which: str) -> Sound | None:
    alarm = alarm_of(site, number)
    found, detector = recording_of(alarm, which), site.detector(alarm.machine)
    if found is None or detector is None:
        return None
    try:
        return read_recording(*found, seconds_of(alarm), detector)
    except InputError:
        return None


def ranged(content: bytes, header: str) -> Response:
    """A FLAC file, or the part of it that a ``Range`` header asks for, without which Safari plays nothing."""
    headers = {"accept-ranges": "bytes", "cache-control": "private, max-age=60"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if asked is None or not (asked[1] or asked[2]):
        return Response(content, media_type="audio/flac", headers=headers)
    size = len(content)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first > last:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {first}-{last}/{size}"
    return Response(content[first : last + 1], 206, headers, media_type="audio/flac")
