"""A second, plain implementation of the challenge's baselines, to separate a mistake in the first from chance.

python benchmarks/autoencoder_second.py DATA --official SCORES --seeds 0,1,2

Written from the same description with other tools and nothing of nearfar: librosa's mel spectrogram, torch's
DataLoader over single vectors, its linear layers, plain Adam and global seeds; the Mahalanobis score by the whole
N x N matrix. SCORES holds mse/ and mahala/ with anomaly_score_<machine>_section_00_test.csv of the official code.
Prints the AUC of source and target, pAUC and the rank correlation of clip scores with the official ones.
"""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

EPOCHS, BATCH, STACKED, MELS = 100, 256, 5, 128
WIDTHS = (STACKED * MELS, 128, 128, 128, 128, 8, 128, 128, 128, 128)

Batch = tuple[Tensor, Tensor]


def vectors_of(path: Path) -> NDArray[np.float32]:
    """Five consecutive log-mel frames of the near channel side by side, (frames - 4, 640) float32."""
    waveform, rate = librosa.load(path, sr=None, mono=False)
    mel = librosa.feature.melspectrogram(
        y=waveform[0], sr=rate, n_fft=1024, hop_length=512, n_mels=MELS, power=2.0
    )
    log_mel = 10.0 * np.log10(np.maximum(mel, sys.float_info.epsilon))
    count = log_mel.shape[1] - STACKED + 1
    return np.concatenate([log_mel[:, t : t + count] for t in range(STACKED)]).T.astype(np.float32)


def autoencoder() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, momentum=0.01, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], WIDTHS[0]))


def train(vectors: Dataset[Batch], count: int, seed: int) -> tuple[nn.Sequential, DataLoader[Batch]]:
    """Returns the network in evaluation mode and the loader of its training vectors."""
    torch.manual_seed(seed)
    held_out = int(0.1 * count)
    training, _ = random_split(vectors, [count - held_out, held_out])
    network = autoencoder()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(training, batch_size=BATCH, shuffle=True)
    for _ in range(EPOCHS):
        for batch, _ in loader:
            if len(batch) > 1:
                optimizer.zero_grad()
                F.mse_loss(network(batch), batch).backward()
                optimizer.step()
    return network.eval(), loader


@torch.no_grad()
def inverse_covariances(network: nn.Module, loader: DataLoader[Batch]) -> list[Tensor]:
    sums, counts = torch.zeros(2, MELS, MELS, dtype=torch.float64), [0, 0]
    for batch, is_target in loader:
        residual = batch - network(batch)
        for domain in (0, 1):
            chosen = residual[is_target == domain]
            if len(chosen):
                rows = chosen.reshape(-1, MELS)
                rows = rows - rows.mean(dim=0)
                sums[domain] += rows.T @ rows
                counts[domain] += len(chosen)
    return [torch.inverse((sums[domain] / (counts[domain] - 1)).float()) for domain in (0, 1)]


@torch.no_grad()
def scores_of(network: nn.Module, inverses: list[Tensor], paths: list[Path]) -> dict[str, NDArray[np.float64]]:
    scores: dict[str, list[float]] = {"mse": [], "mahala": []}
    for path in paths:
        vectors = torch.from_numpy(vectors_of(path))
        residual = network(vectors) - vectors
        rows = residual.reshape(-1, MELS)
        scores["mse"].append(float(residual.square().mean()))
        scores["mahala"].append(min(float((rows @ inverse @ rows.T).mean()) for inverse in inverses))
    return {kind: np.array(values) for kind, values in scores.items()}


def report(
    machine: str, seed: int, paths: list[Path], scores: dict[str, NDArray[np.float64]], official: Path
) -> None:
    anomalous = np.array(["_anomaly_" in path.name for path in paths])
    target = np.array(["_target_" in path.name for path in paths])
    for kind, values in scores.items():
        rows = [(target == domain) | anomalous for domain in (False, True)]
        cells = [roc_auc_score(anomalous[row], values[row]) for row in rows]
        cells.append(roc_auc_score(anomalous, values, max_fpr=0.1))
        file = official / kind / f"anomaly_score_{machine}_section_00_test.csv"
        known = {Path(name).stem: float(score) for name, score in csv.reader(file.open(encoding="utf-8"))}
        rank = spearmanr([known[path.stem] for path in paths], values)[0]
        print(machine, seed, kind, *(f"{100 * cell:.2f}" for cell in cells), f"{rank:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machines = sorted(path.parent.name for path in arguments.data.glob("*/test"))
    for seed in map(int, arguments.seeds.split(",")):
        for machine in machines:
            training = sorted((arguments.data / machine / "train").iterdir())
            test = sorted((arguments.data / machine / "test").iterdir())
            clips = [vectors_of(path) for path in training]
            is_target = [np.full(len(c), "_target_" in p.name) for c, p in zip(clips, training, strict=True)]
            vectors = TensorDataset(*(torch.from_numpy(np.concatenate(parts)) for parts in (clips, is_target)))
            network, loader = train(vectors, len(vectors), seed)
            scores = scores_of(network, inverse_covariances(network, loader), test)
            report(machine, seed, test, scores, arguments.official)


if __name__ == "__main__":
    main()
