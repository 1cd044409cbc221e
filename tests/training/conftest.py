"""What the tests of training share: labelled samples, a resolved recipe, and a look at trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.layouts import read_dataset
from nearfar.models.network import build_network
from nearfar.training.labels import LabelledSamples, label_samples

WITHOUT_GRADIENT = ("pooling.linear2.bias",)
"""A softmax over tokens does not see it: its gradient is rounding noise, of which AdamW makes whole steps."""


@pytest.fixture(scope="session")
def labelled(small_factory: Path) -> LabelledSamples:
    """40 samples: both channels of the training clips of two machines."""
    return label_samples(clip for clip in read_dataset(small_factory).clips if clip.split == "train")


@pytest.fixture(scope="session")
def short_recipe(small_recipe: Recipe) -> Recipe:
    """Resolved to the one-second clips, four steps, and the numbers that tests compute with by hand."""
    return small_recipe.with_changes(
        **{
            "audio.clip_seconds": 1.0,
            "training.steps": 4,
            "training.learning_rate": 1e-3,
            "training.final_learning_rate": 2e-5,
            "training.weight_decay": 0.05,
            "training.betas": [0.9, 0.95],
        }
    )


@pytest.fixture
def one_thread():
    """Sums in the same order as in a subprocess with OMP_NUM_THREADS=1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def start_tensors():
    """The weights of a full fine-tuning before its first step, named as in a model folder."""

    def read(recipe: Recipe, classes: int) -> dict[str, Tensor]:
        network = build_network(recipe, classes)
        parts = {
            "model.": network.embedder.encoder,
            "pooling.": network.embedder.pooling,
            "projection.": network.embedder.projection,
            "arcface.": network.arcface,
        }
        return {
            prefix + name: tensor.clone()
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    return read


@pytest.fixture(scope="session")
def model_tensors():
    """Every tensor of a model folder of full fine-tuning, but the positions, which nothing trains."""

    def read(folder: Path) -> dict[str, Tensor]:
        tensors = load_file(folder / "encoder" / "model.safetensors") | load_file(folder / "head.safetensors")
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("positions")}

    return read


@pytest.fixture(scope="session")
def largest_difference():
    """The largest distance between two trainings' tensors, relative to how far the first one moved the tensor."""

    def compare(one: dict[str, Tensor], other: dict[str, Tensor], start: dict[str, Tensor]) -> float:
        assert one.keys() == other.keys() == start.keys()
        distances = []
        for name in one.keys() - set(WITHOUT_GRADIENT):
            a, b, before = one[name], other[name], start[name]
            if name.endswith("qkv.bias"):  # attention does not see the bias of the keys either
                a, b, before = (torch.cat([tensor.chunk(3)[0], tensor.chunk(3)[2]]) for tensor in (a, b, before))
            moved = float((a - before).norm())
            assert moved > 0, f"{name} has not been trained"
            distances.append(float((a - b).norm()) / moved)
        return max(distances)

    return compare
