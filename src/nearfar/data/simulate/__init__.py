"""A simulated two-microphone factory, for trying nearfar without recordings."""

from nearfar.data.simulate.factory import FactoryPlan, simulate_factory
from nearfar.data.simulate.machines import machine_types

__all__ = ["FactoryPlan", "machine_types", "simulate_factory"]
