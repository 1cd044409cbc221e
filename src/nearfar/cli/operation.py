"""The commands of operation: add recordings to a detector, undo that, and count alarms on labelled recordings."""

# ruff: noqa: PT028 - the command nearfar test is no test

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from nearfar.cli import options
from nearfar.cli.machine import DetectorArgument
from nearfar.cli.messages import print_error, usage_error
from nearfar.terminal import progress_bars, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nearfar.detector.detector import Detector
    from nearfar.detector.history import Change

EncoderPath = Annotated[str | None, Option("--encoder", help="Path of the detector's encoder, if it has moved.")]
NoteOption = Annotated[str | None, Option("--note", help="A line that is recorded with the change.")]
MachineOption = Annotated[
    str | None, Option(help="Machine of the recordings; default: the name of the folder they are in.")
]


def add(
    detector: DetectorArgument,
    files: Annotated[list[Path], Argument(metavar="FILES", help="Recordings, or folders of them.")],
    normal: Annotated[bool, Option("--normal", help="They are of normal operation.")] = False,
    fault: Annotated[str | None, Option("--fault", metavar="NAME", help="They are of this known fault.")] = None,
    machine: MachineOption = None,
    domain: Annotated[str | None, Option(help="source or target, of normal recordings.")] = None,
    date: Annotated[
        str | None, Option("--date", metavar="DATE", help="Date of the fault, as 2026-05-03; default today.")
    ] = None,
    note: NoteOption = None,
    labelled: Annotated[
        Path | None,
        Option("--labelled", metavar="FOLDER", help="Labelled recordings to count alarms on before and after."),
    ] = None,
    encoder: EncoderPath = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Add normal recordings or a known fault to a detector, and find its thresholds again by the same rules."""
    from nearfar.detector.detector import Detector
    from nearfar.detector.saving import save_changed

    if normal == (fault is not None):
        found = "both --normal and --fault" if normal else "neither --normal nor --fault"
        raise usage_error("nearfar add", found, "one of them", "Say which the recordings are")
    for flag, value, wrong in (("--date", date, normal), ("--domain", domain, not normal)):
        if value is not None and wrong:
            other = "--normal" if normal else "--fault"
            raise usage_error(flag, f"{value} with {other}", "it without", "Omit it")
    if labelled is not None and not normal:
        raise usage_error("--labelled", "it with --fault", "it with --normal", "Use nearfar test --add-fault")
    before = Detector.load(detector, encoder=encoder)
    with progress_bars() as progress:
        if fault is None:
            after = before.with_normals(
                files, machine, domain=domain, note=note, labelled=labelled, progress=progress
            )
        else:
            after = before.with_fault(fault, files, machine, date=date, note=note, progress=progress)
    save_changed(before, after, detector)
    changes = after.history[len(before.history) :]
    if as_json:
        _print_json(changes)
        return
    _show_changes(changes)
    show(f"{detector} was changed. Take it back: nearfar undo {detector}")


def undo(
    detector: DetectorArgument,
    listing: Annotated[bool, Option("--list", help="List all changes, and undo none.")] = False,
    encoder: EncoderPath = None,
    as_json: options.Json = False,
) -> None:
    """Undo the last change of a detector, or list all of them."""
    from nearfar.detector.detector import Detector
    from nearfar.detector.saving import save_changed
    from nearfar.detector.store import read_card, read_history

    if listing:
        changes, _ = read_history(detector, read_card(detector))
        if as_json:
            _print_json(changes)
        else:
            _show_changes(changes, every=True)
        return
    before = Detector.load(detector, encoder=encoder)
    after = before.undone()
    save_changed(before, after, detector)
    (change,) = (new for old, new in zip(before.history, after.history, strict=True) if old != new)
    if as_json:
        _print_json([change])
    else:
        what = "known fault" if change.fault else "normal"
        show(f"Undone: {_count(len(change.files), what)} of {change.machine}, added {change.date}.")


def test(
    detector: DetectorArgument,
    folder: Annotated[
        Path,
        Argument(
            metavar="FOLDER",
            help="<machine>/test/normal and <machine>/test/<fault>, or test recordings of the challenge.",
        ),
    ],
    machine: MachineOption = None,
    add_normal: Annotated[
        list[Path] | None,
        Option("--add-normal", metavar="FILES", help="Count as well as if these were added as normal."),
    ] = None,
    add_fault: Annotated[
        list[str] | None,
        Option("--add-fault", metavar="NAME=FILES", help="Count as well as if these were added as a known fault."),
    ] = None,
    encoder: EncoderPath = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Count false alarms and detections on labelled recordings, also as they would be after a change."""
    from nearfar.detector.additions import files_of
    from nearfar.detector.detector import Detector

    faults = [_named_fault(text) for text in add_fault or []]
    added = files_of([*(add_normal or []), *(path for _, path in faults)])
    before = Detector.load(detector, encoder=encoder)
    with progress_bars() as progress:
        counts = before.tested(folder, machine, without=added, progress=progress)
        states = [("now", before, counts)]
        if add_normal or faults:
            after = before.with_normals(add_normal, machine, progress=progress) if add_normal else before
            for name, path in faults:
                after = after.with_fault(name, path, machine, progress=progress)
            again = after.tested(folder, machine, without=added, progress=progress)
            states.append(("after the change", after, again))
    if as_json:
        tree = {
            when: {
                "machines": [entry.model_dump(mode="json") for entry in found],
                "thresholds": [entry.model_dump(mode="json") for entry in state.thresholds],
            }
            for when, (_, state, found) in zip(("before", "after"), states, strict=False)
        }
        print(json.dumps(tree, indent=1, ensure_ascii=False))
        return
    _show_counts(states)


def _named_fault(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise usage_error("--add-fault", text, "NAME=FILES", "Write --add-fault 'bearing fault=FOLDER'")
    return name, Path(path)


def _show_counts(states: Sequence[tuple[str, Detector, Any]]) -> None:
    from nearfar.terminal import counts_table

    show(counts_table([(when, found) for when, _, found in states]))
    undecided = sum(entry.undecided for entry in states[0][2])
    if undecided:
        message = f"nearfar: {undecided} recordings are not counted: no threshold, other microphones or unusable"
        print(message, file=sys.stderr)
    if len(states) > 1:
        _show_changes(states[1][1].history[len(states[0][1].history) :])
        show("Nothing was changed. Recordings that would be added are not counted, before and after.")


def _print_json(changes: Sequence[Change]) -> None:
    print(json.dumps([entry.model_dump(mode="json") for entry in changes], indent=1, ensure_ascii=False))


def _show_changes(changes: Sequence[Change], *, every: bool = False) -> None:
    from nearfar.terminal import changes_table

    if every and not changes:
        show("The detector was not changed since it was fitted.")
        return
    show(changes_table(changes))
    for entry in () if every else changes:
        for threshold in entry.thresholds_after:
            if threshold.remark is not None:
                print_error(f"{entry.machine}: {threshold.remark}")


def _count(number: int, kind: str) -> str:
    return f"{number} {kind} recording{'' if number == 1 else 's'}"
