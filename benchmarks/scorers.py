"""Time of scoring 200 clips against a bank of 2,000 clips, 8 bands, 768 dimensions, beside its matrix products.

    python benchmarks/scorers.py

Timed for every scorer: ``score`` of 200 clips, that is scaling the features, all distances, rescaling them by the
bank's densities, and the minimum over both domains. The densities themselves are computed once, when the scorer is
fitted; the times of fitting and of leave-one-out scores of the 2,000 clips are printed as well. The matrix
products: 8 of (200, 768) by (768, 2000) in single precision, written into allocated memory. Both are timed in
turn, ten times; the medians are compared. Target: domain-wise local density takes at most twice the products.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from nearfar.scoring import NearestNeighbours

THREADS, ROUNDS = 1, 10
QUERIES, NORMALS, OF_TARGET, PARTS, DIM = 200, 2000, 20, 8, 768
LIMIT = 2.0

DENSITY = {"density_neighbours": 16, "target_density_neighbours": 9}
SCORERS = {
    "nearest normal clip": {},
    "domain-wise local density": {"normalisation": "ratio", "domains": "separate", **DENSITY},
    "domain-wise standardisation": {"domains": "standardised"},
    "variance-minimising": {"normalisation": "varmin"},
    "shared neighbour": {"shared_neighbour": True},
    "SMOTE": {"enrichment": "smote"},
}


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(THREADS)
    random = torch.Generator().manual_seed(0)
    bank = torch.randn(NORMALS, PARTS, DIM, generator=random)
    queries = torch.randn(QUERIES, PARTS, DIM, generator=random)
    target = torch.arange(NORMALS) >= NORMALS - OF_TARGET
    left = [queries[:, part].contiguous() for part in range(PARTS)]
    right = [bank[:, part].contiguous().T for part in range(PARTS)]
    out = torch.empty(QUERIES, NORMALS)

    def products() -> None:
        for query, normal in zip(left, right, strict=True):
            torch.mm(query, normal, out=out)

    print(f"{torch.get_num_threads()} thread; seconds; medians of {ROUNDS}")
    figures = {}
    for name, settings in SCORERS.items():
        began = time.perf_counter()
        scorer = NearestNeighbours(**settings).fit(bank, target)
        fitted = time.perf_counter() - began
        products()
        scorer.score(queries)  # once for warmth
        pairs = [(seconds(products), seconds(lambda: scorer.score(queries))) for _ in range(ROUNDS)]  # noqa: B023
        bare, scored = (statistics.median(column) for column in zip(*pairs, strict=True))
        leave_one_out = seconds(scorer.leave_one_out)
        figures[name] = {
            "products": bare,
            "score": scored,
            "ratio": scored / bare,
            "fit": fitted,
            "leave_one_out": leave_one_out,
        }
        print(name, json.dumps({key: round(value, 3) for key, value in figures[name].items()}), flush=True)
    ratio = figures["domain-wise local density"]["ratio"]
    print(f"domain-wise local density: {ratio:.2f} times its matrix products; target at most {LIMIT:g}")
    raise SystemExit(0 if ratio <= LIMIT else 1)


if __name__ == "__main__":
    main()
