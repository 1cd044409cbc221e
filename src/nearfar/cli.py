"""The command line. Heavy libraries are imported inside the commands, so that ``--help`` answers at once.

Exit codes: 0 fine, 1 anomalous or below a bar where asked, 2 usage or input error.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfar import __version__
from nearfar.errors import InputError, NearfarError

if TYPE_CHECKING:
    from nearfar.config import Recipe

app = typer.Typer(
    name="nearfar",
    help="Hears when a machine starts to fail, from one microphone near it and one far from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataOption = Annotated[Path, typer.Option("--data", help="Folder with <machine>/{train,test}/*.wav or *.flac.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write into; made if needed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
NoteOption = Annotated[
    str | None, typer.Option("--note", help="A line for the tables, such as 'simulated data'; never left out.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key: --set training.steps=100"),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Folder, file or hub name of the encoder's weights, or random:tiny."),
]


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


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with <machine>/{train,test}/*.wav.")],
    as_json: JsonOption = False,
) -> None:
    """Say what nearfar understands of a data folder, machine by machine."""
    from nearfar.data.layouts import read_dataset
    from nearfar.data.summary import summarise

    dataset = read_dataset(folder)
    machines = summarise(dataset)
    if as_json:
        tree = {
            "root": str(folder),
            "machines": [m.to_json() for m in machines],
            "oddities": list(dataset.oddities),
        }
        print(json.dumps(tree, indent=1, default=str))
        return
    from nearfar.terminal import data_table, show

    show(data_table(machines))
    for oddity in [*dataset.oddities, *(f"{m.machine}: {oddity}" for m in machines for oddity in m.oddities)]:
        show(f"[yellow]odd[/] {oddity}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; must be new or empty.")],
    machines: Annotated[str | None, typer.Option(help="Machine types, comma-separated; default all.")] = None,
    train_source: Annotated[
        int, typer.Option(help="Normal training clips of the source domain per machine.")
    ] = 60,
    train_target: Annotated[int, typer.Option(help="Normal training clips of the target domain.")] = 10,
    test: Annotated[int, typer.Option(help="Test clips per domain and label.")] = 15,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 6.0,
    snr_db: Annotated[
        str, typer.Option(help="Lowest and highest signal-to-noise ratio at the near mic.")
    ] = "-3,9",
    severity: Annotated[str, typer.Option(help="Lowest and highest severity of the faults, 0 to 1.")] = "0.4,1",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
) -> None:
    """Make a two-microphone factory in the DCASE 2026 layout: simulated machines, rooms, noise and faults."""
    from nearfar.data.simulate import FactoryPlan, machine_types, simulate_factory
    from nearfar.terminal import progress_bars, show

    plan = FactoryPlan(
        machines=tuple(machines.split(",")) if machines else machine_types(),
        train_source=train_source,
        train_target=train_target,
        test_per_group=test,
        clip_seconds=seconds,
        snr_db=_pair("--snr-db", snr_db),
        severity=_pair("--severity", severity),
        seed=seed,
    )
    with progress_bars() as progress:
        simulate_factory(plan, out, lambda done, total: progress("simulating clips", done, total))
    show(f"Simulated recordings of {', '.join(plan.machines)} are in {out}.")


@app.command()
def run(
    system: Annotated[str, typer.Argument(help="A recipe: eat-fusion, eat-near, tiny-near..., or a TOML file.")],
    data: DataOption,
    out: OutOption,
    model: Annotated[Path | None, typer.Option(help="Model folder to share between systems.")] = None,
    encoder: EncoderOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    settings: SetOption = None,
    note: NoteOption = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one system: train its model (or reuse it), score the test clips, evaluate."""
    from nearfar.config import load_recipe
    from nearfar.systems.run import run_system
    from nearfar.terminal import progress_bars

    recipe = _changed(load_recipe(system), encoder, seed, settings)
    with progress_bars() as progress:
        finished = run_system(
            recipe, data, out, model_folder=model, note=note, progress=progress, tensorboard=tensorboard
        )
    if finished is None:
        return
    _print_results({finished.recipe.name: finished.results}, note, as_json, out)


@app.command()
def reproduce(
    data: DataOption,
    out: OutOption,
    suite: Annotated[
        str, typer.Option(help="report (EAT-base, as published) or tiny (small, from scratch).")
    ] = "report",
    encoder: EncoderOption = None,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated; several give mean ± deviation.")] = "0",
    settings: SetOption = None,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the two models, score the report's four systems and print its Table 1."""
    from nearfar.evaluation.tables import to_json, to_rich
    from nearfar.systems.reproduce import SUITES, suite_recipes
    from nearfar.systems.reproduce import reproduce as run_suite
    from nearfar.terminal import progress_bars, show

    if suite not in SUITES:
        raise InputError("--suite", found=suite, expected=f"one of {', '.join(SUITES)}", remedy="Choose one")
    recipes = [_changed(recipe, encoder, None, settings) for recipe in suite_recipes(suite)]
    with progress_bars() as progress:
        finished = run_suite(recipes, data, out, seeds=_integers("--seeds", seeds), note=note, progress=progress)
    if finished is None:
        show(f"Scores are in {out}; there is no table, as the test clips hide their labels.")
    elif as_json:
        print(to_json(finished.table), end="")
    else:
        show(to_rich(finished.table))
        show(f"Table, scores and figures are in {out}.")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write into; made if needed.")] = Path("demo"),
) -> None:
    """Simulate a small factory, train the tiny encoder, run all four systems: a few minutes on two cores."""
    from nearfar.evaluation.tables import to_rich
    from nearfar.systems.demo import demonstrate
    from nearfar.terminal import progress_bars, show

    show("The recordings of this demonstration are simulated, and the encoder starts from random weights.")
    with progress_bars() as progress:
        finished = demonstrate(out, progress)
    if finished is None:
        return
    show(to_rich(finished.table))
    show("50 is chance. The data is simulated: these numbers say that nearfar works, not how well it hears.")
    show(f"Look at {out}/results/tiny-near/figures/*.png and listen to {out}/factory.")


@app.command()
def evaluate(
    scores: Annotated[Path, typer.Option("--scores", help="Folder of anomaly_score_*.csv files.")],
    as_json: JsonOption = False,
    note: NoteOption = None,
) -> None:
    """Evaluate score files by the official metrics; labels come from the file names in them."""
    from nearfar.evaluation.metrics import evaluate_scores
    from nearfar.scoring.scorefiles import read_scores

    _print_results({scores.name: evaluate_scores(read_scores(scores))}, note, as_json, None)


@app.command()
def embed(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="WAV or FLAC files.")],
    encoder: Annotated[
        str, typer.Option(help="Folder, file or hub name of the encoder's weights, or random:tiny.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write: .safetensors or .npy.")],
    channel: Annotated[str, typer.Option(help="near or far.")] = "near",
    pooling: Annotated[str, typer.Option(help="cls, or mean over the patch tokens.")] = "mean",
    seconds: Annotated[
        float | None, typer.Option(help="Zero-pad every clip to this length; default: each clip's own length.")
    ] = None,
) -> None:
    """Write one embedding per file with a plain encoder, without any training."""
    from nearfar.scoring.frozen import embed_files
    from nearfar.terminal import progress_bars, show

    with progress_bars() as progress:
        shape = embed_files(
            files,
            encoder,
            out,
            channel=channel,
            pooling=pooling,
            clip_seconds=seconds,
            progress=lambda done, total: progress("embedding files", done, total),
        )
    show(f"{out}: {shape[0]} embeddings of {shape[1]} numbers.")


def _changed(recipe: Recipe, encoder: str | None, seed: int | None, settings: list[str] | None) -> Recipe:
    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError("--set", found=setting, expected="KEY=VALUE", remedy="Write --set training.steps=100")
        changes[key] = _value(value)
    if encoder is not None:
        changes["encoder.weights"] = encoder
    if seed is not None:
        changes["seed"] = seed
    return recipe.with_changes(**changes) if changes else recipe


def _value(text: str) -> Any:
    """A TOML value (number, true, list, quoted text), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected="two numbers, as in -3,9", remedy="Correct it") from None
    return low, high


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, found=text, expected="whole numbers, as in 0,1,2", remedy="Correct it") from None


def _print_results(results: dict[str, Any], note: str | None, as_json: bool, out: Path | None) -> None:
    from nearfar.evaluation.tables import results_table, to_json, to_rich
    from nearfar.terminal import show

    if any(value is None for value in results.values()):
        show(f"Scores are in {out}; there is no table, as the test clips hide their labels.")
        return
    table = results_table({name: [value] for name, value in results.items()}, notes=[note] if note else [])
    if as_json:
        print(to_json(table), end="")
        return
    show(to_rich(table))
    if out is not None:
        show(f"Table, scores and figures are in {out}.")


def main() -> None:
    """Run the command line; an error a person can fix is one message and exit code 2."""
    try:
        app()
    except NearfarError as error:
        print(f"nearfar: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "nearfar: stopped; what was written is kept, and the same command goes on from there", file=sys.stderr
        )
        sys.exit(130)
