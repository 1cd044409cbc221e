"""Where encoder weights were loaded before :mod:`nearfar.encoders`; scripts of that time go on working."""

import warnings

from nearfar.encoders.weights import load_encoder, save_encoder

__all__ = ["load_encoder", "save_encoder"]

warnings.warn("nearfar.models.weights is nearfar.encoders now", DeprecationWarning, stacklevel=2)
