"""Views: signals or features, computed from the near and far channels, for training and scoring.

A view of waveforms (near, far, cancelled) is computed from recorded channels; a view of features (residual) from
the features of other views. To add one, write it in a module of this package and add a line to :data:`VIEWS`.
"""

from nearfar.views.base import (
    VIEWS,
    View,
    channels_of,
    combined_features,
    make_views,
    read_views,
    required_waveforms,
)
from nearfar.views.far_channel import CANCELLED, FAR, NEAR, PAIR, RESIDUAL

VIEWS["near"] = NEAR
VIEWS["far"] = FAR
VIEWS["cancelled"] = CANCELLED
VIEWS["residual"] = RESIDUAL
VIEWS["pair"] = PAIR

__all__ = [
    "VIEWS", "View", "channels_of", "combined_features", "make_views", "read_views", "required_waveforms",
]  # fmt: skip
