"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of specifications, golden arrays and recordings beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the golden arrays and recordings in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Arrays computed once with the published EAT code and the official baseline."""
    return shared / "golden"
