"""Events in words, for messages and pages."""

from __future__ import annotations

from nearfar.watch.alarm import AlarmCause
from nearfar.watch.events import (
    AlarmTransition,
    DetectorChanged,
    DriftChange,
    Event,
    FloodChange,
    HealthChange,
    NoteAdded,
    WindowsMissed,
)
from nearfar.watch.health import Health

CAUSES = {
    AlarmCause.RAISED: "alarm raised",
    AlarmCause.CLEARED: "no longer anomalous",
    AlarmCause.ACKNOWLEDGED: "acknowledged",
    AlarmCause.RESET: "reset",
    AlarmCause.RE_ALARM: "still anomalous: alarm raised again",
    AlarmCause.SHELVED: "shelved",
    AlarmCause.UNSHELVED: "no longer shelved",
    AlarmCause.SHELVING_ENDED: "the time of shelving has ended",
    AlarmCause.REMOVED: "taken out of service",
    AlarmCause.RETURNED: "returned to service",
    AlarmCause.SWITCHED_OFF: "the machine is off",
    AlarmCause.SWITCHED_ON: "the machine runs again",
}
"""Every cause of a transition in words."""


def calls_for_a_person(event: Event) -> bool:
    """Whether a person should get a message: an alarm, a flood of them, a failed microphone, drift.

    Of a flood of alarms there is one message instead of one for each.
    """
    if isinstance(event, AlarmTransition):
        return event.cause in (AlarmCause.RAISED, AlarmCause.RE_ALARM) and not event.in_flood
    if isinstance(event, FloodChange):
        return event.active
    if isinstance(event, HealthChange):
        return event.after is Health.FAILURE
    return isinstance(event, DriftChange) and event.changed


def title_and_sentence(event: Event) -> tuple[str, str]:
    """A line and a sentence about an event."""
    who = event.machine or "All machines"
    if isinstance(event, AlarmTransition):
        text = event.reason or f"The alarm is {event.after.value}."
        comment = f" {event.by}: {event.comment}" if event.comment else ""
        by = f" by {event.by}" if event.by and not comment else ""
        return f"{who}: {CAUSES[event.cause]}{by}", text + comment
    if isinstance(event, FloodChange):
        state = "many alarms at once" if event.active else "the flood of alarms has ended"
        return f"{who}: {state}", f"{event.alarms} alarms within {event.minutes:g} minutes."
    if isinstance(event, HealthChange):
        found = " ".join(_sentence(finding.message) for finding in event.findings)
        return f"{who}: microphones: {event.after.value}", found or "Nothing is wrong with the instrument."
    if isinstance(event, DriftChange):
        state = "changed since its detector was fitted" if event.changed else "scores are as before again"
        return f"{who}: {state}", _sentence(event.message)
    if isinstance(event, NoteAdded):
        return f"{who}: note by {event.by}", event.text
    if isinstance(event, DetectorChanged):
        return f"{who}: another version of the detector", _sentence(event.text) + (
            f" By {event.by}." if event.by else ""
        )
    if isinstance(event, WindowsMissed):
        return f"{who}: {event.seconds:.0f} s without a score", _sentence(event.reason)
    return f"{who}: {event.kind}", ""


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
