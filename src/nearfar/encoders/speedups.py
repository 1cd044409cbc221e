"""Speed-ups of encoders for inference, which change features a little: a recipe names them, none by default.

To add one, write a function from an encoder to a faster one, and a line of :data:`SPEEDUPS`. A speed-up is part of
the identity of features, so those with and without it are never compared with one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nearfar.encoders.base import Encoder, Tokens
from nearfar.encoders.eat import EAT
from nearfar.encoders.int8 import quantised
from nearfar.encoders.merging import MergedTokens
from nearfar.errors import InputError
from nearfar.registry import Entry, Registry
from nearfar.settings import Rate, Settings


@dataclass(frozen=True, kw_only=True)
class Speedup(Entry):
    """A speed-up.

    Attributes:
        apply: from an encoder in evaluation mode and the settings to a faster one; the encoder is not changed.
            Raises :class:`InputError` if the encoder is of another kind.
        own_length: whether windows have their own length instead of padding.
    """

    apply: Callable[[Encoder, Any], Encoder] = lambda encoder, settings: encoder
    own_length: bool = False


class MergingSettings(Settings):
    """Merging of similar tokens."""

    merged_share: Rate = 0.5
    """The share of the tokens of each frequency band that have merged into others after the last block."""


class OwnLength(Encoder):
    """An encoder that computes every window at its own length, instead of masking its padding.

    Its tokens are those of the encoder with a mask, within rounding, and zeros where the mask is False.

    Args:
        encoder: is used, not copied.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
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
        """As :meth:`Encoder.encode`; ``token_keep`` is True for the first columns of each window."""
        if token_keep is None or bool(token_keep.all()):
            return self.encoder.encode(spectrogram, layers, branch_keep=branch_keep)
        lengths = token_keep.sum(dim=1) // self.bands
        groups = []
        for columns in sorted(set(lengths.tolist())):
            rows = (lengths == columns).nonzero()[:, 0]
            frames = spectrogram[rows, :, : columns * self.patch_frames]
            factors = None if branch_keep is None else branch_keep[:, :, rows]
            groups.append((rows, self.encoder.encode(frames, layers, branch_keep=factors)))
        count = len(groups[0][1])
        return [_joined([(rows, tokens[layer]) for rows, tokens in groups], token_keep) for layer in range(count)]


def _joined(groups: Sequence[tuple[Tensor, Tokens]], token_keep: Tensor) -> Tokens:
    """The tokens of groups of windows, by their rows, padded with zeros to the size of ``token_keep``."""
    windows, width = token_keep.shape
    first = groups[0][1]
    patches = first.patches.new_zeros(windows, width, first.patches.shape[2])
    cls = None if first.cls is None else first.cls.new_zeros(windows, first.cls.shape[1])
    for rows, tokens in groups:
        patches[rows, : tokens.patches.shape[1]] = tokens.patches
        if cls is not None and tokens.cls is not None:
            cls[rows] = tokens.cls
    return Tokens(patches, cls)


def _merging(encoder: Encoder, settings: MergingSettings) -> Encoder:
    if not isinstance(encoder, EAT):
        raise InputError(
            "inference.speedups",
            found=f"'merged-tokens' with {type(encoder).__name__}",
            expected="an EAT encoder",
            remedy="Remove it",
        )
    return MergedTokens(encoder, settings.merged_share)


SPEEDUPS: Registry[Speedup] = Registry("speed-up")
"""In the order in which they are applied."""
SPEEDUPS["int8"] = Speedup(
    apply=lambda encoder, settings: quantised(encoder), description="linear layers in 8-bit integers"
)
SPEEDUPS["merged-tokens"] = Speedup(
    apply=_merging,
    settings=MergingSettings,
    description="merging of {merged_share:.0%} of the tokens",
)
SPEEDUPS["own-length"] = Speedup(own_length=True, description="no padding")


FAST = ("int8", "merged-tokens", "own-length")
FAST_WITH_PADDING = ("int8", "merged-tokens")
"""The speed-ups of ``--fast``, and those for models that were trained on padding; docs/results/fast-mode.md has
what they cost and gain together."""


def faster(encoder: Encoder, chosen: Mapping[str, Any], *, mask_padding: bool = False) -> tuple[Encoder, bool]:
    """An encoder with speed-ups, and whether padding is left out.

    Args:
        encoder: in evaluation mode; it is not changed.
        chosen: settings by the name of a speed-up, in any order.
        mask_padding: whether padding is left out without a speed-up.

    Raises:
        InputError: if a speed-up is not one of this encoder's.
    """
    for name, speedup in SPEEDUPS.items():
        if name in chosen:
            encoder = speedup.apply(encoder, chosen[name])
            mask_padding |= speedup.own_length
    return OwnLength(encoder) if mask_padding else encoder, mask_padding
