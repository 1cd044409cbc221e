"""What EAT learns with: an encoder that sees a fifth of the patches, and a decoder that predicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar.encoders.eat import EAT
from nearfar.pretraining.decoder import Decoder, fill_grid
from nearfar.pretraining.masking import visible_cells


class Student(nn.Module):
    """Encoder and decoder under training.

    Patches are embedded once per clip; only the visible ones go through the blocks, so a view costs about a fifth
    of a whole clip.
    """

    def __init__(self, encoder: EAT, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, fbank: Tensor, masked: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Predict what the teacher says about every view.

        Args:
            fbank: (clips, 1, frames, 128) normalised log-mel.
            masked: (clips * clones, cells) bool, the views of a clip one after another; see
                :func:`nearfar.pretraining.masking.inverse_block_masks`.
            noise: (clips * clones, cells, D), what the decoder sees at masked cells.

        Returns:
            The decoder's prediction for every cell, (clips * clones, cells, D), and for the whole clip the CLS of
            the encoder's last block, (clips * clones, D).

        Raises:
            ValueError: if the views keep different numbers of cells.
        """
        visible = visible_cells(masked)
        encoded = self.encode(fbank, visible)
        cells = self.decoder(fill_grid(encoded[:, 1:], visible, noise))
        return cells, encoded[:, 0]

    def encode(self, fbank: Tensor, visible: Tensor) -> Tensor:
        """Encode the visible cells of each view: (views, 1 + kept, D), CLS first."""
        patches = self.encoder.patches(fbank)
        clones = len(visible) // len(patches)
        rows = torch.arange(len(visible), device=visible.device)[:, None] // clones
        x = self.encoder.with_cls(patches[rows, visible])
        for block in self.encoder.blocks:
            x = block(x)
        return x
