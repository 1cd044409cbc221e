"""Training against a plain loop over batches, and covariances against the official computation written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nearfar.checkpoint import CHECKPOINT_FILE
from nearfar.errors import InputError, TrainingError
from nearfar.scoring.autoencoder import training as module
from nearfar.scoring.autoencoder.backend import fit_autoencoder
from nearfar.scoring.autoencoder.network import Autoencoder
from nearfar.scoring.autoencoder.settings import AutoencoderSettings as Settings
from nearfar.scoring.autoencoder.training import (
    EpochRecord,
    Vectors,
    gather_vectors,
    hold_out,
    residual_covariances,
    train_autoencoder,
)
from nearfar.scoring.backends import Workspace


def clips(count: int = 12, frames: int = 24, targets: int = 3) -> list[tuple[torch.Tensor, bool]]:
    generator = torch.Generator().manual_seed(3)
    bands = torch.linspace(-20.0, -60.0, 128)
    return [
        (bands + 5 * torch.randn(frames + index, 128, generator=generator), index >= count - targets)
        for index in range(count)
    ]


def rows_of(vectors: Vectors) -> torch.Tensor:
    return vectors.rows(torch.arange(len(vectors)))


def test_vectors_stay_within_their_clip_and_have_its_domain() -> None:
    made = [(torch.randn(7, 128), False), (torch.randn(4, 128), True), (torch.randn(6, 128), True)]
    vectors = gather_vectors(made)
    expected, domains = [], []
    for log_mel, is_target in made:
        for t in range(len(log_mel) - 4):
            expected.append(torch.cat([log_mel[t + offset] for offset in range(5)]))
            domains.append(is_target)
    assert len(vectors) == len(expected) == 5
    assert torch.equal(rows_of(vectors), torch.stack(expected))
    assert vectors.is_target.tolist() == domains
    assert torch.equal(vectors.rows(torch.tensor([4, 0, 4])), torch.stack([expected[i] for i in (4, 0, 4)]))


def test_no_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        gather_vectors([])


def test_a_tenth_of_the_vectors_is_held_out_at_random() -> None:
    training, validation = hold_out(1_009, 0.1, torch.Generator().manual_seed(0))
    assert len(validation) == 100
    assert sorted(torch.cat([training, validation]).tolist()) == list(range(1_009))
    assert validation.sort().values.tolist() != validation.tolist()
    assert abs(float(validation.double().mean()) - 504) < 100, "from all over"
    again, _ = hold_out(1_009, 0.1, torch.Generator().manual_seed(1))
    assert not torch.equal(again, training)


def plain_training(vectors: Vectors, settings: Settings, seed: int) -> Autoencoder:
    """The same training with one row at a time, a list of rows per batch, and Adam written out."""
    generator = torch.Generator().manual_seed(seed)
    rows = rows_of(vectors)
    order = torch.randperm(len(rows), generator=generator)[int(settings.validation_fraction * len(rows)) :]
    torch.manual_seed(seed)
    network = Autoencoder()
    first = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    step = 0
    network.train()
    for _ in range(settings.epochs):
        epoch = order[torch.randperm(len(order), generator=generator)].tolist()
        for start in range(0, len(epoch), settings.batch_size):
            batch = torch.stack([rows[index] for index in epoch[start : start + settings.batch_size]])
            if len(batch) == 1:
                continue
            network.zero_grad()
            ((network(batch) - batch) ** 2).mean().backward()
            step += 1
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    first[name] = 0.9 * first[name] + 0.1 * parameter.grad
                    second[name] = 0.999 * second[name] + 0.001 * parameter.grad**2
                    size = (second[name] / (1 - 0.999**step)).sqrt() + 1e-8
                    parameter -= settings.learning_rate * first[name] / (1 - 0.9**step) / size
    return network


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_training_equals_a_plain_loop() -> None:
    # In double precision: a bias before batch norm has no gradient but rounding, and in single precision Adam
    # makes whole steps of that.
    vectors, settings = gather_vectors(clips()), Settings(epochs=2, batch_size=32)
    trained, _ = train_autoencoder(vectors, settings, seed=7)
    plain = plain_training(vectors, settings, seed=7).state_dict()
    for name, value in trained.network.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-6, atol=1e-8)


def test_the_loss_falls_and_every_epoch_is_recorded() -> None:
    finished = []
    _, history = train_autoencoder(
        gather_vectors(clips()), Settings(epochs=30, batch_size=64), 0, progress=lambda *p: finished.append(p)
    )
    assert [record.epoch for record in history] == list(range(30))
    assert finished == [(epoch, 30) for epoch in range(1, 31)]
    assert history[-1].loss < 0.8 * history[0].loss
    assert history[-1].validation_loss < 0.8 * history[0].validation_loss


def test_nothing_held_out_means_no_validation() -> None:
    settings = Settings(epochs=1, batch_size=64, validation_fraction=0.0)
    _, history = train_autoencoder(gather_vectors(clips()), settings, 0)
    assert history[0].validation_loss is None


def test_a_seed_decides_everything_and_leaves_the_global_stream_alone() -> None:
    vectors, settings = gather_vectors(clips(count=4, targets=1)), Settings(epochs=1, batch_size=32)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two, other = (train_autoencoder(vectors, settings, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.network.encoder[0].weight, two.network.encoder[0].weight)
    assert torch.equal(one.published, two.published)
    assert not torch.equal(one.network.encoder[0].weight, other.network.encoder[0].weight)


def test_a_last_batch_of_one_vector_is_left_out() -> None:
    vectors = gather_vectors([(torch.randn(37, 128), False)])  # 33 vectors
    settings = Settings(epochs=1, batch_size=16, validation_fraction=0.0)
    trained, history = train_autoencoder(vectors, settings, 0)
    assert math.isfinite(history[0].loss)
    assert int(trained.network.encoder[1].num_batches_tracked) == 2


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    spoilt = clips(count=3, targets=0)
    spoilt[1][0][4, 7] = float("inf")
    with pytest.raises(TrainingError, match="epoch 0: the loss is"):
        train_autoencoder(gather_vectors(spoilt), Settings(epochs=2), 0)


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two vectors"):
        train_autoencoder(gather_vectors([(torch.zeros(5, 128), False)]), Settings(), 0)


class StoppedError(Exception):
    pass


def interrupted(vectors: Vectors, settings: Settings, folder: Path, epoch: int) -> None:
    """A training that stops after an epoch."""

    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_autoencoder(vectors, settings, 3, checkpoint=folder, on_epoch=stop)


@pytest.mark.parametrize("validation_fraction", [0.1, 0.0])
def test_an_interrupted_training_resumes_with_the_same_result(
    validation_fraction: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    vectors = gather_vectors(clips(count=4, targets=1))
    settings = Settings(epochs=6, batch_size=16, validation_fraction=validation_fraction)
    whole, history = train_autoencoder(vectors, settings, 3)
    interrupted(vectors, settings, tmp_path, epoch=2)
    interrupted(vectors, settings, tmp_path, epoch=4)
    trained = []
    resumed, resumed_history = train_autoencoder(
        vectors, settings, 3, checkpoint=tmp_path, on_epoch=lambda record: trained.append(record.epoch)
    )
    assert trained == [4, 5]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert torch.equal(whole.published, resumed.published)
    assert torch.equal(whole.textbook, resumed.textbook)
    assert [(r.epoch, r.loss, r.validation_loss) for r in resumed_history] == [
        (r.epoch, r.loss, r.validation_loss) for r in history
    ]
    assert all(record.seconds > 0 for record in resumed_history)


def test_a_checkpoint_of_other_vectors_or_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 1)
    vectors, settings = gather_vectors(clips(count=3, targets=1)), Settings(epochs=3, batch_size=16)
    interrupted(vectors, settings, tmp_path, epoch=1)
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(InputError, match="other training clips"):
        train_autoencoder(gather_vectors(clips(count=4)), settings, 3, checkpoint=tmp_path)
    for changed, seed in ((Settings(epochs=3, batch_size=17), 3), (settings, 4)):
        with pytest.raises(InputError, match="other recipe"):
            train_autoencoder(vectors, changed, seed, checkpoint=tmp_path)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before


def test_the_back_end_resumes_a_machine_and_removes_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 1)
    normals, target = (
        torch.stack([log_mel[:20] for log_mel, _ in clips(count=4)]),
        torch.tensor([0, 0, 1, 1]).bool(),
    )
    settings, epochs = Settings(epochs=4, batch_size=16), []

    def workspace(name: str, stop_after: int | None = None) -> Workspace:
        def progress(task: str, done: int, total: int) -> None:
            epochs.append(done)
            if done == stop_after:
                raise StoppedError

        return Workspace(tmp_path, name, identity="one", progress=progress)

    whole = fit_autoencoder(normals, target, settings, 3, workspace("fan"))
    with pytest.raises(StoppedError):
        fit_autoencoder(normals, target, settings, 3, workspace("pump", stop_after=3))
    assert (tmp_path / "training_pump" / CHECKPOINT_FILE).is_file()
    epochs.clear()
    resumed = fit_autoencoder(normals, target, settings, 3, workspace("pump"))
    assert epochs == [4]
    assert whole.leave_one_out().tolist() == resumed.leave_one_out().tolist()
    assert not (tmp_path / "training_pump").exists()


# --- covariances ------------------------------------------------------------------------------------------------


def evaluated() -> nn.Module:
    torch.manual_seed(0)
    network = Autoencoder()
    network(5 * torch.randn(256, 640))
    return network.eval()


def residuals_of(network: nn.Module, vectors: Vectors, index: list[int]) -> np.ndarray:
    """(5 len(index), 128) float64."""
    with torch.no_grad():
        rows = vectors.rows(torch.tensor(index))
        return (rows - network(rows)).double().numpy().reshape(-1, 128)


@pytest.mark.parametrize("batch_size", [16, 50])
def test_the_covariances_equal_the_official_and_numpys(batch_size: int) -> None:
    vectors, network = gather_vectors(clips()), evaluated()
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))
    batches = torch.split(order, batch_size)
    published, textbook = residual_covariances(network, vectors, batches)
    for is_target, ours, proper in zip((False, True), published, textbook, strict=True):
        total, count, everything = np.zeros((128, 128)), 0, []
        for batch in batches:
            index = [i for i in batch.tolist() if bool(vectors.is_target[i]) == is_target]
            if not index:
                continue
            residual = residuals_of(network, vectors, index)
            everything.append(residual)
            residual = residual - residual.mean(axis=0)
            for row in residual:
                total += np.outer(row, row)
            count += len(index)
        np.testing.assert_allclose(ours.numpy(), total / (count - 1), rtol=1e-4, atol=1e-4)
        expected = np.cov(np.concatenate(everything), rowvar=False)
        np.testing.assert_allclose(proper.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert 4.5 < float(published[0].trace() / textbook[0].trace()) < 5.1


def test_means_of_small_batches_shrink_the_published_target_covariance() -> None:
    # Clips that differ by a constant: what tells them apart is their mean, and batches of one clip's few vectors
    # take it off.
    apart = [(torch.randn(24, 128) + 40 * index, True) for index in range(4)] + clips(targets=0)
    vectors = gather_vectors(apart)
    network = nn.Identity()
    network.forward = torch.zeros_like
    by_clip = torch.split(torch.arange(len(vectors)), 20)
    published, textbook = residual_covariances(network, vectors, by_clip)
    assert published[1].trace() < 0.05 * textbook[1].trace()


@pytest.mark.parametrize("is_target", [False, True])
def test_a_domain_without_vectors_takes_the_others_covariance(is_target: bool) -> None:
    vectors = gather_vectors([(log_mel, is_target) for log_mel, _ in clips()])
    published, textbook = residual_covariances(evaluated(), vectors, torch.split(torch.arange(len(vectors)), 64))
    assert torch.equal(*published)
    assert torch.equal(*textbook)
    assert float(published[0].trace()) > 1.0


def test_covariances_need_two_vectors() -> None:
    vectors = gather_vectors([(torch.randn(5, 128), False)])
    with pytest.raises(ValueError, match="at least two vectors"):
        residual_covariances(evaluated(), vectors, [torch.tensor([0])])


def test_the_covariances_of_a_training_are_of_its_training_vectors_in_evaluation_mode() -> None:
    vectors, settings = gather_vectors(clips()), Settings(epochs=2, batch_size=32)
    trained, _ = train_autoencoder(vectors, settings, seed=5)
    training, _ = hold_out(len(vectors), settings.validation_fraction, torch.Generator().manual_seed(5))
    index = [i for i in training.tolist() if not bool(vectors.is_target[i])]
    expected = np.cov(residuals_of(trained.network, vectors, index), rowvar=False)
    np.testing.assert_allclose(trained.textbook[0].numpy(), expected, rtol=1e-3, atol=1e-3)
