"""Errors of the tokens of an encoder with noise-aware layers, in simulated rooms that training did not use.

    python benchmarks/noise_aware.py --encoder DIR --machines DIR --noises DIR [--snr-db 0]

Prints mean squared errors to the tokens of the machine alone, by signal-to-noise ratio: of the encoder with its
layers, and of the encoder without them on near, on far, and on near without what far predicts (view cancelled).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from nearfar.cancellation import Cancellation, cancel
from nearfar.data.recordings import find_recordings
from nearfar.encoders.noise_aware import load_noise_aware
from nearfar.pretraining.noise_aware.batches import RoomBatches
from nearfar.pretraining.noise_aware.recipe import load_noise_aware_recipe
from nearfar.pretraining.noise_aware.training import NoiseAwareLearner

FIRST_ROOM = 1_000_000
ROWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--machines", type=Path, nargs="+", required=True)
    parser.add_argument("--noises", type=Path, nargs="+", required=True)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[-10.0, 0.0, 10.0])
    parser.add_argument("--batches", type=int, default=16)
    arguments = parser.parse_args()
    machines, noises = find_recordings(arguments.machines), find_recordings(arguments.noises)
    recipe = load_noise_aware_recipe("noise-aware-tiny").with_changes(**{"rooms.count": 100})
    learner = NoiseAwareLearner(load_noise_aware(arguments.encoder), recipe).eval()
    print("| SNR dB | with layers | near | far | cancelled |\n|---|---:|---:|---:|---:|")
    for snr_db in arguments.snr_db:
        fixed = recipe.with_changes(**{"rooms.snr_db": [snr_db, snr_db]})
        batches = RoomBatches(machines, noises, fixed, FIRST_ROOM)
        totals = torch.zeros(4)
        for step in range(arguments.batches):
            batch = batches.rows(step, 0, ROWS)
            totals += errors(learner, batch.noisy, batch.wanted) / arguments.batches
        print(f"| {snr_db:g} | " + " | ".join(f"{value:.4f}" for value in totals.tolist()) + " |")


@torch.inference_mode()
def errors(learner: NoiseAwareLearner, noisy: Tensor, wanted: Tensor) -> Tensor:
    """(4,) errors of patch tokens."""
    near, far = noisy[:, 0].numpy(), noisy[:, 1].numpy()
    cancelled = [cancel(one, other, Cancellation()) for one, other in zip(near, far, strict=True)]
    alone = [noisy[:, 0], noisy[:, 1], torch.stack([torch.from_numpy(one) for one in cancelled])]
    others = [learner.errors_without_layers(one[:, None], wanted).token for one in alone]
    return torch.stack([learner(noisy, wanted).token, *others])


if __name__ == "__main__":
    main()
