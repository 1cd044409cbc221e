"""The command line. Heavy libraries are imported inside the commands, so that ``--help`` answers at once.

Exit codes: 0 fine, 1 anomalous or below a bar where asked, 2 usage or input error.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from nearfar import __version__
from nearfar.cli import (
    ablation,
    data,
    detector,
    distil,
    download,
    embeddings,
    pretraining,
    report,
    scores,
    submission,
    systems,
)
from nearfar.errors import NearfarError

app = typer.Typer(
    name="nearfar",
    help="Hears when a machine starts to fail, from one microphone near it and one far from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (
    data.data,
    data.simulate,
    systems.run,
    systems.reproduce,
    systems.demo,
    ablation.ablate,
    ablation.ensemble,
    scores.evaluate,
    scores.compare,
    scores.table,
    detector.fit,
    detector.score,
    detector.threshold,
    submission.submit,
    embeddings.embed,
    distil.distil,
    pretraining.pretrain,
    report.report,
):
    app.command()(command)
app.add_typer(download.app, name="download")


_INTERRUPTED = 130
"""What typer exits with after Ctrl-C."""


def _version(value: bool) -> None:
    if value:
        print(f"nearfar {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def main() -> None:
    """Run the command line; an error a person can fix is one message and exit code 2."""
    try:
        app()
    except NearfarError as error:
        _say(str(error))
        sys.exit(2)
    except OSError as error:
        _say(
            f"{error.filename or 'a file'}: found {error.strerror or error}; expected to read and write there. "
            "Look at permissions and free space, and run the same command again; what was written is kept."
        )
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            _say("stopped; what was written is kept, and the same command goes on from there")
        raise


def _say(message: str) -> None:
    print(f"nearfar: {message}", file=sys.stderr)
