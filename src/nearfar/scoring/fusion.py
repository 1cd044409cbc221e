"""From one score per channel to one score per clip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import Channel


def mean_of_channels(scores: Mapping[Channel, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Score-level averaging (section 2.5 of the report); one channel alone passes unchanged.

    Args:
        scores: (clips,) float64 for each channel of the system.

    Returns:
        (clips,) float64.

    Raises:
        ValueError: if there is no channel, or their numbers of clips differ.
    """
    if not scores or len({len(values) for values in scores.values()}) != 1:
        raise ValueError("expected scores of one or more channels, all of the same clips")
    mean: NDArray[np.float64] = np.mean(np.stack(list(scores.values())), axis=0)
    return mean
