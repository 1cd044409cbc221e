"""The command that watches machines."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from nearfar.cli.messages import usage_error

if TYPE_CHECKING:
    from nearfar.watch.config import WatchConfig


def watch(
    target: Annotated[
        Path, Argument(metavar="CONFIG.toml|DETECTOR", help="A configuration, or the detector of one machine.")
    ],
    folder: Annotated[
        Path | None, Option("--folder", metavar="DIR", help="Folder into which a recorder writes, of DETECTOR.")
    ] = None,
    machine: Annotated[str | None, Option(help="The machine, of a DETECTOR of several.")] = None,
    memory: Annotated[
        str | None,
        Option(metavar="FILE", help="Where alarms and scores are kept; default watch.sqlite in DIR's parent."),
    ] = None,
    once: Annotated[bool, Option("--once", help="Stop after the recordings that are in DIR.")] = False,
    fail_on_alarm: Annotated[
        bool, Option("--fail-on-alarm", help="Exit with 1 if an alarm is open at the end.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON for each event and window.")] = False,
) -> None:
    """Watch machines: score their sound as it comes, raise alarms, and keep both."""
    config, base = _configuration(target, folder, machine, memory, once)
    if as_json:
        from nearfar.watch.config import SinkTable

        sinks = {**config.sinks, "standard output": SinkTable(kind="lines")}
        config = config.model_copy(update={"sinks": sinks})
    if _run(config, base) and fail_on_alarm:
        raise Exit(1)


def _configuration(
    target: Path, folder: Path | None, machine: str | None, memory: str | None, once: bool
) -> tuple[WatchConfig, Path]:
    """The configuration, and the folder that its paths are relative to."""
    from nearfar.watch.config import checked_config, load_config

    if folder is None:
        for flag, given in (("--once", once), ("--machine", machine is not None)):
            if given:
                raise usage_error(flag, "it without --folder", "it with --folder", "Add --folder, or leave it out")
        if target.is_dir():
            raise usage_error(
                "--folder", "a detector without it", "--folder DIR", "Say where its recordings appear"
            )
        config = load_config(target)
        if memory is not None:
            config = config.model_copy(
                update={"memory": str(Path(memory).absolute()) if "://" not in memory else memory}
            )
        return config, target.absolute().parent
    name = machine or folder.absolute().name
    table: dict[str, Any] = {"detector": str(target.absolute()), "folder": str(folder.absolute()), "once": once}
    if machine is not None:
        table["machine"] = machine
    tree = {
        "name": name,
        "memory": memory or str(folder.absolute().parent / "watch.sqlite"),
        "machines": {name: table},
    }
    return checked_config(tree, "nearfar watch"), Path.cwd()


def _run(config: WatchConfig, base: Path) -> bool:
    """Watch until it is stopped or all sources end; returns whether an alarm is open then."""
    from nearfar.watch.delivery import Delivery, build_sinks
    from nearfar.watch.engine import Watch
    from nearfar.watch.memory import Memory

    stop = threading.Event()
    place = config.memory if "://" in config.memory else str(base / config.memory)
    memory = Memory.open(place)
    delivery = None
    try:
        engine = Watch(config, base, memory)
        delivery = Delivery(memory, build_sinks(config.sinks, memory))

        def stopped(number: int, frame: object) -> None:
            stop.set()
            engine.stop_soon()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopped)
        engine.run(stop, on_windows=delivery.windows)
        return bool(memory.alarms(open_only=True, limit=1))
    finally:
        if delivery is not None:
            delivery.close()
        memory.close()
