"""The network of a system: waveform, spectrogram, tokens, pooled statistics, embedding; and its training loss."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from nearfar.config import Recipe
from nearfar.encoders import Encoder, EncoderFamily, encoder_hash, token_keep
from nearfar.encoders.weights import seeded_start
from nearfar.errors import InputError
from nearfar.frontends import Frontend
from nearfar.frontends.kaldi import SAMPLE_RATE_HZ


class Embedder(nn.Module):
    """An encoder, a trained pooling of its patch tokens, and a linear layer to a low dimension.

    Args:
        encoder: or a peft model around one.
        frontend: waveforms to the spectrogram that the encoder reads.
        pooling: an entry of :data:`nearfar.pooling.TRAINED_POOLINGS`, built for the encoder's tokens.
        mask_padding: whether token columns that hold only padding are left out of attention and pooling.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: Frontend,
        pooling: nn.Module,
        *,
        embedding_dim: int,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.frontend, self.encoder, self.pooling = frontend, encoder, pooling
        out_features = pooling.out_features
        assert isinstance(out_features, int), "a trained pooling states the width of its output"
        self.projection = nn.Linear(out_features, embedding_dim)
        self.mask_padding = mask_padding

    def forward(
        self,
        waveform: Tensor,
        samples: Tensor,
        *,
        branch_keep: Tensor | None = None,
        spec_mask: Tensor | None = None,
    ) -> Tensor:
        """Embed a batch.

        Args:
            waveform: (batch, padded samples) float32 at 16 kHz, zero-padded behind the clip; (batch, signals,
                padded samples) where views have several signals.
            samples: (batch,) int64, the clips' lengths before padding.
            branch_keep: stochastic depth, see :func:`nearfar.encoders.stochastic_depth`, or None.
            spec_mask: (batch, 1, frames, mel bins) bool, cells of the normalised spectrogram to set to zero, or
                None (SpecAugment, Park et al., Interspeech 2019).

        Returns:
            (batch, embedding_dim) float32, not normalised in length.
        """
        spectrogram = self.frontend(waveform)
        if spec_mask is not None:
            spectrogram = spectrogram.masked_fill(spec_mask, 0.0)
        return self.embed(spectrogram, samples, branch_keep=branch_keep)

    def embed(self, spectrogram: Tensor, samples: Tensor, *, branch_keep: Tensor | None = None) -> Tensor:
        """As :meth:`forward`, from the spectrograms of the front end."""
        columns = spectrogram.shape[2] // self.encoder.patch_frames
        keep = token_keep(self.encoder, self.frontend, samples, columns) if self.mask_padding else None
        (last,) = self.encoder.encode(spectrogram, token_keep=keep, branch_keep=branch_keep)
        pooled = self.pooling(last.patches, keep)
        with torch.autocast(spectrogram.device.type, enabled=False):
            return cast(Tensor, self.projection(pooled))

    def with_encoder(self, encoder: Encoder, *, mask_padding: bool) -> Embedder:
        """The same pooling and projection with another encoder, such as a faster one."""
        out = Embedder(
            encoder,
            self.frontend,
            self.pooling,
            embedding_dim=self.projection.out_features,
            mask_padding=mask_padding,
        )
        out.projection = self.projection
        return out.train(self.training)


class EmbedderWithLoss(nn.Module):
    """An embedder and its classification loss as one module, so that they can be trained as one.

    Attributes:
        loss: an entry of :data:`nearfar.losses.LOSSES`, built for the embeddings.
        base_hash: identity of the encoder's weights before training.
    """

    def __init__(self, embedder: Embedder, loss: nn.Module, base_hash: str) -> None:
        super().__init__()
        self.embedder, self.loss, self.base_hash = embedder, loss, base_hash

    def forward(
        self,
        waveform: Tensor,
        samples: Tensor,
        labels: Tensor,
        *,
        other_labels: Tensor | None = None,
        mixup_lambda: Tensor | None = None,
        spec_mask: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> Tensor:
        """Loss per row, (batch,) float32; arguments as in :class:`Embedder` and :class:`nearfar.losses.Loss`."""
        embeddings = self.embedder(waveform, samples, branch_keep=branch_keep, spec_mask=spec_mask)
        return cast(Tensor, self.loss(embeddings, labels, other_labels, mixup_lambda))


def build_model(recipe: Recipe, classes: int) -> EmbedderWithLoss:
    """The model of a recipe before its first training step: a pre-trained (or random) encoder, a random head.

    Raises:
        InputError: if the encoder's weights cannot be loaded or do not fit, or its positions end before the clips
            do.
    """
    encoder, head = load_start(recipe), recipe.head
    base_hash = encoder_hash(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        embedder = build_embedder(encoder, recipe)
        loss = head.entry("loss").build(classes, head.embedding_dim, head.settings_of("loss"))
        embedder.encoder = recipe.training.entry("adaptation").prepare(encoder, recipe.adaptation_settings())
    encoder.checkpoint_blocks = recipe.training.activation_checkpointing
    return EmbedderWithLoss(embedder, loss, base_hash)


def build_embedder(encoder: Encoder, recipe: Recipe) -> Embedder:
    """An embedder around ``encoder``, with random pooling and projection drawn from torch's random state."""
    head = recipe.head
    return Embedder(
        encoder,
        recipe.encoder.entry("family").frontend(recipe.fbank.mean, recipe.fbank.std),
        head.entry("pooling").build(encoder.embed_dim, head.settings_of("pooling")),
        embedding_dim=head.embedding_dim,
        mask_padding=recipe.encoder.mask_padding,
    )


def start_weights(recipe: Recipe) -> str:
    """The recipe's encoder weights; a random start without a seed has the recipe's."""
    return seeded_start(recipe.encoder.weights, recipe.seed)


def load_start(recipe: Recipe) -> Encoder:
    """The encoder that a recipe starts from.

    Raises:
        InputError: if it cannot be loaded, or the clips are longer than it has positions for.
    """
    family: EncoderFamily = recipe.encoder.entry("family")
    encoder = family.load(start_weights(recipe), recipe.encoder.revision)
    seconds, limit = recipe.audio.clip_seconds, encoder.longest_samples
    if limit is not None and not isinstance(seconds, str) and seconds > (longest := limit / SAMPLE_RATE_HZ):
        raise InputError(
            "audio.clip_seconds",
            found=f"{seconds:g} s",
            expected=f"at most {longest:g} s, the length of this encoder's table of positions",
            remedy="Cut the recordings into shorter clips",
        )
    return encoder
