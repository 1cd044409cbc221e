"""The base class of encoders, and the table of encoder families."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nearfar.frontends.base import Frontend
from nearfar.registry import Entry, Registry


class Tokens(NamedTuple):
    """The output of one block of an encoder.

    Attributes:
        patches: (batch, columns * bands, dim); token ``t * bands + f`` is time column t, frequency band f.
        cls: (batch, dim), the token of the whole clip, or None if the encoder has none.
    """

    patches: Tensor
    cls: Tensor | None


class Encoder(nn.Module):
    """Base of audio encoders: a normalised spectrogram to tokens.

    Attributes:
        config: sizes and other constants that decide the output, a frozen dataclass.
        embed_dim: width of a token.
        depth: number of blocks.
        bands: tokens per time column.
        patch_frames: spectrogram frames per time column.
        longest_samples: the longest clip, in samples at 16 kHz, that the encoder has positions for; None if
            there is no limit.
        no_weight_decay: names of own parameters that do not decay in training, beside biases and norms.
        checkpoint_blocks: whether blocks recompute their activations in the backward pass, to save memory.
    """

    config: Any
    embed_dim: int
    depth: int
    bands: int
    patch_frames: int
    longest_samples: int | None
    no_weight_decay: ClassVar[frozenset[str]] = frozenset()
    checkpoint_blocks: bool = False

    def encode(
        self,
        spectrogram: Tensor,
        layers: Sequence[int] | None = None,
        *,
        token_keep: Tensor | None = None,
        branch_keep: Tensor | None = None,
    ) -> list[Tokens]:
        """Tokens of the blocks ``layers``, in their order.

        Args:
            spectrogram: (batch, signals, frames, mel bins) float, the output of the family's front end.
            layers: blocks, counted from 1 to ``depth``; None is the last one.
            token_keep: (batch, columns * bands) bool, False where a token holds only padding and must not be
                attended to, or None for all.
            branch_keep: (depth, 2, batch) factors for stochastic depth, see :func:`stochastic_depth`, or None.

        Raises:
            ValueError: if the spectrogram does not fit or a layer does not exist.
        """
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        """The content of ``config``, as JSON values."""
        return asdict(self.config)


def encoder_hash(encoder: Encoder) -> str:
    """SHA-256 over sizes and parameters (names, number types, values); it does not depend on the device."""
    digest = hashlib.sha256(json.dumps(encoder.sizes(), sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def token_keep(encoder: Encoder, frontend: Frontend, samples: Tensor, columns: int) -> Tensor:
    """(batch, columns * bands) bool, True for patch tokens with a frame of the clip; samples: (batch,) lengths.

    A clip has the columns that it would have without padding, and at least one.
    """
    frames = [max(frontend.frame_count(int(count)), 1) for count in samples.tolist()]
    own_columns = torch.tensor([-(-count // encoder.patch_frames) for count in frames], device=samples.device)
    keep = torch.arange(columns, device=samples.device) < own_columns.unsqueeze(1)
    return keep.repeat_interleave(encoder.bands, dim=1)


def stochastic_depth(rate: float, depth: int, batch: int, generator: torch.Generator) -> Tensor | None:
    """Random factors of every residual branch, (depth, 2, batch): 1 / p with probability p, else 0.

    The rate grows linearly from 0 at the first block to ``rate`` at the last (Huang et al., "Deep Networks with
    Stochastic Depth", ECCV 2016). As they are drawn outside the blocks, a step does not depend on the division of
    its batch over processes and accumulation slices. Returns None for a rate of 0.
    """
    if rate == 0.0:
        return None
    probability = 1.0 - torch.linspace(0.0, rate, depth)[:, None, None]
    return (torch.rand(depth, 2, batch, generator=generator) < probability) / probability


@dataclass(frozen=True, kw_only=True)
class EncoderFamily(Entry):
    """An architecture with its weights and front end.

    Attributes:
        load: from a name (a path, a hub name, ``random:tiny``) and a revision of the hub or None to an encoder in
            evaluation mode, float32, on the CPU. Raises :class:`InputError` if there is no such encoder.
        save: write an encoder to a folder from which ``load`` reads it back bit for bit.
        frontend: from the mean and deviation of the training spectrograms to the front end of the encoder.
        signals: number of signals of the views that the encoder reads.
        fbank: mean and deviation of the spectrograms that the released weights were trained on.
    """

    load: Callable[[str, str | None], Encoder]
    save: Callable[[Any, Path], None]
    frontend: Callable[[float, float], Frontend]
    signals: int = 1
    fbank: tuple[float, float] = (-4.268, 4.569)


ENCODERS: Registry[EncoderFamily] = Registry("encoder family")
