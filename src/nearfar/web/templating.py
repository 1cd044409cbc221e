"""The templates of pages, and how they write times, levels and statuses."""

from __future__ import annotations

import functools
from datetime import date as Date
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar import __version__
from nearfar.report.page import read_resource
from nearfar.watch.alarm import Status
from nearfar.watch.health import Health
from nearfar.watch.wording import CAUSES
from nearfar.web.access import Role, Session
from nearfar.web.site import Site

if TYPE_CHECKING:
    from jinja2 import Environment


class Shown(NamedTuple):
    """How a status is shown: a symbol, so that colour is not all that differs; words; and a CSS class."""

    symbol: str
    words: str
    style: str
    urgency: int = 0


STATUSES = {
    Status.UNACKNOWLEDGED: Shown("▲", "alarm", "alarm", 6),
    Status.LATCHED_UNACKNOWLEDGED: Shown("△", "alarm over, kept until reset", "over", 5),
    Status.RETURNED: Shown("△", "alarm over, not acknowledged", "over", 5),
    Status.ACKNOWLEDGED: Shown("▲", "alarm acknowledged", "acknowledged", 4),
    Status.LATCHED_ACKNOWLEDGED: Shown("△", "alarm over, not reset", "acknowledged", 3),
    Status.SHELVED: Shown("◐", "shelved", "aside", 2),
    Status.OUT_OF_SERVICE: Shown("⊘", "out of service", "aside", 1),
    Status.SUPPRESSED: Shown("○", "machine off", "aside", 0),
    Status.NORMAL: Shown("●", "normal", "normal", 0),
}
HEALTHS = {
    Health.FAILURE: Shown("✕", "microphones: failure", "failure", 5),
    Health.FUNCTION_CHECK: Shown("⚙", "microphones: function check", "aside", 0),
    Health.OUT_OF_SPECIFICATION: Shown("◇", "microphones: out of specification", "check", 3),
    Health.MAINTENANCE_REQUIRED: Shown("◆", "microphones: maintenance required", "check", 2),
    Health.GOOD: Shown("", "microphones: good", "normal", 0),
}


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nearfar.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "level": level_text,
        "ago": ago,
        "duration": duration,
        "day": day,
        "sentence": sentence,
    }
    environment.globals |= {"STATUSES": STATUSES, "HEALTHS": HEALTHS, "CAUSES": CAUSES, "version": __version__}
    return environment


def render(site: Site, session: Session | None, template: str, **content: Any) -> str:
    """A page.

    Args:
        site: whose page it is.
        session: of the reader; None for the login page.
        template: its name.
        content: for the template.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            site=site,
            session=session,
            may_operate=session is not None and session.role >= Role.OPERATE,
            may_configure=session is not None and session.role >= Role.CONFIGURE,
            form_key="" if session is None else session.form_key or "",
            now_s=site.clock(),
            moment=functools.partial(moment, site),
            moment_zone=datetime.fromtimestamp(site.clock(), site.zone).tzname(),
            **content,
        )
    )


def asset(name: str) -> str:
    """A style sheet or script of the pages; the style sheet begins with that of the reports."""
    text = (resources.files("nearfar.web") / "assets" / name).read_text(encoding="utf-8")
    return read_resource("style.css") + text if name.endswith(".css") else text


def moment(site: Site, time_s: float) -> str:
    """A time of the site: ``14:05`` of today, else with the date."""
    time = datetime.fromtimestamp(time_s, site.zone)
    today = datetime.fromtimestamp(site.clock(), site.zone)
    if time.date() == today.date():
        return f"{time:%H:%M}"
    date = f"{time.day} {time:%b}" if time.year == today.year else f"{time.day} {time:%b %Y}"
    return f"{date}, {time:%H:%M}"


def level_text(level: float | None) -> str:
    """A level with two digits."""
    return "–" if level is None else f"{level:.2f}"


def day(date: str) -> str:
    """A date such as 2026-05-03 in words."""
    found = Date.fromisoformat(date)
    return f"{found.day} {found:%B %Y}"


def sentence(text: str) -> str:
    """A text that begins with a capital letter and ends with a full stop."""
    end = "" if not text or text.endswith((".", "!", "?")) else "."
    return text[:1].upper() + text[1:] + end


def duration(seconds: float) -> str:
    """A length of time in its largest units: ``12 s``, ``5 min``, ``3 h 20 min``, ``4 days``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
    return f"{round(hours / 24)} days"


def ago(time_s: float, now_s: float) -> str:
    """How long before now a time is."""
    return "now" if now_s - time_s < 1 else f"{duration(now_s - time_s)} ago"
