"""The commands that summarise and simulate data folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.options import (
    FarOption,
    JsonOption,
    NearOption,
    number_pair,
)

if TYPE_CHECKING:
    from nearfar.data.channel_check import ChannelWarning
    from nearfar.data.layouts import Dataset


def data(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Data folder, such as <machine>/{train,test}/*.wav.")
    ],
    as_json: JsonOption = False,
    check: Annotated[
        bool,
        typer.Option("--check-channels", help="Also check near and far channels on a sample of recordings."),
    ] = False,
    near: NearOption = None,
    far: FarOption = None,
) -> None:
    """Summarise a data folder per machine: clips, domains, lengths, channels, warnings."""
    from nearfar.config import FAR_CHANNEL, NEAR_CHANNEL
    from nearfar.data import read_dataset
    from nearfar.data.summary import summarise

    dataset = read_dataset(folder)
    machines = summarise(dataset)
    numbers = (NEAR_CHANNEL if near is None else near, FAR_CHANNEL if far is None else far)
    warnings = _channel_warnings(dataset, *numbers) if check else []
    if as_json:
        tree = {
            "root": str(folder),
            "machines": [m.to_json() for m in machines],
            "warnings": list(dataset.warnings),
            **({"channel_warnings": [warning.to_json() for warning in warnings]} if check else {}),
        }
        print(json.dumps(tree, indent=1, default=str))
        return
    from rich.text import Text

    from nearfar.terminal import data_table, show

    show(data_table(machines))
    for text in [*dataset.warnings, *(f"{m.machine}: {text}" for m in machines for text in m.warnings)]:
        show(Text.assemble(("warning", "yellow"), f" {text}"))
    for warning in warnings:
        exchange = " Exchange: --near {1} --far {0}.".format(*numbers) if warning.kind == "swapped" else ""
        show(Text.assemble(("warning", "red"), f" {warning}{exchange}"))
    if check and not warnings:
        show("Near and far channels of the sampled recordings show no fault.")


def _channel_warnings(dataset: Dataset, near: int, far: int) -> list[ChannelWarning]:
    from nearfar.data.channel_check import check_channels
    from nearfar.terminal import progress_bars

    with progress_bars() as progress:
        return check_channels(dataset, near=near, far=far, progress=progress)


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create; must be new or empty.")],
    machines: Annotated[str | None, typer.Option(help="Machine types, comma-separated; default all.")] = None,
    train_source: Annotated[
        int, typer.Option(help="Normal training clips of the source domain per machine.")
    ] = 60,
    train_target: Annotated[int, typer.Option(help="Normal training clips of the target domain.")] = 10,
    test: Annotated[int, typer.Option(help="Test clips per domain and label.")] = 15,
    seconds: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 4.0,
    snr_db: Annotated[
        str, typer.Option(help="Lowest and highest signal-to-noise ratio in dB at the near microphone.")
    ] = "8,18",
    severity: Annotated[str, typer.Option(help="Lowest and highest severity of the faults, 0 to 1.")] = "0.4,1",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
) -> None:
    """Simulate recordings of a factory with two microphones in the DCASE 2026 layout, with faults and noise."""
    from nearfar.data.simulate import FactoryPlan, machine_types, simulate_factory
    from nearfar.terminal import progress_bars, show

    plan = FactoryPlan(
        machines=tuple(machines.split(",")) if machines else machine_types(),
        train_source=train_source,
        train_target=train_target,
        test_per_group=test,
        clip_seconds=seconds,
        snr_db=number_pair("--snr-db", snr_db),
        severity=number_pair("--severity", severity),
        seed=seed,
    )
    with progress_bars() as progress:
        simulate_factory(plan, out, lambda done, total: progress("simulating clips", done, total))
    show(f"Simulated recordings of {', '.join(plan.machines)} are in {out}.")
