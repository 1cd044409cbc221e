"""Presets of ``nearfar simulate``: settings of a factory under a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nearfar.data.simulate.acoustics import Acoustics, Range


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings of a simulated factory.

    Attributes:
        description: one sentence.
        snr_db, severity: as of :class:`nearfar.data.simulate.FactoryPlan`.
        acoustics: by machine type; recordings of others are left as the simulated room gives them.
        shared_rooms: machine types whose domains share one room and all noises, and differ in operation alone.
    """

    description: str
    snr_db: Range
    severity: Range
    acoustics: Mapping[str, Acoustics] = field(default_factory=dict)
    shared_rooms: tuple[str, ...] = ()

    def shares_room(self, machine: str) -> bool:
        """Whether the domains of a machine share room and noises."""
        return machine in self.shared_rooms


def _uniform(low: float, high: float) -> Range:
    """The range of a uniform distribution with these 10 % and 90 % quantiles."""
    margin = (high - low) / 8
    return max(low - margin, 0.5 * low), high + margin


def _acoustics(coherence: tuple[Range, Range, Range], far_to_near: Range, level_spread_db: float) -> Acoustics:
    """From 10 % and 90 % quantiles over recordings."""
    low, middle, high = (_uniform(*each) for each in coherence)
    half = level_spread_db / 0.8 / 2
    return Acoustics((low, middle, high), _uniform(*far_to_near), (-34.0 - half, -34.0 + half))


_DCASE2026 = {
    "fan": _acoustics(((0.607, 0.664), (0.271, 0.308), (0.272, 0.287)), (1.115, 1.173), 0.5),
    "gearbox": _acoustics(((0.448, 0.553), (0.262, 0.355), (0.241, 0.380)), (0.677, 1.271), 7.2),
    "bearing": _acoustics(((0.400, 0.477), (0.309, 0.475), (0.357, 0.510)), (0.712, 0.909), 2.1),
    "slider": _acoustics(((0.332, 0.423), (0.260, 0.318), (0.378, 0.426)), (0.787, 0.895), 5.8),
    "valve": _acoustics(((0.461, 0.493), (0.193, 0.297), (0.093, 0.489)), (0.883, 0.993), 2.1),
    "pump": _acoustics(((0.220, 0.360), (0.100, 0.177), (0.048, 0.078)), (0.004, 0.014), 5.6),
}
"""10 % and 90 % quantiles over 200 test recordings each of fan, gearboxEmu, bearingEmu, sliderEmu and valveEmu of
the DCASE 2026 development set, and of ToyCar for the pump. Computed from the values per clip of the repository
NADUNGVN/care-asd on GitHub (branch research/fp-naa, MIT licence); the spread of levels is that of the mean of the
near log-mel spectrogram."""

PRESETS: dict[str, Preset] = {
    "plain": Preset(
        "a clearly audible machine, and faults from half-developed to obvious", (8.0, 18.0), (0.4, 1.0)
    ),
    "dcase2026": Preset(
        "near and far related as on the real DCASE 2026 development machines, with faint faults",
        (8.0, 18.0),
        (0.15, 0.5),
        _DCASE2026,
        tuple(machine for machine in _DCASE2026 if machine != "pump"),
    ),
}
"""Presets by name; a new one is one entry."""
