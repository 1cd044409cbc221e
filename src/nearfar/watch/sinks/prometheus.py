"""Metrics for Prometheus, served at ``/metrics`` on a port of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nearfar.errors import InputError
from nearfar.settings import Settings
from nearfar.watch.alarm import AlarmCause, Status
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow, WindowsMissed
from nearfar.watch.health import Health

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory


class PrometheusSettings(Settings):
    """Keys of a sink with ``kind = "prometheus"``."""

    host: str = "127.0.0.1"
    """Address to listen on; metrics hold names of machines and no sound."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 9469


class PrometheusSink:
    """Serves the state of machines as it is when it is asked for, and counts since the start."""

    def __init__(self, name: str, settings: PrometheusSettings, memory: Memory) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._memory = memory
        self._raised: Counter[str] = Counter()
        self._missed_s: Counter[str] = Counter()
        self._late_s: dict[str, float] = {}
        self._events: set[int] = set()
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(settings.port, settings.host, registry)
        except OSError as error:
            raise InputError(
                f"sinks.{name}.port",
                found=f"{settings.host}:{settings.port} cannot be used ({error.strerror or error})",
                expected="a free port of this computer",
                remedy="Choose another one",
            ) from None

    def send(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, ScoredWindow):
            self._late_s[event.machine] = event.late_s
        elif event.number not in self._events:  # delivered once more after a failure
            self._events.add(event.number)
            if isinstance(event, AlarmTransition) and event.cause is AlarmCause.RAISED:
                self._raised[event.machine] += 1
            elif isinstance(event, WindowsMissed):
                self._missed_s[event.machine] += event.seconds  # type: ignore[assignment]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> tuple[()]:
        """Nothing is known before machines are; called by the registry."""
        return ()

    def collect(self) -> Iterator[Any]:
        """The metrics; called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        level = GaugeMetricFamily(
            "nearfar_level", "Level of the last window; 1 is the threshold", labels=["machine"]
        )
        seen = GaugeMetricFamily("nearfar_last_window_seconds", "Time of the last window", labels=["machine"])
        late = GaugeMetricFamily("nearfar_late_seconds", "From a window's end to its score", labels=["machine"])
        drift = GaugeMetricFamily("nearfar_drift", "Whether scores have shifted alike", labels=["machine"])
        status = GaugeMetricFamily("nearfar_alarm_status", "Status of the alarm", labels=["machine", "status"])
        health = GaugeMetricFamily("nearfar_health", "Health of the microphones", labels=["machine", "health"])
        windows = CounterMetricFamily("nearfar_windows", "Windows scored", labels=["machine"])
        raised = CounterMetricFamily("nearfar_alarms_raised", "Alarms raised since the start", labels=["machine"])
        missed = CounterMetricFamily(
            "nearfar_missed_seconds", "Seconds of sound without a score", labels=["machine"]
        )
        for now in self._memory.machines():
            name = now.machine
            if now.last is not None:
                seen.add_metric([name], now.last.time_s)
                if now.last.level is not None:
                    level.add_metric([name], now.last.level)
            late.add_metric([name], self._late_s.get(name, 0.0))
            drift.add_metric([name], float(now.drift is not None))
            for each in Status:
                status.add_metric([name, each.value], float(now.status is each))
            for grade in Health:
                health.add_metric([name, grade.value], float(now.health is grade))
            windows.add_metric([name], now.windows)
            raised.add_metric([name], self._raised[name])
            missed.add_metric([name], self._missed_s[name])
        yield from (level, seen, late, drift, status, health, windows, raised, missed)
