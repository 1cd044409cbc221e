"""Other heads, balanced batches, far noise and pseudo-labels, as parts of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nearfar.config import Augmentation, Recipe, load_recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import Clip
from nearfar.data.layouts import read_dataset
from nearfar.frontends import KaldiFbank
from nearfar.models.embedder import load_start
from nearfar.pipeline.training import _with_pseudo_labels
from nearfar.training import finetune as module
from nearfar.training.batches import Batches
from nearfar.training.finetune import finetune
from nearfar.training.labels import LabelledSamples, label_samples
from nearfar.training.pseudo_labels import cluster, cluster_attributes, standardised
from nearfar.views import read_views


class StopTrainingError(Exception):
    pass


@pytest.mark.parametrize("loss", ["adacos", "arcface"])
def test_a_killed_training_with_sub_centres_ends_with_the_same_weights(
    loss: str, short_recipe: Recipe, labelled: LabelledSamples, tmp_path: Path, one_thread: None
) -> None:
    """AdaCos's scale is a state of its own: without it in the checkpoint the rest of the run would differ."""
    recipe = short_recipe.with_changes(
        **{"head.loss": loss, "head.sub_centres": 3, "training.checkpoint_every": 2}
    )
    finetune(recipe, labelled, tmp_path / "whole", data_key="d")

    def stop(record: module.StepRecord) -> None:
        if record.step == 2:
            raise StopTrainingError

    with pytest.raises(StopTrainingError):
        finetune(recipe, labelled, tmp_path / "cut", data_key="d", on_step=stop)
    finetune(recipe, labelled, tmp_path / "cut", data_key="d")
    whole, cut = (load_file(tmp_path / name / "head.safetensors") for name in ("whole", "cut"))
    assert whole["arcface.centres"].shape[0] == 3 * len(labelled.classes)
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def batches(
    labelled: LabelledSamples, augmentation: Augmentation | None = None, target_share: float = 0.0
) -> Batches:
    changes = {"audio.clip_seconds": 1.0, "training.batch_size": 8, "training.target_share": target_share}
    recipe = load_recipe("tiny-fusion").with_changes(**changes)
    return Batches(labelled, recipe.model_copy(update={"augmentation": augmentation or Augmentation()}))


def test_the_target_domain_gets_its_fraction(labelled: LabelledSamples) -> None:
    balanced = batches(labelled, target_share=0.5)
    files = [file for step in range(60) for file in balanced.rows(step, 0, 8).files]
    fraction = np.mean(["_target_" in file for file in files])
    usual = 4 / 20
    assert abs(fraction - (0.5 + 0.5 * usual)) < 0.08
    again = batches(labelled, target_share=0.5)
    assert torch.equal(again.rows(3, 0, 8).waveform, balanced.rows(3, 0, 8).waveform)
    assert torch.equal(again.rows(3, 4, 8).waveform, balanced.rows(3, 0, 8).waveform[4:])


def test_far_noise_is_another_far_channel_at_the_ratio(labelled: LabelledSamples) -> None:
    plain = batches(labelled).rows(0, 0, 8)
    noisy = batches(labelled, Augmentation(far_noise_probability=1.0, far_noise_snr_db=(10.0, 10.0))).rows(0, 0, 8)
    views = [name.rpartition("|")[2] for name in (labelled.classes[int(label)] for label in plain.labels)]
    assert set(views) == {"near", "far"}
    for row, view in enumerate(views):
        added = (noisy.waveform[row] - plain.waveform[row]).double()
        if view == "far":
            assert not added.any()
            continue
        ratio = 10 * torch.log10(plain.waveform[row].double().square().mean() / added.square().mean())
        assert float(ratio) == pytest.approx(10.0, abs=0.01)
        machine = Path(plain.files[row]).parent
        spectra = [np.abs(np.fft.rfft(read_waveform(path, ("far",))[0])) for path in sorted(machine.glob("*.wav"))]
        found = np.abs(np.fft.rfft(added.numpy()))
        agreement = [np.corrcoef(found, spectrum)[0, 1] for spectrum in spectra]
        assert max(agreement) > 0.999, "a rotated far channel keeps its spectrum"


def test_far_noise_is_never_of_the_clip_itself(labelled: LabelledSamples) -> None:
    first = labelled.samples[0].clip.machine
    two = list(dict.fromkeys(sample.clip for sample in labelled.samples if sample.clip.machine == first))[:2]
    noisy = batches(label_samples(two, ("near",)), Augmentation(far_noise_probability=1.0))
    read: list[tuple[str, str]] = []
    original = noisy._cache.read

    def noting(clip: Clip, view: str) -> np.ndarray:
        read.append((view, str(clip.path)))
        return original(clip, view)

    noisy._cache.read = noting  # type: ignore[method-assign]
    for step in range(4):
        noisy.rows(step, 0, 8)
    assert len(read) == 2 * 32
    for (near, own), (far, other) in zip(read[::2], read[1::2], strict=True):
        assert (near, far) == ("near", "far")
        assert own != other


def test_machines_without_attributes_get_clusters_of_the_source_domain(
    small_factory: Path, short_recipe: Recipe
) -> None:
    clips = [clip for clip in read_dataset(small_factory).clips if clip.split == "train"]
    bare = [replace(clip, attributes=()) if clip.machine == "hummer" else clip for clip in clips]
    recipe = short_recipe.with_changes(**{"training.pseudo_labels": 2})
    labelled = _with_pseudo_labels(recipe, bare)
    spd = {clip.path: dict(clip.attributes)["spd"] for clip in clips}
    pairs = set()
    for before, after in zip(bare, labelled, strict=True):
        if before.machine == "whiner":
            assert after == before
        elif before.domain == "target":
            assert after.attributes == ()
        else:
            ((key, label),) = after.attributes
            assert key == "cluster"
            pairs.add((spd[before.path], label))
    assert len(pairs) == 2, "two speeds an octave apart are two clusters"
    assert len(label_samples(labelled).classes) == len(label_samples(bare).classes) + 2


def test_clusters_may_be_of_the_frozen_encoders_tokens_of_the_trained_view(
    small_factory: Path, short_recipe: Recipe
) -> None:
    clips = [clip for clip in read_dataset(small_factory).clips if clip.split == "train"]
    bare = [replace(clip, attributes=()) if clip.machine == "hummer" else clip for clip in clips]
    changes = {"training.pseudo_labels": 2, "training.pseudo_label_features": "encoder"}
    recipe = short_recipe.with_changes(**changes, **{"training.views": ["far", "near"], "audio.clip_seconds": 1.0})
    found = [clip.attributes for clip in _with_pseudo_labels(recipe, bare) if clip.machine == "hummer"]
    encoder, frontend = load_start(recipe), KaldiFbank(recipe.fbank.mean, recipe.fbank.std)
    source = [clip for clip in bare if (clip.machine, clip.domain) == ("hummer", "source")]
    with torch.inference_mode():
        waveforms = torch.stack([torch.from_numpy(read_waveform(clip.path, ["far"])[0]) for clip in source])
        tokens = encoder.encode(frontend(waveforms))[0].patches.mean(dim=1)
    wanted = cluster(standardised(tokens.double().numpy()), 2, recipe.seed)
    assert [given for given in found if given] == [(("cluster", str(label)),) for label in wanted]
    assert found.count(()) == len(found) - len(source), "the target domain is one"


def test_features_are_asked_for_the_source_clips_to_be_clustered_only(small_factory: Path) -> None:
    clips = [clip for clip in read_dataset(small_factory).clips if clip.split == "train"]
    bare = [replace(clip, attributes=()) if clip.machine == "hummer" else clip for clip in clips]
    asked = []

    def features(chosen: Sequence[Clip]) -> np.ndarray:
        asked.append(list(chosen))
        return np.array([[float(clip.path.stem.split("_")[5]), 7.0] for clip in chosen], dtype=np.float32)

    clustered = cluster_attributes(bare, features, 2, seed=0)
    assert asked == [[clip for clip in bare if clip.machine == "hummer" and clip.domain == "source"]]
    labels = [value for clip in clustered for key, value in clip.attributes if key == "cluster"]
    assert labels == ["0"] * 4 + ["1"] * 4, "indices 0 to 3 and 4 to 7"


def test_clusters_are_numbered_by_first_appearance_and_no_more_than_there_are_clips() -> None:
    table = np.array([[0.0], [10.0], [0.1], [10.1], [0.0]])
    assert cluster(table, 2, seed=3) == [0, 1, 0, 1, 0]
    assert len(set(cluster(table, 9, seed=3))) == 4


def test_training_cancels_far_with_the_settings_of_the_recipe(short_recipe: Recipe, small_factory: Path) -> None:
    settings = {
        "cancellation.gain_limit": 0.5,
        "augmentation.time_shift": False,
        "training.views": ["cancelled"],
    }
    recipe = short_recipe.with_changes(**settings)
    clips = [clip for clip in read_dataset(small_factory).clips if clip.split == "train"]
    rows = Batches(label_samples(clips, ("cancelled",)), recipe).rows(0, 0, recipe.training.batch_size)
    for file, waveform in zip(rows.files, rows.waveform.numpy(), strict=True):
        expected = read_views(Path(file), ("cancelled",), recipe.view_settings())[0]
        usual = read_views(Path(file), ("cancelled",))[0]
        np.testing.assert_array_equal(waveform, expected)
        assert not np.allclose(expected, usual, atol=1e-4)
