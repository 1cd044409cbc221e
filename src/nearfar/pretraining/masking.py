"""Which patches EAT's student sees in pre-training: a few square blocks, the same number in every view.

Inverse block masking (Baevski et al., "Efficient Self-supervised Learning with Contextualized Target
Representations", ICML 2023, section 3.3, as EAT sets it: Chen et al., IJCAI 2024, section 3.2).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def visible_count(cells: int, mask_ratio: float) -> int:
    """How many of the grid's cells every view keeps: 102 of 512 at EAT's 0.8."""
    return int(cells * (1.0 - mask_ratio))


def inverse_block_masks(
    random: np.random.Generator,
    views: int,
    columns: int,
    bands: int,
    *,
    mask_ratio: float = 0.8,
    adjust: float = 0.07,
    block: int = 5,
) -> NDArray[np.bool_]:
    """Draw masks over a grid of patches.

    ``int(cells * (1 - mask_ratio + adjust) / block^2)`` centres fall anywhere, with replacement; each keeps the
    ``block x block`` cells around it, cut at the grid's edges. Then random kept cells are dropped, or random
    others added, until exactly :func:`visible_count` are kept.

    Args:
        random: source of all draws.
        views: how many masks.
        columns, bands: the grid; cell ``t * bands + f`` is column t, band f, as the encoder's tokens are.
        mask_ratio: share of cells to hide.
        adjust: share of cells by which the blocks together are larger, since they overlap.
        block: side of a block in cells, odd.

    Returns:
        (views, columns * bands) bool, True = hidden from the student and to be predicted.
    """
    cells = columns * bands
    centres = random.integers(cells, size=(views, int(cells * (1.0 - mask_ratio + adjust) / block**2)))
    reach = np.arange(-(block // 2), block // 2 + 1)
    column = np.clip(centres[..., None, None] // bands + reach[:, None], 0, columns - 1)
    band = np.clip(centres[..., None, None] % bands + reach, 0, bands - 1)
    in_block = np.zeros((views, cells), dtype=np.bool_)
    np.put_along_axis(in_block, (column * bands + band).reshape(views, -1), values=True, axis=1)
    # Cells of blocks come first, in random order among themselves, then all others, likewise.
    order = np.argsort(random.random((views, cells)) - in_block, axis=1)
    masked = np.ones((views, cells), dtype=np.bool_)
    np.put_along_axis(masked, order[:, : visible_count(cells, mask_ratio)], values=False, axis=1)
    return masked


def visible_cells(masked: Tensor) -> Tensor:
    """Indices of the kept cells in rising order, (views, kept) int64.

    Args:
        masked: (views, cells) bool with equally many False in every row.

    Raises:
        ValueError: if the rows keep different numbers of cells.
    """
    kept = (~masked).sum(dim=1)
    if not bool((kept == kept[0]).all()):
        raise ValueError(f"expected masks that keep equally many cells, got {sorted(set(kept.tolist()))}")
    return torch.nonzero(~masked)[:, 1].view(len(masked), int(kept[0]))
