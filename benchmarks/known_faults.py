r"""Names of known faults, right and wrong, and what recordings of another condition do once they are added.

    nearfar simulate FACTORY --machines fan,valve --train-source 60 --train-target 10 --test 30 --seconds 2 \
        --seed 5
    python benchmarks/known_faults.py FACTORY

Three recordings of every kind of fault of a machine are known; the other anomalous ones are named, or not. Then
the same with each kind unknown in turn. Last, a detector of the source domain alone, and with the target domain
added.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import Counter
from pathlib import Path

import nearfar
from nearfar.data import Dataset, read_dataset
from nearfar.detector import Detector, Rate

KNOWN, DRAWS = 3, 3


def faults_of(factory: Path, machine: str) -> dict[str, list[Path]]:
    """The anomalous test recordings of a machine, by kind of fault."""
    found: dict[str, list[Path]] = {}
    with (factory / "truth.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["machine"], row["split"], row["label"]) == (machine, "test", "anomaly"):
                found.setdefault(row["fault"], []).append(factory / row["file_name"])
    return found


def with_faults(detector: Detector, faults: dict[str, list[Path]], machine: str, without: str = "") -> Detector:
    for name, files in faults.items():
        if name != without:
            detector = detector.with_fault(name, files, machine)
    return detector


def names(detector: Detector, files: list[Path], machine: str) -> list[str | None]:
    """The name that each anomalous one is given."""
    scored = detector.score_many(files, machine)
    return [score.like.fault if score.like else None for score in scored if score.anomalous]


def named(detector: Detector, factory: Path, machine: str) -> tuple[Counter[str], Counter[str]]:
    """Counts of names of recordings whose fault is known, and whose fault is not."""
    kinds, draw = faults_of(factory, machine), random.Random(0)
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for _ in range(DRAWS):
        chosen = {kind: draw.sample(files, min(KNOWN, len(files) // 2)) for kind, files in kinds.items()}
        every = with_faults(detector, chosen, machine)
        for kind, files in kinds.items():
            rest = [file for file in files if file not in chosen[kind]]
            for name in names(every, rest, machine):
                known["none" if name is None else "right" if name == kind else "wrong"] += 1
            for name in names(with_faults(detector, chosen, machine, kind), files, machine):
                unknown["none" if name is None else "wrong"] += 1
    return known, unknown


def percent(rate: Rate) -> str:
    return f"{rate.alarms} of {rate.recordings}"


def other_condition(dataset: Dataset, machine: str) -> None:
    """Alarms of a detector of the source domain, and once the target domain's normal recordings were added."""
    domains = {
        domain: [c for c in dataset.train(machine) if c.domain == domain] for domain in ("source", "target")
    }
    before = Detector.fit(domains["source"])
    after = before.with_normals(domains["target"])
    for domain, added in domains.items():
        tests = dataset.with_clips(clip for clip in dataset.test(machine) if clip.domain == domain)
        for when, detector in (("before", before), ("after", after)):
            (counts,) = detector.tested(tests)
            alarms, found = percent(counts.false_alarms), percent(counts.detections)
            print(
                f"{machine}, {domain} ({len(added)} normal), {when}: {alarms} false alarms, {found} faults found"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("factory", type=Path)
    factory = parser.parse_args().factory
    dataset = read_dataset(factory)
    detector = nearfar.Detector.fit(factory)
    for machine in dataset.machines:
        known, unknown = named(detector, factory, machine)
        print(f"{machine}: fault known {dict(known)}, not known {dict(unknown)}", flush=True)
    for machine in dataset.machines:
        other_condition(dataset, machine)


if __name__ == "__main__":
    main()
