"""The command line. Heavy libraries are imported inside the commands, so that ``--help`` is fast.

Exit codes: 0 success; 1 an anomaly with ``--fail-on-anomaly``, a score below that of ``--below`` or a submission
with defects; 2 usage or input error, a recording that could not be scored, or a defect of the program; 130 stopped
with Ctrl-C.
"""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn

from typer import Exit, Option, Typer

from nearfar import __version__
from nearfar.cli import challenge, data, export, machine, operation, research, service, watch
from nearfar.cli.messages import USAGE_ERROR, Command, PrintableFormatter, print_error

app = Typer(
    name="nearfar",
    help="Anomalous sound detection of machines, with one microphone near the machine and one far from it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Your machine": (
        machine.fit,
        machine.score,
        machine.threshold,
        operation.add,
        operation.test,
        operation.undo,
        machine.report,
        export.export,
    ),
    "Monitoring": (watch.watch, service.doctor, service.token),
    "Challenge": (
        challenge.run,
        challenge.reproduce,
        challenge.evaluate,
        challenge.compare,
        challenge.submit,
        challenge.ensemble,
        challenge.table,
    ),
    "Data and weights": (data.data, data.simulate, data.demo),
    "Research": (research.ablate, research.embed, research.pretrain, research.distil, research.benchmark),
}
"""The commands, as ``--help`` groups them."""

for panel, commands in PANELS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel)(command)
app.add_typer(data.download, name="download", rich_help_panel="Data and weights")

NOT_IN_EDGE = frozenset({"joblib", "safetensors", "scipy", "sklearn", "threadpoolctl", "tomli_w", "torch"})
"""Modules that nearfar requires and nearfar-edge does not."""

_INTERRUPTED = 130
"""The exit code of typer after Ctrl-C."""


def _version(value: bool) -> None:
    if value:
        print(f"nearfar {__version__}")
        raise Exit


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be valid UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print_error("stopped; rerun the same command to resume")
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NOT_IN_EDGE:
            _report_defect()
        print_error(
            f"this command needs the Python module {error.name}, which nearfar-edge comes without. "
            "Run pip uninstall nearfar-edge, then pip install nearfar"
        )
        raise SystemExit(USAGE_ERROR) from None
    except Exception:  # Python would exit with 1, which means an anomaly
        _report_defect()


def _report_defect() -> NoReturn:
    traceback.print_exc()
    print_error("this is a defect of nearfar, please report it with the lines above")
    raise SystemExit(USAGE_ERROR) from None
