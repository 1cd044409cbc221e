"""A simulated two-microphone factory, for trying nearfar without recordings."""

from nearfar.data.simulate.factory import FactoryPlan, simulate_factory
from nearfar.data.simulate.machines import machine_types
from nearfar.data.simulate.presets import PRESETS, Preset

__all__ = ["PRESETS", "FactoryPlan", "Preset", "machine_types", "simulate_factory"]
