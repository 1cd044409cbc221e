"""The whole network of a system: waveform, fbank, tokens, pooled statistics, embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar.encoders.eat import EAT, EATConfig
from nearfar.frontends.kaldi import FRAME_SAMPLES, FRAME_SHIFT, PATCH_FRAMES, SAMPLE_RATE_HZ, KaldiFbank, frame_count
from nearfar.pooling.attentive import AttentiveStatisticsPooling


class Embedder(nn.Module):
    """EAT, attentive statistics pooling over the patch tokens, and a linear layer to a low dimension.

    Args:
        encoder: an EAT, or one wrapped by peft for LoRA.
        config: sizes of the encoder.
        fbank: the front end.
        attention_dim: bottleneck of the pooling.
        embedding_dim: width of the embedding.
        mask_padding: whether token columns that hold only padding are left out of attention and pooling.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        config: EATConfig,
        fbank: KaldiFbank,
        attention_dim: int,
        embedding_dim: int,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.fbank = fbank
        self.encoder = encoder
        self.pooling = AttentiveStatisticsPooling(config.embed_dim, attention_dim)
        self.projection = nn.Linear(2 * config.embed_dim, embedding_dim)
        self.bands, self.depth = config.bands, config.depth
        self.mask_padding = mask_padding

    def token_keep(self, samples: Tensor, tokens: int) -> Tensor:
        """Which patch tokens hold some of the clip, (batch, tokens) bool, from its length in samples (batch,).

        A column of 16 frames is left out only if none of its frames lies whole within the clip, so a clip keeps
        the columns that it would have without padding.
        """
        columns = torch.tensor(
            [max(1, -(-max(frame_count(int(n)), 1) // PATCH_FRAMES)) for n in samples.tolist()],
            device=samples.device,
        )
        return torch.arange(tokens, device=samples.device) < (columns * self.bands).unsqueeze(1)

    def forward(
        self,
        waveform: Tensor,
        samples: Tensor,
        *,
        branch_keep: Tensor | None = None,
        blank: Tensor | None = None,
    ) -> Tensor:
        """Embed a batch.

        Args:
            waveform: (batch, padded samples) float32 at 16 kHz, zero-padded behind the clip.
            samples: (batch,) int64, the clips' lengths before padding.
            branch_keep: stochastic depth, see :func:`nearfar.encoders.eat.stochastic_depth`.
            blank: (batch, 1, frames, 128) bool, cells of the normalised fbank to set to zero, or None.

        Returns:
            (batch, embedding_dim) float32, not normalised in length.
        """
        fbank = self.fbank(waveform)
        if blank is not None:
            fbank = fbank.masked_fill(blank, 0.0)
        tokens = fbank.shape[2] // PATCH_FRAMES * self.bands
        keep = self.token_keep(samples, tokens) if self.mask_padding else None
        encoded = self.encoder(fbank, token_keep=keep, branch_keep=branch_keep)
        pooled = self.pooling(encoded[:, 1:], keep)
        with torch.autocast(waveform.device.type, enabled=False):
            embedding: Tensor = self.projection(pooled)
        return embedding


def longest_seconds(config: EATConfig) -> float:
    """The longest clip that an encoder has positions for: 122.895 s for the published ones."""
    frames = config.max_length * config.patch_size
    return (FRAME_SAMPLES + (frames - 1) * FRAME_SHIFT) / SAMPLE_RATE_HZ


def build_embedder(
    encoder: EAT, fbank: KaldiFbank, *, attention_dim: int, embedding_dim: int, mask_padding: bool = False
) -> Embedder:
    """An embedder around ``encoder`` with a pooling and projection drawn from torch's random state."""
    return Embedder(
        encoder,
        config=encoder.config,
        fbank=fbank,
        attention_dim=attention_dim,
        embedding_dim=embedding_dim,
        mask_padding=mask_padding,
    )
