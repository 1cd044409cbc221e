"""Training an autoencoder on whole-epoch tensors against a torch DataLoader over single vectors.

python benchmarks/autoencoder.py

Seconds are processor time of one thread, which other work on the machine disturbs least. The time of a challenge
machine, 1,000 clips of 10 s, for its 100 epochs is measured as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nearfar.frontends.slaney import slaney_log_mel
from nearfar.scoring.autoencoder.network import Autoencoder, stacked
from nearfar.scoring.autoencoder.settings import AutoencoderSettings
from nearfar.scoring.autoencoder.training import Vectors, gather_vectors, train_autoencoder

CLIPS, FRAMES, ROUNDS, BATCH = 40, 313, 5, 256
MACHINE_CLIPS, EPOCHS, CLIP_SAMPLES = 1_000, 100, 160_000


class SingleVectors(Dataset[Tensor]):
    """(vectors, 640) in memory, returned one by one."""

    def __init__(self, log_mels: list[Tensor]) -> None:
        self.vectors = torch.cat([stacked(log_mel) for log_mel in log_mels])

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Tensor:
        return self.vectors[index]


def plain_network() -> nn.Module:
    """The same layers, with torch's own linear ones."""
    network = Autoencoder()
    for part in (network.encoder, network.decoder):
        for index, layer in enumerate(part):
            if isinstance(layer, nn.Linear):
                part[index] = nn.Linear(layer.in_features, layer.out_features)
    return network


def plain_epoch(loader: DataLoader[Tensor]) -> None:
    """One epoch as it is usually written, with plain Adam."""
    network = plain_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for batch in loader:
        loss = F.mse_loss(network(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def nearfar_epoch_seconds(vectors: Vectors, validation_fraction: float = 0.0) -> float:
    """Seconds of one further epoch, without work done once per training, such as the covariances."""
    one, three = (
        processor_seconds(
            lambda epochs=epochs: train_autoencoder(
                vectors, AutoencoderSettings(epochs=epochs, validation_fraction=validation_fraction), seed=0
            )
        )
        for epochs in (1, 3)
    )
    return (three - one) / 2


def nearfar_batches(vectors: Vectors) -> None:
    """The batches of an epoch, as training makes them."""
    for index in torch.split(torch.randperm(len(vectors)), BATCH):
        vectors.rows(index)


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def random_log_mels(clips: int) -> list[Tensor]:
    return [5 * torch.randn(FRAMES, 128) - 40 for _ in range(clips)]


def main() -> None:
    torch.set_num_threads(1)
    log_mels = random_log_mels(CLIPS)
    vectors = gather_vectors((log_mel, index == 0) for index, log_mel in enumerate(log_mels))
    loader = DataLoader(SingleVectors(log_mels), batch_size=BATCH, shuffle=True)
    works: dict[str, Callable[[], float]] = {
        "plain_batches": lambda: processor_seconds(lambda: list(loader)),
        "nearfar_batches": lambda: processor_seconds(lambda: nearfar_batches(vectors)),
        "plain_epoch": lambda: processor_seconds(lambda: plain_epoch(loader)),
        "nearfar_epoch": lambda: nearfar_epoch_seconds(vectors),
    }
    rounds = [{name: work() for name, work in works.items()} for _ in range(ROUNDS + 1)][1:]
    seconds = {name: median(turn[name] for turn in rounds) for name in works}
    speedup = median(turn["plain_epoch"] / turn["nearfar_epoch"] for turn in rounds)
    of_batches = median(turn["plain_batches"] / turn["nearfar_batches"] for turn in rounds)
    machine = gather_vectors((log_mel, index < 10) for index, log_mel in enumerate(random_log_mels(MACHINE_CLIPS)))
    epoch = nearfar_epoch_seconds(machine, validation_fraction=0.1)
    clip = median(processor_seconds(lambda: slaney_log_mel(torch.randn(CLIP_SAMPLES))) for _ in range(20))
    minutes = (EPOCHS * epoch + MACHINE_CLIPS * clip) / 60
    print(f"batches of {CLIPS} clips, DataLoader {seconds['plain_batches']:7.3f} s")
    print(
        f"batches of {CLIPS} clips, nearfar    {seconds['nearfar_batches']:7.3f} s, {of_batches:.1f} times as fast"
    )
    print(f"epoch of {CLIPS} clips, DataLoader   {seconds['plain_epoch']:7.3f} s")
    print(f"epoch of {CLIPS} clips, nearfar      {seconds['nearfar_epoch']:7.3f} s, {speedup:.2f} times as fast")
    print(f"epoch of {MACHINE_CLIPS} clips, nearfar    {epoch:7.3f} s; log-mel {1e3 * clip:.1f} ms per clip")
    print(f"so {EPOCHS} epochs of {MACHINE_CLIPS} clips of 10 s take {minutes:.1f} minutes of one thread")
    result = {f"seconds_{name}": value for name, value in seconds.items()}
    result |= {"speedup_batches": of_batches, "speedup": speedup}
    result |= {"seconds_machine_epoch": epoch, "milliseconds_log_mel": 1e3 * clip, "minutes_machine": minutes}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
