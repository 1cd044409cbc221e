"""The commands for data and weights: summarise, simulate and download recordings, and the demonstration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from nearfar.cli import options
from nearfar.cli.messages import Command, usage_error
from nearfar.cli.options import channel_numbers, number_pair
from nearfar.terminal import progress_bars, show


def data(
    folder: Annotated[Path, Argument(metavar="DIR", help="Data folder, such as <machine>/{train,test}/*.wav.")],
    as_json: options.Json = False,
    check: Annotated[
        bool, Option("--check-channels", help="Also check near and far channels on a sample of recordings.")
    ] = False,
    near: options.Near = None,
    far: options.Far = None,
    jobs: options.Jobs = None,
) -> None:
    """Summarise a data folder per machine: recordings, domains, lengths, channels, warnings."""
    from nearfar.data import read_dataset
    from nearfar.data.channel_check import check_channels
    from nearfar.data.summary import summarise
    from nearfar.data.walk import hidden_text

    dataset = read_dataset(folder)
    machines = summarise(dataset)
    near, far = channel_numbers(near, far)
    warnings = []
    if check:
        with progress_bars() as progress:
            warnings = check_channels(dataset, near=near, far=far, progress=progress)
    if as_json:
        tree = {
            "root": str(folder),
            "machines": [m.to_json() for m in machines],
            "warnings": list(dataset.warnings),
            "hidden": dataset.hidden,
            **({"channel_warnings": [warning.to_json() for warning in warnings]} if check else {}),
        }
        print(json.dumps(tree, indent=1, default=str))
        return
    from rich.text import Text

    from nearfar.terminal import data_table

    show(data_table(machines))
    for text in [*dataset.warnings, *(f"{m.machine}: {text}" for m in machines for text in m.warnings)]:
        show(Text.assemble(("warning", "yellow"), f" {text}"))
    if dataset.hidden:
        show(f"{hidden_text(dataset.hidden)} left out.")
    for warning in warnings:
        exchange = f" Exchange: --near {far} --far {near}." if warning.kind == "swapped" else ""
        show(Text.assemble(("warning", "red"), f" {warning}{exchange}"))
    if check and not warnings:
        show("Near and far channels of the sampled recordings show no fault.")


def simulate(
    out: Annotated[Path, Argument(metavar="OUT", help="Output folder; must be new or empty.")],
    machines: Annotated[str | None, Option(help="Machine types, comma-separated; default all.")] = None,
    train_source: Annotated[int, Option(help="Normal training recordings of the source domain per machine.")] = 60,
    train_target: Annotated[int, Option(help="Normal training recordings of the target domain.")] = 10,
    test: Annotated[int, Option(help="Test recordings per domain and label.")] = 15,
    seconds: Annotated[float, Option(help="Length of a recording in seconds.")] = 4.0,
    preset: Annotated[
        str, Option(help="plain, or dcase2026: channels related as in the real recordings, and faint faults.")
    ] = "plain",
    snr_db: Annotated[
        str | None,
        Option(
            help="Lowest and highest signal-to-noise ratio in dB at the near microphone; default the preset's."
        ),
    ] = None,
    severity: Annotated[
        str | None, Option(help="Lowest and highest severity of the faults, 0 to 1; default the preset's.")
    ] = None,
    seed: Annotated[int, Option(help="Seed of all random numbers.")] = 0,
    jobs: options.Jobs = None,
) -> None:
    """Simulate recordings of a factory with two microphones in the DCASE 2026 layout, with faults and noise."""
    from nearfar.data.simulate import PRESETS, FactoryPlan, machine_types, simulate_factory

    if preset not in PRESETS:
        raise usage_error("--preset", preset, f"one of {', '.join(PRESETS)}", "Choose one")
    chosen = PRESETS[preset]
    plan = FactoryPlan(
        machines=tuple(machines.split(",")) if machines else machine_types(),
        train_source=train_source,
        train_target=train_target,
        test_per_group=test,
        clip_seconds=seconds,
        snr_db=chosen.snr_db if snr_db is None else number_pair("--snr-db", snr_db),
        severity=chosen.severity if severity is None else number_pair("--severity", severity),
        seed=seed,
        preset=preset,
    )
    with progress_bars() as progress:
        simulate_factory(plan, out, lambda done, total: progress("simulating recordings", done, total))
    show(f"Simulated recordings of {', '.join(plan.machines)} are in {out}.")


def demo(
    out: options.Out = Path("demo"),
    jobs: options.Jobs = None,
) -> None:
    """Simulate a small factory; run the report's four systems with eat-tiny, and nearfar-best. A few minutes."""
    from nearfar.challenge.demo import BEST, demonstrate
    from nearfar.evaluation.tables import to_text
    from nearfar.report.run_page import report_run

    show("The recordings of this demonstration are simulated. The encoder is eat-tiny, which was trained on other")
    show("recordings of the same simulator. To get EAT-base: nearfar download eat-base")
    with progress_bars() as progress:
        finished = demonstrate(out, progress)
        if finished is None or finished.table is None:
            return
        report_run(out / "results" / BEST, out / "report.html")
    show(to_text(finished.table))
    show("50 is chance. The data is simulated: the scores show that nearfar runs, not how well it detects faults.")
    show(f"Open {out}/report.html in a browser. The recordings are in {out}/factory.")


download = Typer(
    no_args_is_help=True, help="Download the challenge's data, or the weights of a published encoder."
)

EncoderOutOption = Annotated[
    Path | None, Option("--out", help="Also copy the weights into this folder, for a computer without network.")
]


@download.command(cls=Command)
def dcase2026(
    parts: Annotated[
        list[str] | None,
        Argument(
            metavar="dev|train|eval",
            help="Development set, additional training set, evaluation test set; default all three.",
        ),
    ] = None,
    machines: Annotated[str | None, Option(help="Machine types, comma-separated; default all.")] = None,
    out: Annotated[Path, Option("--out", help="Data folder; created if needed.")] = Path("data"),
    connections: Annotated[int, Option(min=1, max=4, help="Archives downloaded at the same time.")] = 3,
    only_list: Annotated[
        bool, Option("--list", help="Print addresses, sizes and md5 sums; download nothing.")
    ] = False,
    base_url: Annotated[str | None, Option(envvar="NEARFAR_ZENODO", hidden=True)] = None,
) -> None:
    """Download, verify and unpack the recordings of DCASE 2026 Challenge Task 2.

    Rerun the same command to resume.
    """
    from nearfar.data.download.catalogue import ZENODO, chosen
    from nearfar.data.download.dataset import address_list
    from nearfar.data.download.dataset import download as download_archives

    archives, url = chosen(parts or (), machines.split(",") if machines else ()), base_url or ZENODO
    if only_list:
        print(address_list(archives, url))
        return
    with progress_bars() as progress:
        fetched = download_archives(archives, out, base_url=url, connections=connections, progress=progress)
    for entry in fetched:
        show(f"{entry.archive.filename}: {entry.how}")
    for record in dict.fromkeys(archive.record for archive in archives):
        show(f"Licence of record {record.number} of Zenodo: {record.licence}")
    show(f"The recordings are in {out}. Summarise them with: nearfar data {out}")


@download.command(cls=Command)
def eat_base(out: EncoderOutOption = None) -> None:
    """Download EAT-base, pre-trained on AudioSet: the encoder of the report's systems."""
    _download_encoder("eat-base", out)


@download.command(cls=Command)
def eat_large(out: EncoderOutOption = None) -> None:
    """Download EAT-large, pre-trained on AudioSet."""
    _download_encoder("eat-large", out)


def _download_encoder(short_name: str, out: Path | None) -> None:
    from nearfar.encoders.hub import fetch_encoder

    fetched = fetch_encoder(short_name, out)
    show(f"{fetched.name} at {fetched.revision}: {fetched.how}, {fetched.licence}")
    show(f"{fetched.weights}: {fetched.size_bytes} bytes, sha256 {fetched.sha256}")
    show(f"Recorded in {fetched.record}. Use it with: --encoder {out or fetched.name}")
