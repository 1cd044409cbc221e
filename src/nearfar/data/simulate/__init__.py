"""A simulated two-microphone factory, for trying nearfar out where there are no recordings."""

from nearfar.data.simulate.factory import simulate_factory
from nearfar.data.simulate.machines import machine_types
from nearfar.data.simulate.plan import FactoryPlan

__all__ = ["FactoryPlan", "machine_types", "simulate_factory"]
