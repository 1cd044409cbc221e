"""Training an autoencoder as nearfar does by default, against the loop of the challenge's baseline.

    python benchmarks/autoencoder.py [--busy 1]

The baseline's loop: a DataLoader that shuffles single vectors of five frames, each with its label, condition, file
name and number, batches of 256, float32, torch's linear layers, plain Adam, and torch's own number of threads.
Seconds are of the clock, of one epoch; both take turns. ``--busy N`` keeps N other processes computing meanwhile.
Target: at least 5 times as fast, quiet and beside a busy process. The processor time of both on one thread, and
the time of a challenge machine, 1,000 clips of 10 s, for its 100 epochs, follow from the same epochs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nearfar.frontends.slaney import slaney_log_mel
from nearfar.scoring.autoencoder.network import Autoencoder, stacked
from nearfar.scoring.autoencoder.settings import AutoencoderSettings
from nearfar.scoring.autoencoder.training import Vectors, gather_vectors, train_autoencoder
from nearfar.threads import one_thread

CLIPS, FRAMES, BATCH = 20, 313, 256
MACHINE_CLIPS, EPOCHS, CLIP_SAMPLES = 1_000, 100, 160_000
TARGET = 5.0

Sample = tuple[Tensor, int, str, str, int]


class SingleVectors(Dataset[Sample]):
    """(vectors, 640) in memory, returned one by one with what the baseline's data set returns beside them."""

    def __init__(self, log_mels: list[Tensor]) -> None:
        self.vectors = torch.cat([stacked(log_mel) for log_mel in log_mels])

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Sample:
        return self.vectors[index], 0, "source", f"section_00_source_train_normal_{index:06d}", index


def plain_network() -> nn.Module:
    """The same layers, with torch's own linear ones."""
    network = Autoencoder()
    for part in (network.encoder, network.decoder):
        for index, layer in enumerate(part):
            if isinstance(layer, nn.Linear):
                part[index] = nn.Linear(layer.in_features, layer.out_features)
    return network


def plain_epoch(loader: DataLoader[Sample]) -> None:
    """One epoch as the baseline's code has it."""
    network = plain_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    total = 0.0
    for batch in loader:
        vectors = batch[0].float()
        optimizer.zero_grad()
        loss = F.mse_loss(network(vectors), vectors)
        loss.backward()
        optimizer.step()
        total += loss.item()


def nearfar_epochs(vectors: Vectors, epochs: int) -> None:
    train_autoencoder(vectors, AutoencoderSettings(epochs=epochs, validation_fraction=0.0), seed=0)


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def nearfar_epoch_seconds(vectors: Vectors, clock: Callable[[], float]) -> float:
    """Seconds of one further epoch, without work done once per training, such as the covariances."""
    one, three = (seconds_of(lambda epochs=epochs: nearfar_epochs(vectors, epochs), clock) for epochs in (1, 3))
    return (three - one) / 2


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other processes that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="number of other, busy processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=CLIPS)
    arguments = parser.parse_args()
    log_mels = [5 * torch.randn(FRAMES, 128) - 40 for _ in range(arguments.clips)]
    vectors = gather_vectors((log_mel, index == 0) for index, log_mel in enumerate(log_mels))
    loader = DataLoader(SingleVectors(log_mels), batch_size=BATCH, shuffle=True)

    def plain_on_one_thread() -> float:
        with one_thread():
            return seconds_of(lambda: plain_epoch(loader), time.process_time)

    works: dict[str, Callable[[], float]] = {
        "baseline": lambda: seconds_of(lambda: plain_epoch(loader), time.perf_counter),
        "nearfar": lambda: nearfar_epoch_seconds(vectors, time.perf_counter),
        "baseline_processor": plain_on_one_thread,
        "nearfar_processor": lambda: nearfar_epoch_seconds(vectors, time.process_time),
    }
    with busy_processes(arguments.busy):
        rounds = [{name: work() for name, work in works.items()} for _ in range(arguments.rounds + 1)][1:]
    seconds = {name: median(turn[name] for turn in rounds) for name in works}
    ratio = median(turn["baseline"] / turn["nearfar"] for turn in rounds)
    of_processor = median(turn["baseline_processor"] / turn["nearfar_processor"] for turn in rounds)
    clip = median(
        seconds_of(lambda: slaney_log_mel(torch.randn(CLIP_SAMPLES)), time.process_time) for _ in range(9)
    )
    batches = len(loader)
    minutes = MACHINE_CLIPS * (EPOCHS * seconds["nearfar_processor"] / CLIPS + clip) / 60
    print(
        f"{torch.get_num_threads()} threads by default, {arguments.busy} other busy processes; seconds of an epoch"
    )
    print(
        f"baseline's loop     {seconds['baseline']:7.3f} s, {1e3 * seconds['baseline'] / batches:6.1f} ms a batch"
    )
    print(f"nearfar             {seconds['nearfar']:7.3f} s, {1e3 * seconds['nearfar'] / batches:6.1f} ms a batch")
    print(f"                    {ratio:.1f} times as fast (target {TARGET:g})")
    print(f"processor time, one thread each: {of_processor:.2f} times")
    print(f"so {EPOCHS} epochs of {MACHINE_CLIPS} clips of 10 s take {minutes:.1f} minutes of one thread")
    result = {f"seconds_{name}": value for name, value in seconds.items()}
    result |= {"speedup": ratio, "speedup_of_processor_time": of_processor, "minutes_machine": minutes}
    print(json.dumps({name: round(value, 4) for name, value in result.items()} | {"busy": arguments.busy}))


if __name__ == "__main__":
    main()
