"""The command that watches machines."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from nearfar.cli.messages import usage_error
from nearfar.extras import require_extras

if TYPE_CHECKING:
    from nearfar.watch.config import WatchConfig


def watch(
    target: Annotated[
        Path | None,
        Argument(metavar="CONFIG.toml|DETECTOR", help="A configuration, or the detector of one machine."),
    ] = None,
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
    port: Annotated[
        int | None, Option(metavar="PORT", help="Serve the pages on this port of this computer; 0 is a free one.")
    ] = None,
    demo: Annotated[
        bool, Option("--demo", help="Play a simulated factory in fast time, and open its pages.")
    ] = False,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the pages of --demo.")] = True,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON for each event and window.")] = False,
) -> None:
    """Watch machines: score their sound as it comes, raise alarms, and keep both."""
    pages = ["report"] if demo or port is not None else []
    require_extras("nearfar watch", "watch", *pages, *(["simulate"] if demo else []))
    from nearfar.files import exclusive

    if demo:
        others = {"CONFIG.toml": target, "--folder": folder, "--machine": machine, "--memory": memory}
        for flag, given in others.items():
            if given is not None:
                raise usage_error(flag, "it with --demo", "--demo alone", "Leave it out")
        _demonstrate(8750 if port is None else port, browser)
        return
    if target is None:
        raise usage_error("CONFIG.toml", "none", "a configuration, a detector or --demo", "Name one")
    config, base = _configuration(target, folder, machine, memory, once)
    if port is not None:
        from nearfar.watch.config import PagesTable

        page = PagesTable(port=port) if config.page is None else config.page.model_copy(update={"port": port})
        config = config.model_copy(update={"page": page})
    from nearfar.watch.config import SinkTable

    shown = {"standard output": SinkTable(kind="lines")} if as_json else {"terminal": SinkTable(kind="text")}
    config = config.model_copy(update={"sinks": {**config.sinks, **shown}})
    place = config.memory_place(base)
    alone = nullcontext() if "://" in place else exclusive(Path(place), Path(f"{place}.lock"))
    with alone:
        is_open = _run(config, base)
    if is_open and fail_on_alarm:
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


def _demonstrate(port: int, browser: bool) -> None:
    """Play the demonstration in a temporary folder until it is stopped."""
    import tempfile
    import webbrowser

    from nearfar.terminal import progress_bars
    from nearfar.web.demo import NOTE, demo_clock, prepare_demo

    with tempfile.TemporaryDirectory(prefix="nearfar-demo-") as folder:
        with progress_bars() as progress:
            begin = prepare_demo(Path(folder), port, progress)
        config = begin()
        opened = webbrowser.open if browser else None
        _run(config, Path(folder), clock=demo_clock(config), note=NOTE, opened=opened)


def _run(
    config: WatchConfig,
    base: Path,
    *,
    clock: Callable[[], float] = time.time,
    note: str = "",
    opened: Callable[[str], object] | None = None,
) -> bool:
    """Watch until it is stopped or all sources end; returns whether an alarm is open then.

    Args:
        config: what to watch.
        base: the folder that its paths are relative to.
        clock: the time in seconds since 1970.
        note: a line on all pages.
        opened: called with the address of the pages.
    """
    from nearfar.watch.delivery import Delivery, build_sinks
    from nearfar.watch.engine import Watch
    from nearfar.watch.memory import Memory

    stop, earlier = threading.Event(), {}
    memory = Memory.open(config.memory_place(base))
    delivery = server = None
    try:
        engine = Watch(config, base, memory, clock=clock)
        delivery = Delivery(memory, build_sinks(config.sinks, memory, base))
        if config.page is not None:
            from nearfar.web.server import Server
            from nearfar.web.site import make_site

            server = Server(make_site(config, base, memory, clock=clock, note=note))
            print(f"nearfar: pages at {server.address}", file=sys.stderr)
            if opened is not None:
                opened(server.address)

        def stopped(number: int, frame: object) -> None:
            stop.set()
            engine.stop_soon()

        for number in (signal.SIGTERM, signal.SIGINT):
            earlier[number] = signal.signal(number, stopped)
        engine.run(stop, on_windows=delivery.windows)
        return bool(memory.alarms(open_only=True, limit=1))
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if server is not None:
            server.close()
        if delivery is not None:
            delivery.close()
        memory.close()
