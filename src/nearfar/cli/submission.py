"""The command that writes and checks submission packages."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.options import JsonOption
from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.challenge.submission_check import PackageReport
    from nearfar.challenge.submission_meta import Author


def submit(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of a run on evaluation data.", show_default=False)
    ] = None,
    label: Annotated[str | None, typer.Option(help="<LastName>_<INST>_task2_<1 to 4>.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write task2/<label>/ into.")] = None,
    dev: Annotated[
        Path | None,
        typer.Option(
            help="Run of the same system on the development set, for its results; default: those of RUN."
        ),
    ] = None,
    authors: Annotated[
        Path | None,
        typer.Option(
            help="TOML file, a table of the array authors for each: firstname, lastname, email, "
            "institution, department, location, corresponding = true."
        ),
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(help="'First Last <address@host>' instead; may be repeated.")
    ] = None,
    institution: Annotated[str | None, typer.Option(help="Of every --author.")] = None,
    department: Annotated[str | None, typer.Option(help="Of every --author.")] = None,
    location: Annotated[str | None, typer.Option(help="Of every --author.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the system; by default the recipe's.")] = None,
    abbreviation: Annotated[str | None, typer.Option(help="Its short name; by default the recipe's.")] = None,
    source_code: Annotated[str | None, typer.Option(help="Address of the source code, if public.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Check a package instead of writing one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a challenge submission from a run, or check one; exit with 1 if it has defects."""
    from nearfar.challenge.submission import write_submission
    from nearfar.challenge.submission_check import check_submission

    if check is not None:
        if run is not None:
            raise InputError(
                "nearfar submit", found="both a run and --check", expected="one of them", remedy="Leave one out"
            )
        _report(check_submission(check), check, as_json)
        return
    if run is None or label is None or out is None:
        raise InputError(
            "nearfar submit",
            found="no run, no --label or no --out",
            expected="RUN --label LABEL --out DIR, or --check DIR",
            remedy="Add what is missing",
        )
    written = write_submission(
        run,
        label,
        out,
        authors=_authors(authors, author or [], institution, department, location),
        development=dev,
        name=name,
        abbreviation=abbreviation,
        source_code=source_code,
    )
    _report(check_submission(written.parent), written.parent, as_json)


def _authors(
    file: Path | None, texts: list[str], institution: str | None, department: str | None, location: str | None
) -> list[Author]:
    from nearfar.challenge.submission_meta import parse_author, read_authors

    listed = [] if file is None else read_authors(file)
    affiliation = {"institution": institution, "department": department, "location": location}
    return listed + [parse_author(text, **affiliation) for text in texts]


def _report(report: PackageReport, folder: Path, as_json: bool) -> None:
    """Print what a check found; exit code 1 if there are defects."""
    if as_json:
        print(json.dumps({"folder": str(folder), **asdict(report)}, indent=2, ensure_ascii=False))
    else:
        for defect in report.defects:
            print(f"{defect.where}: {defect.what}")
        for note in report.notes:
            print(f"note: {note}")
        count = len(report.defects)
        verdict = "no defects" if not count else "1 defect" if count == 1 else f"{count} defects"
        print(f"{folder}: {', '.join(report.systems) or 'no system'}: {verdict}")
    if report.defects:
        raise typer.Exit(1)
