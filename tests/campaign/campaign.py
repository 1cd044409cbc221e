"""A campaign of random faults, each repeatable by its seed."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.campaign.cases import Campaign
from tests.campaign.faults import KINDS, TWO, TWO_SHARE, Case, two_at_once
from tests.campaign.oracle import MESSAGE, UNHARMED, WrongError

WRONG = "WRONG"


@dataclass(frozen=True)
class Record:
    """One fault: its seed, kind and outcome, and in words what was done and what was wrong."""

    seed: str
    kind: str
    outcome: str
    what: str
    why: str = ""


def inject(campaign: Campaign, seed: str) -> Record:
    """Make the fault of that seed; the same seed gives the same fault."""
    rng = random.Random(seed)
    kinds = [*KINDS, TWO]
    kind = rng.choices(kinds, [*(entry.share for entry in KINDS.values()), TWO_SHARE])[0]
    words, case = "", None
    try:
        if kind == TWO:
            words, run = two_at_once(campaign, rng)
            return Record(seed, kind, run(), words)
        case = Case(campaign, rng, list(KINDS[kind].commands))
        outcome = KINDS[kind].inject(case)
        return Record(seed, kind, outcome, case.words)
    except WrongError as error:
        return Record(seed, kind, WRONG, case.words if case is not None else words, str(error))
    except Exception:  # a fault of the campaign itself, or a folder that cannot be read
        return Record(seed, kind, WRONG, case.words if case is not None else words, traceback.format_exc())


def run_campaign(
    campaign: Campaign,
    faults: int,
    seconds: float,
    seed: int,
    wrong_file: Path | None = None,
    report: Callable[[Record, int], None] = lambda record, number: None,
) -> list[Record]:
    """Make faults until there are enough or the time is over.

    Args:
        faults: how many.
        seconds: no fault is begun after so long.
        seed: of the campaign; that of fault N is ``"SEED-N"``.
        wrong_file: every wrong outcome is appended here as a line of JSON.
        report: called after every fault.
    """
    began, records = time.monotonic(), []
    for number in range(faults):
        if time.monotonic() - began > seconds:
            break
        record = inject(campaign, f"{seed}-{number}")
        records.append(record)
        report(record, number)
        if record.outcome == WRONG and wrong_file is not None:
            with wrong_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    return records


def table(records: Iterable[Record]) -> str:
    """A Markdown table: a row per kind of fault, and the sum."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*KINDS, TWO)}
    for record in records:
        counts[record.kind][record.outcome] += 1
    counts["all"] = sum(counts.values(), Counter())
    lines = ["| kind of fault | tried | ended with a message | unharmed, right numbers | WRONG |"]
    lines.append("|---|---:|---:|---:|---:|")
    for kind, found in counts.items():
        numbers = [found.total(), found[MESSAGE], found[UNHARMED], found[WRONG]]
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)
