"""What the tests of several pages use."""

from __future__ import annotations

from typing import Any

import pytest

from nearfar.charts import Chart, spectrogram
from nearfar.report import examples


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Chart]:
    """The spectrograms of the pages that a test writes."""
    charts: list[Chart] = []

    def keep(*arguments: Any, **settings: Any) -> Chart:
        charts.append(spectrogram(*arguments, **settings))
        return charts[-1]

    monkeypatch.setattr(examples, "spectrogram", keep)
    return charts
