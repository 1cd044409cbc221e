"""The archives of DCASE 2026 Challenge Task 2: addresses, contents and md5 sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from nearfar.errors import InputError

Part = Literal["dev", "train", "eval"]
"""Development set, additional training set (normal clips of the evaluation machines), evaluation test set."""

PARTS: tuple[Part, ...] = get_args(Part)
ZENODO = "https://zenodo.org"
"""Base of the addresses; a mirror with the same paths may replace it."""

_SPLITS: dict[Part, tuple[str, ...]] = {"dev": ("train", "test"), "train": ("train",), "eval": ("test",)}


@dataclass(frozen=True, slots=True)
class Record:
    """A record of Zenodo. ``total_bytes`` of its archives is rounded as published, so only for estimates."""

    number: int
    licence: str
    total_bytes: int


RECORDS: dict[Part, Record] = {
    "dev": Record(19336329, "see the record's page", 4_800_000_000),
    "train": Record(20151556, "CC BY-NC-SA 4.0", 2_800_000_000),
    "eval": Record(20437238, "CC BY-NC-SA 4.0", 558_700_000),
}


@dataclass(frozen=True, slots=True)
class Archive:
    """One zip file of one machine. ``size_bytes`` is None where it is not published."""

    part: Part
    machine: str
    filename: str
    md5: str
    size_bytes: int | None = None

    @property
    def record(self) -> Record:
        """The record that holds the archive."""
        return RECORDS[self.part]

    @property
    def splits(self) -> tuple[str, ...]:
        """The folders of clips in the archive: ``train``, ``test`` or both."""
        return _SPLITS[self.part]

    @property
    def about_bytes(self) -> int:
        """The size, or the mean size of its record's archives where none is published."""
        if self.size_bytes is not None:
            return self.size_bytes
        return self.record.total_bytes // sum(archive.part == self.part for archive in ARCHIVES)

    def url(self, base_url: str = ZENODO) -> str:
        """The address of the archive under ``base_url``."""
        return f"{base_url.rstrip('/')}/records/{self.record.number}/files/{self.filename}"


ARCHIVES: tuple[Archive, ...] = (
    # Replaced dev_ToyCar.zip in April.
    Archive("dev", "ToyCar", "dev_ToyCar_r2.zip", "353201db217e25377a7e7eccf9c1c8a7", 722655322),
    Archive("dev", "ToyCarEmu", "dev_ToyCarEmu.zip", "187b0b3f84d2452d8944d5c831305f15", 815490762),
    Archive("dev", "bearingEmu", "dev_bearingEmu.zip", "82c2d04c5f48d09842152c34ef273667", 608240380),
    Archive("dev", "fan", "dev_fan.zip", "58b79bac4b05bf14a11e9d53e6cdfae9", 704228804),
    Archive("dev", "gearboxEmu", "dev_gearboxEmu.zip", "21ef8b6dea66472bc4e7c91a175efdb7", 681113572),
    Archive("dev", "sliderEmu", "dev_sliderEmu.zip", "1cbc87a09883a1aa05a6b2a4308efb83", 694421981),
    Archive("dev", "valveEmu", "dev_valveEmu.zip", "f7f74e59773eefa512f24625d88d58f0", 574561173),
    Archive(
        "train",
        "BlowerDustCollector",
        "eval_data_BlowerDustCollector_train.zip",
        "e79342948772cf51e50ff601cd9621f3",
    ),
    Archive(
        "eval", "BlowerDustCollector", "eval_data_BlowerDustCollector_test.zip", "ec90d56f189e84e6430fb2878c59cb84"
    ),
    Archive("train", "Sander", "eval_data_Sander_train.zip", "6cbcfbc65a09c4f3d00b9a55c50502ec"),
    Archive("eval", "Sander", "eval_data_Sander_test.zip", "05f81c9a80e91c7b3cea15f8e8559b44"),
    Archive("train", "SewingMachine", "eval_data_SewingMachine_train.zip", "74d08cacba3da88753badd69d19e577b"),
    Archive("eval", "SewingMachine", "eval_data_SewingMachine_test.zip", "f0a1a96b48006c301e8cec25e9214046"),
    Archive("train", "ToothBrush", "eval_data_ToothBrush_train.zip", "6fa5f81796b5d37b3ed24bb8eff2ea25"),
    Archive("eval", "ToothBrush", "eval_data_ToothBrush_test.zip", "987395506fbb48c570d5d26babcab05e"),
    Archive("train", "ToyDrone", "eval_data_ToyDrone_train.zip", "af3e4040ef7c67d7ee920608d0c38d82"),
    Archive("eval", "ToyDrone", "eval_data_ToyDrone_test.zip", "b36102371c188b630d201d443a00bab2"),
)


def chosen(parts: Iterable[str] = (), machines: Iterable[str] = ()) -> tuple[Archive, ...]:
    """The archives of the named parts and machines; all of them without names.

    Raises:
        InputError: if a part or a machine is not in the catalogue.
    """
    parts, machines = tuple(parts) or PARTS, tuple(machines)
    for part in parts:
        if part not in PARTS:
            raise InputError(part, found="no such part", expected="dev, train or eval", remedy="Correct the name")
    available = sorted({archive.machine for archive in ARCHIVES if archive.part in parts}, key=str.casefold)
    for machine in machines:
        if machine not in available:
            elsewhere = sorted({archive.part for archive in ARCHIVES if archive.machine == machine})
            raise InputError(
                "machines",
                found=f"{machine}, which is in {' and '.join(elsewhere)}" if elsewhere else machine,
                expected=f"machines of {', '.join(parts)}: {', '.join(available)}",
                remedy="Correct the name",
            )
    return tuple(a for a in ARCHIVES if a.part in parts and (not machines or a.machine in machines))
