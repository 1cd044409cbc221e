"""Token merging: similar tokens become one, so that later blocks have fewer of them.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023: between attention and MLP of every block, bipartite
soft matching on the keys (section 3), and attention proportional to sizes (equation 1). Here only tokens of one
frequency band merge, so that a merged token still has a band, and merged tokens are copied back to all places that
they came from: whatever pools the tokens stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.base import Encoder, Tokens
from nearfar.encoders.eat import EAT, Block


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Tokens, some of which stand for several.

    Attributes:
        cls: (batch, dim).
        patches: (batch, bands, columns, dim), in the order of time.
        sizes: (batch, bands, columns) float, of how many tokens each is the mean.
        places: (batch, bands, all columns) int64, the column of ``patches`` that holds each column's token.
    """

    cls: Tensor
    patches: Tensor
    sizes: Tensor
    places: Tensor

    @classmethod
    def of(cls, tokens: Tensor, bands: int) -> Merged:
        """Single tokens, from (batch, 1 + columns * bands, dim)."""
        batch, _, dim = tokens.shape
        patches = tokens[:, 1:].reshape(batch, -1, bands, dim).transpose(1, 2)
        columns = patches.shape[2]
        places = torch.arange(columns, device=tokens.device).expand(batch, bands, columns)
        return cls(tokens[:, 0], patches, tokens.new_ones(batch, bands, columns), places)

    def joined(self) -> Tensor:
        """CLS, then the patches: (batch, 1 + bands * columns, dim)."""
        return torch.cat([self.cls.unsqueeze(1), self.patches.flatten(1, 2)], dim=1)

    def with_tokens(self, tokens: Tensor) -> Merged:
        """The same places and sizes with other tokens, in the order of :meth:`joined`."""
        return replace(self, cls=tokens[:, 0], patches=tokens[:, 1:].reshape(self.patches.shape))

    def attention_bias(self) -> Tensor:
        """(batch, 1, 1, 1 + bands * columns), logarithms of sizes: a token weighs as those that it stands for."""
        return F.pad(self.sizes.log().flatten(1), (1, 0))[:, None, None]

    def tokens(self) -> Tokens:
        """The tokens of all places, as an encoder without merging returns them."""
        index = self.places.unsqueeze(3).expand(-1, -1, -1, self.patches.shape[3])
        grid = self.patches.gather(2, index)  # (batch, bands, all columns, dim)
        return Tokens(grid.transpose(1, 2).flatten(1, 2), self.cls)

    def merged(self, keys: Tensor, columns: int) -> Merged:
        """With at most ``columns`` columns left, or half as many as there are.

        Args:
            keys: (batch, 1 + bands * columns, size), by whose cosines tokens are similar; CLS is in front.
            columns: how many are to be left of each band.
        """
        batch, bands, now, dim = self.patches.shape
        count = min(now - columns, now // 2)
        if count <= 0:
            return self
        metric = F.normalize(keys[:, 1:].reshape(batch, bands, now, -1), dim=3)
        # Every second column may merge into one of the others: each into the most similar, the most similar first.
        best, partner = (metric[:, :, ::2] @ metric[:, :, 1::2].transpose(2, 3)).max(dim=3)
        gone = best.topk(count, dim=2).indices
        into, gone = 2 * partner.gather(2, gone) + 1, 2 * gone
        weighted = self.patches * self.sizes.unsqueeze(3)
        wide_gone, wide_into = (index.unsqueeze(3).expand(-1, -1, -1, dim) for index in (gone, into))
        weighted = weighted.scatter_add(2, wide_into, weighted.gather(2, wide_gone))
        sizes = self.sizes.scatter_add(2, into, self.sizes.gather(2, gone))
        is_left = torch.ones_like(sizes, dtype=torch.bool).scatter(2, gone, False)
        left = is_left.nonzero()[:, 2].reshape(batch, bands, now - count)
        number = is_left.cumsum(dim=2) - 1  # of every column among those that are left
        number = number.scatter(2, gone, number.gather(2, into))
        sizes = sizes.gather(2, left)
        patches = weighted.gather(2, left.unsqueeze(3).expand(-1, -1, -1, dim)) / sizes.unsqueeze(3)
        return Merged(self.cls, patches, sizes, number.gather(2, self.places))


class MergedTokens(Encoder):
    """An EAT encoder that merges tokens; for inference only.

    Args:
        encoder: its blocks are used, not copied.
        share: of the columns of every band that have gone after the last block; every block merges as many.
    """

    def __init__(self, encoder: EAT, share: float) -> None:
        super().__init__()
        self.encoder, self.share = encoder, share
        self.config, self.embed_dim, self.depth = encoder.config, encoder.embed_dim, encoder.depth
        self.bands, self.patch_frames = encoder.bands, encoder.patch_frames
        self.longest_samples = encoder.longest_samples

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """As :meth:`Encoder.encode`, without masks."""
        if token_keep is not None or branch_keep is not None:
            raise ValueError(
                "expected no masks: tokens are merged in windows without padding, and not in training"
            )
        layers = (self.depth,) if layers is None else layers
        if not layers or any(not 1 <= layer <= self.depth for layer in layers):
            raise ValueError(f"expected layers from 1 to {self.depth}, got {list(layers)}")
        state, found = Merged.of(self.encoder.embed(spectrogram), self.bands), {}
        columns = state.patches.shape[2]
        for number, block in enumerate(self.encoder.blocks[: max(layers)], start=1):
            state = _through(block, state, columns - int(self.share * columns * number / self.depth))
            if number in layers:
                found[number] = state.tokens()
        return [found[layer] for layer in layers]


def _through(block: nn.Module, state: Merged, columns: int) -> Merged:
    """A block's output, with ``columns`` columns from its MLP on."""
    assert isinstance(block, Block)
    x = state.joined()
    attended, keys = block.attn.forward_with_keys(x, state.attention_bias())
    state = state.with_tokens(block.norm1(x + attended))
    state = state.merged(keys.mean(dim=1), columns)
    x = state.joined()
    return state.with_tokens(block.norm2(x + block.mlp(x)))
