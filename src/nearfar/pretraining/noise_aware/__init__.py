"""Pre-training of noise-aware layers on simulated rooms, see :mod:`nearfar.encoders.noise_aware`."""
