"""The tables of a recipe, frozen and typed; :class:`nearfar.config.Recipe` holds one of each.

Settings of an entry of a registry (a pooling, a loss, a back-end ...) are defined beside it and are keys of the
table that names it; see :mod:`nearfar.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from nearfar.encoders import ADAPTATIONS, ENCODERS, SPEEDUPS
from nearfar.errors import one_of
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import TRAINED_POOLINGS
from nearfar.registry import Registry
from nearfar.scoring import BACKENDS, FUSIONS
from nearfar.settings import (
    ChoiceTable,
    Fraction,
    Names,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Rate,
    Settings,
    each_once,
)
from nearfar.thresholds import RULES
from nearfar.views import VIEWS

NEAR_CHANNEL, FAR_CHANNEL = 0, 1
"""Left and right, as the challenge records them."""


def _of_waveforms(names: tuple[str, ...]) -> tuple[str, ...]:
    views = [name for name, view in VIEWS.items() if view.combine is None]
    for name in names:
        if name not in views:
            raise ValueError(one_of(views, name))
    return names


class Audio(Settings):
    """Sample rate, length and channels of the audio."""

    sample_rate_hz: Literal[16000] = 16000
    clip_seconds: PositiveFloat | Literal["longest"] = 16.0
    """Clips are zero-padded to this length; ``longest`` is the longest clip of the data."""
    hop_seconds: PositiveFloat | None = None
    """Longer recordings are cut into windows of a clip's length with this hop; None is a clip's length."""
    near_channel: Annotated[int, Field(ge=0)] = NEAR_CHANNEL
    far_channel: Annotated[int, Field(ge=0)] = FAR_CHANNEL
    """Indices, from 0, of the channels of the near and the far microphone."""


class FbankNormalisation(Settings):
    """Normalisation of the log-mel input: ``(x - mean) / (2 * std)``; the defaults are EAT's AudioSet values."""

    mean: float = -4.268
    std: PositiveFloat = 4.569


class EncoderTable(ChoiceTable):
    """The encoder and its weights."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"family": ENCODERS}
    family: str = "eat"
    weights: str = "worstchan/EAT-base_epoch30_pretrain"
    """A folder, file or hub name (see :func:`nearfar.load_encoder`), or ``random:tiny``, ``random:base``..."""
    revision: str | None = None
    """Hub revision; None is the revision pinned in nearfar."""
    mask_padding: bool = False
    """Whether attention and pooling skip token columns that hold only padding; off as published."""
    drop_path: Rate = 0.1
    """Stochastic depth of the last block while fine-tuning; it grows linearly from 0 at the first block."""


class Inference(ChoiceTable):
    """The computation of features by a trained or frozen encoder; training does not depend on it."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"speedups": SPEEDUPS}
    speedups: Annotated[tuple[str, ...], AfterValidator(each_once)] = ()
    """Speed-ups of the encoder, which change features a little; none is the encoder as published."""

    def identity(self) -> dict[str, Any]:
        """The chosen speed-ups with their settings, in any order; empty without one."""
        return {name: self.settings_of("speedups", name).identity() for name in sorted(self.speedups)}


class Head(ChoiceTable):
    """The trained head: a pooling, a projection and a classification loss."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"pooling": TRAINED_POOLINGS, "loss": LOSSES}
    pooling: str = "asp"
    embedding_dim: PositiveInt = 256
    loss: str = "arcface"


class Training(ChoiceTable):
    """Fine-tuning."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"adaptation": ADAPTATIONS}
    added_later: ClassVar[frozenset[str]] = frozenset({"pseudo_label_features"})
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "loader_threads", "activation_checkpointing", "micro_batch_size"}
    )

    adaptation: str = "full"
    """``none`` trains nothing: the encoder is not fine-tuned, or there is none."""
    views: Annotated[Names, AfterValidator(_of_waveforms)] = ("near", "far")
    """Each view of a recording is a sample of its own; mono recordings have only ``["near"]``."""
    steps: PositiveInt = 20_000
    batch_size: PositiveInt = 16
    """Samples (views of clips) per optimiser step, over all processes and accumulation slices together."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass and process; None is all samples of a process's share of the batch."""
    learning_rate: PositiveFloat = 5e-5
    final_learning_rate: NotNegative = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    weight_decay: NotNegative = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.95)
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 if the accelerator supports it and float32 on CPU."""
    target_share: Rate = 0.0
    """Probability that a sample is replaced by a random one of the target domain."""
    pseudo_labels: Annotated[int, Field(ge=0)] = 0
    """Clusters of features as labels of the source clips of machines without attributes."""
    pseudo_label_features: Literal["log-mel", "encoder"] = "log-mel"
    """What is clustered: log-mel statistics of near, or the mean token of the frozen encoder of the first view."""
    activation_checkpointing: bool = False
    checkpoint_every: PositiveInt = 500
    loader_threads: PositiveInt = 2


class Augmentation(Settings):
    """Augmentation of training waveforms and spectrograms; none in the report."""

    added_later: ClassVar[frozenset[str]] = frozenset({"crop_seconds"})

    time_shift: bool = False
    """Rotate the clip circularly by a random number of samples before padding."""
    crop_seconds: PositiveFloat | None = None
    """Train on random crops of this length; scoring takes whole clips. None trains on whole clips."""
    gain_db: NotNegative = 0.0
    """Random gain, uniform in plus or minus this many decibels."""
    mixup_probability: Fraction = 0.0
    """Probability that a sample is mixed with another training sample (waveforms and labels)."""
    far_noise_probability: Fraction = 0.0
    """Probability that the far channel of another clip of the machine is added to a sample of another view."""
    far_noise_snr_db: tuple[float, float] = (5.0, 20.0)
    """Lowest and highest signal-to-noise ratio of that sum."""
    frequency_mask_bins: Annotated[int, Field(ge=0, le=128)] = 0
    time_mask_frames: Annotated[int, Field(ge=0)] = 0


class FeaturesTable(ChoiceTable):
    """The features of a clip: one vector, or several (parts) whose distances are averaged."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"source": SOURCES}
    source: str = "embedding"


class Scoring(ChoiceTable):
    """The computation of one anomaly score per clip from features."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"views": VIEWS, "backend": BACKENDS, "fusion": FUSIONS}
    without_effect: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    views: Names = ("near", "far")
    """Each view has its own bank; the scores of several views are fused."""
    backend: str = "nearest-neighbours"
    fusion: str = "mean"
    """Fusion of the views' scores; ``standardised`` first standardises them by those of normal clips."""
    batch_size: PositiveInt = 8
    """Windows per forward pass."""


class ThresholdTable(ChoiceTable):
    """The threshold above which a recording is called anomalous; the official score does not use it.

    By default, runs of the challenge use the gamma rule at a false-alarm rate of 0.1, as the official baseline
    does, and detectors the conformal rule at 0.05.
    """

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"rule": RULES}
    rule: str | None = None
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Accepted fraction of normal recordings that are called anomalous."""
    domains: Literal["pooled", "separate"] = "pooled"
    """One threshold for both domains, or one for each."""

    @property
    def quantile(self) -> float:
        """The fraction of normal recordings below the threshold."""
        return 1.0 - (self.false_alarm_rate or 0.0)


class CalibrationTable(Settings):
    """Scores of a detector's normal recordings, for its thresholds; runs always use leave-one-out scores."""

    group_by: str = "auto"
    """Recordings of one group, such as a session, are left out together: ``auto``, a name in
    :data:`nearfar.data.grouping.GROUPINGS`, the key of an attribute, or a regular expression for paths."""

    method: Literal["leave-one-out", "split"] | None = None
    """Every normal recording is scored by the others, or a random part is held out of training and bank and is
    scored. None: ``split`` for recipes that train, where it holds out enough, else ``leave-one-out``."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The fraction that ``split`` holds out."""
