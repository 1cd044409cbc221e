"""The tables of a recipe, frozen and typed; :class:`nearfar.config.Recipe` holds one of each."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NEAR_CHANNEL, FAR_CHANNEL = 0, 1
"""Left and right, as the challenge records them."""


_Name = TypeVar("_Name")


def _named_once(names: tuple[_Name, ...]) -> tuple[_Name, ...]:
    if len(set(names)) != len(names):
        raise ValueError("each of them once")
    return names


PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Channels = Annotated[
    tuple[Literal["near", "far", "cancelled"], ...], Field(min_length=1), AfterValidator(_named_once)
]
ScoredViews = Annotated[
    tuple[Literal["near", "far", "cancelled", "residual"], ...], Field(min_length=1), AfterValidator(_named_once)
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    """Base of every table of a recipe: frozen, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Audio(Table):
    """What every clip becomes before the front end."""

    sample_rate_hz: Literal[16000] = 16000
    clip_seconds: PositiveFloat | Literal["longest"] = 16.0
    """Clips are zero-padded to this length; ``longest`` is the longest clip of the data at hand."""
    near_channel: Annotated[int, Field(ge=0)] = NEAR_CHANNEL
    far_channel: Annotated[int, Field(ge=0)] = FAR_CHANNEL
    """Which channels of a file, from 0, the near and the far microphone are."""


class Cancellation(Table):
    """How ``cancelled``, near without what far predicts of it, is made; the defaults are W1 of public systems."""

    window_samples: Annotated[int, Field(ge=16)] = 1024
    hop_samples: PositiveInt = 512
    """The window is a multiple of the hop, at least twice it."""
    smooth_frames: Annotated[int, Field(ge=0)] | None = None
    """H is estimated over this many frames to either side; None is one H for the whole clip."""
    smooth_bins: Annotated[int, Field(ge=0)] = 0
    """And over this many neighbouring frequencies to either side."""
    taps: PositiveInt = 1
    """Frames of far that predict a frame of near; more than one go without smoothing and limit."""
    gain_limit: PositiveFloat | None = None
    """Where |H| passes it, far is taken to hear the machine, and less is taken out; None is no limit."""
    delay_search_ms: Annotated[float, Field(ge=0)] = 0.0
    """Far is first delayed by up to this much, to either side, to agree best with near."""

    @model_validator(mode="after")
    def _fits(self) -> Cancellation:
        if self.window_samples % self.hop_samples or self.window_samples < 2 * self.hop_samples:
            raise ValueError("window_samples must be a multiple of hop_samples, at least twice it")
        if self.taps > 1 and (self.smooth_frames is not None or self.smooth_bins or self.gain_limit is not None):
            raise ValueError("more than one of taps goes with neither smooth_frames, smooth_bins nor gain_limit")
        return self


class Fbank(Table):
    """Normalisation of the log-mel input: ``(x - mean) / (2 * std)``; the defaults are EAT's AudioSet values."""

    mean: float = -4.268
    std: PositiveFloat = 4.569


class Encoder(Table):
    """Which encoder, and where its weights come from."""

    weights: str = "worstchan/EAT-base_epoch30_pretrain"
    """A folder, file or hub name (see :func:`nearfar.load_encoder`), or ``random:tiny``, ``random:base``..."""
    revision: str | None = None
    """Hub revision; None means the revision pinned in nearfar."""
    mask_padding: bool = False
    """Whether attention and pooling leave out token columns that hold only padding; off as published."""
    drop_path: Rate = 0.1
    """Stochastic depth of the last block while fine-tuning; it grows linearly from 0 at the first block."""


class Head(Table):
    """Attentive statistics pooling, projection and ArcFace."""

    attention_dim: PositiveInt = 128
    embedding_dim: PositiveInt = 256
    scale: PositiveFloat = 30.0
    """s of ArcFace."""
    margin: Annotated[float, Field(ge=0, lt=3.1416)] = 0.2
    """m of ArcFace, in radians."""
    loss: Literal["arcface", "adacos"] = "arcface"
    """``adacos`` adapts its scale itself and has no margin."""
    sub_centres: PositiveInt = 1
    """Centres of a class."""
    trainable_centres: bool = True


class Lora(Table):
    """Low-rank adaptation; read only when ``training.adaptation = "lora"``."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 8.0
    dropout: Rate = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("attn.qkv", "attn.proj")


class Training(Table):
    """The fine-tuning loop."""

    adaptation: Literal["full", "lora", "none"] = "full"
    """``none`` trains nothing: the encoder is used as it is, or no encoder at all."""
    channels: Channels = ("near", "far")
    """Each channel of a recording is a sample of its own; ``["near"]`` alone suits mono recordings."""
    steps: PositiveInt = 20_000
    batch_size: PositiveInt = 16
    """Samples (channels of clips) per optimiser step, over all processes and accumulation slices together."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass and process; None means all of a process's share at once."""
    learning_rate: PositiveFloat = 5e-5
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.95)
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the accelerator has it and float32 on CPU."""
    target_share: Rate = 0.0
    """Chance that a sample is drawn from the target domain, on top of its turn among all samples."""
    pseudo_labels: Annotated[int, Field(ge=0)] = 0
    """Clusters of log-mel statistics that stand for attributes in the source domain of machines without any."""
    activation_checkpointing: bool = False
    checkpoint_every: PositiveInt = 500
    loader_threads: PositiveInt = 2


class Augmentation(Table):
    """Random changes to training waveforms and spectrograms; all off in the report."""

    time_shift: bool = False
    """Rotate the clip circularly by a random amount before padding."""
    gain_db: Annotated[float, Field(ge=0)] = 0.0
    """Random gain, uniform in plus or minus this many decibels."""
    mixup_probability: Fraction = 0.0
    """Probability that a sample is mixed with another training sample (waveforms and labels)."""
    far_noise_probability: Fraction = 0.0
    """Probability that a sample that is not far gets the far channel of another clip of its machine as noise."""
    far_noise_snr_db: tuple[float, float] = (5.0, 20.0)
    """Lowest and highest ratio of sample to that noise."""
    frequency_mask_bins: Annotated[int, Field(ge=0, le=128)] = 0
    time_mask_frames: Annotated[int, Field(ge=0)] = 0


class Features(Table):
    """What a clip is compared by: one vector, or several (parts) whose distances are averaged."""

    source: Literal["embedding", "tokens", "log-mel"] = "embedding"
    """The trained head's embedding; pooled tokens of the encoder, trained or not; or statistics of the log-mel
    spectrogram, which take no encoder."""
    layers: Annotated[tuple[PositiveInt, ...], AfterValidator(_named_once)] | None = None
    """Blocks of the encoder, from 1, each a part of its own; None is the last one."""
    average_layers: bool = False
    """Pool the mean of the blocks' tokens, so that the blocks are one part together."""
    pooling: Literal["mean", "mean-std", "rdp", "cls", "asp"] = "mean"
    """Of tokens over time (and frequency); ``asp`` is the trained head's own, before its projection."""
    rdp_gamma: Annotated[float, Field(ge=0)] = 4.0
    keep_bands: bool = False
    """Pool within each of the 8 frequency bands, each a part of its own."""
    lags: tuple[PositiveInt, ...] = ()
    """Log-mel only: next to the mean, the deviation over time of differences this many frames (10 ms) apart;
    none at all is the deviation of the values themselves."""
    remove_level: bool = True
    """Log-mel only: take the clip's mean over time and frequency out, which is how loud it is."""

    @model_validator(mode="after")
    def _fits(self) -> Features:
        if self.keep_bands and self.pooling == "cls" and self.source == "tokens":
            raise ValueError("CLS has no bands: keep_bands goes with another pooling")
        if self.pooling == "asp" and (self.keep_bands or self.layers is not None or self.source != "tokens"):
            raise ValueError("asp was trained on the last block's tokens: it goes with source = 'tokens' alone")
        return self


class Scoring(Table):
    """From features to one anomaly score per clip."""

    channels: ScoredViews = ("near", "far")
    residual_alpha: Annotated[float, Field(ge=0)] = 0.5
    """The view ``residual`` is near - alpha far, of features."""
    distance: Literal["cosine", "standardised"] = "cosine"
    """``standardised``: Euclidean, after every dimension is divided by its deviation over the normal clips."""
    neighbours: PositiveInt = 1
    """K of equation 3: the mean distance to this many nearest normal clips."""
    shared_neighbour: bool = False
    """Parts choose their nearest clips together (by mean distance) and not each for itself."""
    normalisation: Literal["none", "ratio", "difference", "varmin"] = "none"
    """What the density of normal clips around a neighbour does to the distance."""
    density_neighbours: PositiveInt = 4
    """Normal clips whose mean distance is the density of one."""
    target_density_neighbours: PositiveInt = 9
    """The same within the target domain, where ``domains`` sets the two apart."""
    domains: Literal["pooled", "separate", "standardised"] = "pooled"
    """One bank, or one of each domain and the lower score, divided first by the domain's own median if asked."""
    enrichment: Literal["none", "memmix", "smote"] = "none"
    """Made-up normals of the target domain."""
    memmix_lambda: Fraction = 0.9
    memmix_sources: PositiveInt = 990
    smote_neighbours: PositiveInt = 2
    smote_ratio: PositiveFloat = 0.2
    """Target clips, made-up ones included, per source clip."""
    prototypes: PositiveInt | None = None
    """Keep this many source clips, nearest to the centres of k-means; None keeps all."""
    fusion: Literal["mean", "standardised"] = "mean"
    """How the channels' scores become one; ``standardised`` first brings those of normal clips, each scored
    against the others, to mean 0 and deviation 1."""
    batch_size: PositiveInt = 8

    @model_validator(mode="after")
    def _fits(self) -> Scoring:
        if self.domains == "standardised" and self.normalisation != "none":
            raise ValueError("domains = 'standardised' goes with normalisation = 'none'")
        return self


class Decision(Table):
    """From scores to decisions, which do not enter the official score: a threshold per machine and section."""

    threshold: Literal["gamma", "empirical"] = "gamma"
    """Quantile of a gamma distribution fitted to normal training scores, as the official baseline takes it, or of
    these scores themselves."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """The share of normal clips that the threshold is meant to let pass."""


class Detection(Table):
    """How ``nearfar fit`` calibrates a detector and hears long recordings; nothing else reads it."""

    calibration: Literal["leave-one-out", "split"] = "leave-one-out"
    """Every normal recording is scored against the others, or some are held out of the bank and scored."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share that ``split`` holds out."""
    threshold: Literal["conformal", "gamma", "empirical"] = "conformal"
    """From the calibration scores by rank, by a gamma distribution fitted to them, or as their quantile."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of normal recordings that may be called anomalous."""
    domains: Literal["pooled", "separate"] = "pooled"
    """One threshold for both domains, or one for each."""
    hop_seconds: PositiveFloat | None = None
    """Recordings longer than a clip are heard in windows of a clip, this far apart; None is a clip's length."""


class Autoencoder(Table):
    """The challenge's baselines; read only when ``method = "autoencoder"``, and then instead of the tables of the
    encoder and its training. They hear the near channel."""

    epochs: PositiveInt = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Vectors of five frames."""
    learning_rate: PositiveFloat = 1e-3
    validation_fraction: Rate = 0.1
    """The share of training vectors that is held out to watch the loss; it decides nothing."""
    score: Literal["mse", "mahala"] = "mse"
    textbook: bool = False
    """Whether ``mahala`` is the distance it is named after, or what the official code computes (off)."""
