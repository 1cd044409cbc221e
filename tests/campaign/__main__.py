"""The campaign of random faults as a program.

    python -m tests.campaign --faults 1000 --seconds 3600 --seed 1
    python -m tests.campaign --repeat 1-17

POSIX only. As root it also mounts small file systems and runs commands as another user; otherwise limits of a
file's size and permissions stand in for them. Exits with 1 if an outcome was wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.campaign.campaign import WRONG, Record, inject, run_campaign, table
from tests.campaign.cases import Campaign
from tests.campaign.commands import QUICK


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=1000, help="how many faults to make (default 1000)")
    parser.add_argument("--seconds", type=float, default=7200.0, help="no fault is begun after so long")
    parser.add_argument("--seed", type=int, default=1, help="seed of the campaign")
    parser.add_argument("--wrong", type=Path, default=Path("campaign-wrong.jsonl"), help="where wrong cases go")
    parser.add_argument(
        "--repeat", metavar="SEED", nargs="+", help="make only the faults of these seeds, such as 1-17"
    )
    parser.add_argument("--quick", action="store_true", help="only commands that take a second or two")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="campaign-") as root:
        campaign = Campaign(Path(root).resolve(), QUICK if options.quick else None)
        print(f"prepared in {time.monotonic() - began:.0f} s", file=sys.stderr)
        for name, entry in campaign.unharmed.items():
            print(f"{name}: {entry.seconds:.2f} s, {entry.events} operations on files", file=sys.stderr)
        if options.repeat:
            records = [inject(campaign, seed) for seed in options.repeat]
            for record in records:
                print(f"{record.seed}: {record.kind}: {record.outcome}: {record.what}\n{record.why}")
        else:
            records = run_campaign(campaign, options.faults, options.seconds, options.seed, options.wrong, _report)
    print(table(records))
    print(f"\n{len(records)} faults in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return int(any(record.outcome == WRONG for record in records))


def _report(record: Record, number: int) -> None:
    if record.outcome == WRONG:
        print(f"WRONG {record.seed}: {record.kind}: {record.what}\n    {record.why}", file=sys.stderr)
    elif number % 50 == 49:
        print(f"{number + 1} faults", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
