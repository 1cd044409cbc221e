"""Training an autoencoder on whole-epoch tensors, two threads, against a torch DataLoader over single vectors.

python benchmarks/autoencoder.py

Also measures an epoch and the front end at the size of a challenge machine, 1,000 clips of 10 s, and says how long
its 100 epochs take.
"""

from __future__ import annotations

import json
import time
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nearfar.config import Autoencoder as Settings
from nearfar.models.autoencoder import Autoencoder, stacked
from nearfar.models.slaney import slaney_log_mel
from nearfar.training.autoencoder import gather_vectors, train_autoencoder

THREADS, CLIPS, FRAMES, ROUNDS = 2, 40, 313, 5
MACHINE_CLIPS, EPOCHS, CLIP_SAMPLES = 1_000, 100, 160_000
SETTINGS = Settings(epochs=1, validation_fraction=0.0)


class SingleVectors(Dataset[Tensor]):
    """(vectors, 640) in memory, handed out one by one, as a loader over clips usually does it."""

    def __init__(self, log_mels: list[Tensor]) -> None:
        self.vectors = torch.cat([stacked(log_mel) for log_mel in log_mels])

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Tensor:
        return self.vectors[index]


def plain_epoch(log_mels: list[Tensor]) -> float:
    """Seconds of one epoch with a DataLoader, torch's own linear layers and Adam as it comes."""
    loader = DataLoader(SingleVectors(log_mels), batch_size=SETTINGS.batch_size, shuffle=True)
    network = plain_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS.learning_rate)
    began = time.perf_counter()
    for batch in loader:
        loss = F.mse_loss(network(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def plain_network() -> nn.Module:
    """The same layers, with torch's linear ones."""
    network = Autoencoder()
    for part in (network.encoder, network.decoder):
        for index, layer in enumerate(part):
            if isinstance(layer, nn.Linear):
                part[index] = nn.Linear(layer.in_features, layer.out_features)
    return network


def nearfar_epoch(log_mels: list[Tensor], settings: Settings = SETTINGS) -> float:
    """Seconds of one epoch, its validation included."""
    vectors = gather_vectors((log_mel, index % 100 == 0) for index, log_mel in enumerate(log_mels))
    _, history = train_autoencoder(vectors, settings, seed=0)
    return history[0].seconds


def front_end(clips: int = 10) -> float:
    """Seconds for the log-mel of one 10 s clip."""
    waveforms = 0.1 * torch.randn(clips, CLIP_SAMPLES)
    slaney_log_mel(waveforms[0])
    began = time.perf_counter()
    for waveform in waveforms:
        slaney_log_mel(waveform)
    return (time.perf_counter() - began) / clips


def main() -> None:
    torch.set_num_threads(THREADS)
    log_mels = [5 * torch.randn(FRAMES, 128) - 40 for _ in range(CLIPS)]
    plain, ours = [], []
    for turn in range(ROUNDS + 1):  # taking turns, the first one does not count
        seconds = plain_epoch(log_mels), nearfar_epoch(log_mels)
        if turn:
            plain.append(seconds[0])
            ours.append(seconds[1])
    speedup = median(p / o for p, o in zip(plain, ours, strict=True))
    machine = [5 * torch.randn(FRAMES, 128) - 40 for _ in range(MACHINE_CLIPS)]
    epoch = nearfar_epoch(machine, Settings(epochs=1))
    clip = front_end()
    minutes = (EPOCHS * epoch + MACHINE_CLIPS * clip) / 60
    print(f"epoch of {CLIPS} clips, DataLoader   {median(plain):6.2f} s")
    print(f"epoch of {CLIPS} clips, nearfar      {median(ours):6.2f} s, {speedup:.2f} times as fast")
    print(f"epoch of {MACHINE_CLIPS} clips, nearfar    {epoch:6.2f} s; log-mel {1e3 * clip:.1f} ms per clip")
    print(f"so {EPOCHS} epochs of a machine of {MACHINE_CLIPS} clips of 10 s take {minutes:.1f} minutes")
    result = {"seconds_plain": median(plain), "seconds_nearfar": median(ours), "speedup": speedup}
    result |= {"seconds_machine_epoch": epoch, "milliseconds_log_mel": 1e3 * clip, "minutes_machine": minutes}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
