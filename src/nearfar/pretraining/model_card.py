"""The README.md beside pre-trained weights: what they learned from, under which licences, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.data.recordings import AudioFile
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.pretraining.training import PretrainRecord


@dataclass(frozen=True)
class Training:
    """Facts about a finished pre-training.

    Attributes:
        recipe: what was done.
        folders: the data folders, and recordings: what was found in them.
        licences: of the recordings, in the words of whoever started the training; may be empty.
        attributions: names of the attribution files that lie beside the card.
        start_hash, encoder_hash: of the weights before and after, see :func:`nearfar.encoders.encoder_hash`.
        file_hash: SHA-256 of ``model.safetensors``.
        data_key: see :func:`nearfar.data.recordings.recordings_key`.
        parameters: number of scalars in the encoder.
        first, last: the first and the last step's record.
    """

    recipe: PretrainRecipe
    folders: Sequence[Path]
    recordings: Sequence[AudioFile]
    licences: Sequence[str]
    attributions: Sequence[str]
    start_hash: str
    encoder_hash: str
    file_hash: str
    data_key: str
    parameters: int
    first: PretrainRecord
    last: PretrainRecord


def model_card(training: Training) -> str:
    """The card in Markdown."""
    recipe, last, first = training.recipe, training.last, training.first
    steps, clips = recipe.training.steps, recipe.training.batch_size
    heard = steps * clips * recipe.crop_seconds / 3600
    return "\n".join(
        [
            "---",
            "library_name: nearfar",
            "tags: [audio, self-supervised, eat]",
            "---",
            "",
            f"# {recipe.name}",
            "",
            f"{recipe.description or 'An EAT encoder'}. An Efficient Audio Transformer encoder "
            f"({training.parameters / 1e6:.2f} M parameters), pre-trained without labels with EAT's objective "
            "(Chen et al., IJCAI 2024). Load it with `nearfar.load_encoder`, or name the folder as `--encoder`.",
            "",
            "## Data",
            "",
            *_data_lines(training),
            "",
            "## Training",
            "",
            f"- {steps} steps of {clips} crops of {recipe.crop_seconds:g} s ({heard:.1f} h heard), "
            f"{recipe.masking.clones} masked views each; seed {recipe.seed}; kept: the {recipe.export}",
            f"- started from `{recipe.encoder.weights}` (weights {training.start_hash[:16]})",
            "- the whole recipe is in `recipe.toml`, versions and command in `environment.json`, every step in "
            "`log.jsonl`",
            "",
            "## Measured",
            "",
            f"- last step: loss {last.loss:.4g} (first step {first.loss:.4g}), frame loss {last.frame_loss:.4g} "
            f"(first step {first.frame_loss:.4g}), spread of targets {last.target_spread:.3g} and of predictions "
            f"{last.prediction_spread:.3g}",
            "- what the encoder is good for has not been measured here; `nearfar run` and `nearfar evaluate` do",
            "",
            "## Identity",
            "",
            f"- `model.safetensors`: SHA-256 {training.file_hash}",
            f"- encoder: {training.encoder_hash}",
            f"- recordings: {training.data_key} (names, sizes, lengths)",
            "",
        ]
    )


def _data_lines(training: Training) -> list[str]:
    lines = []
    for folder in training.folders:
        inside = [one for one in training.recordings if one.path.is_relative_to(folder)]
        hours = sum(one.seconds for one in inside) / 3600
        channels = sum(one.channels * one.seconds for one in inside) / 3600
        lines.append(f"- `{folder.name}`: {len(inside)} recordings, {hours:.2f} h ({channels:.2f} h of channels)")
    lines += [f"- licence: {licence}" for licence in training.licences]
    if not training.licences:
        lines.append("- licence: not stated by whoever trained it; find out before you pass the weights on")
    lines += [f"- attribution: see `{name}`" for name in training.attributions]
    return lines
