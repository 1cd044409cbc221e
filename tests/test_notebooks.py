"""The notebooks of docs/notebooks/ run, and what they compute agrees with scikit-learn and with plain numpy."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from tests.documentation import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = ("own-machine", "method")

OWN_MACHINE = """
faults = [score for score in scores if "_anomaly_" in score.file]
healthy = [score for score in scores if "_normal_" in score.file]
assert len(faults) == len(healthy) == 8
assert sum(score.anomalous for score in faults) >= 4
assert sum(score.anomalous for score in healthy) <= 2
assert all(score.anomalous == (score.score > detector.thresholds[0].value) for score in scores)
left_out = sorted(calibration.scores())
assert detector.thresholds[0].value == left_out[-(-71 * 95 // 100) - 1]  # the ceil((n + 1) 0.95)-th smallest of 70
assert 0 <= begin < end <= 4 and 0 <= low < high <= 128
assert [change.kind for change in taught.history] == ["normal", "fault"]
assert taught.undone().undone().thresholds == detector.thresholds != taught.thresholds
assert again.score(second).score == taught.score(second).score
"""
"""Checks after the last cell; the threshold is that of the definition of conformal prediction."""

METHOD = """
import numpy as np
from sklearn.metrics import roc_auc_score

assert len(classes) == len(set(names)) == 26  # 2 channels of (6 of fan, 6 of gearbox, 1 of valve)
assert sum(history[-10:]) < 0.6 * sum(history[:10])
assert count < 0.05 * parameter_count(adapted)
everything = []
for machine in dataset.machines:
    clips = dataset.test(machine)
    expected = []
    for channel in ("near", "far"):
        bank, tested = embeddings(dataset.train(machine), channel), embeddings(clips, channel)
        bank, tested = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, tested))
        expected.append([min(1 - float(row @ normal) for normal in bank) for row in tested])
        np.testing.assert_allclose(scores[machine, channel], expected[-1], atol=1e-5)
    values = np.mean(expected, axis=0)
    truth = np.array([clip.label == "anomaly" for clip in clips])
    for domain in ("source", "target"):
        rows = truth | np.array([clip.domain == domain for clip in clips])
        everything.append(roc_auc_score(truth[rows], fused[machine][rows]))
    everything.append(roc_auc_score(truth, fused[machine], max_fpr=0.1))
    np.testing.assert_allclose(fused[machine], values, atol=1e-5)
np.testing.assert_allclose(system_1, len(everything) / sum(1 / value for value in everything))
assert system_3 > 0.55
"""
"""Checks after the last cell: equation 3 in loops, and scikit-learn's areas."""


def notebook(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "checks"), [("own-machine", OWN_MACHINE), ("method", METHOD)])
def test_a_notebook_runs_and_its_results_are_right(name: str, checks: str, tmp_path: Path) -> None:
    read = notebook(name)
    read.cells.append(nbformat.v4.new_code_cell(checks))
    NotebookClient(
        read, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


def test_the_method_takes_twenty_cells() -> None:
    assert len(notebook("method").cells) == 20


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_as_it_ran(name: str) -> None:
    read = notebook(name)
    nbformat.validate(read)
    cells = [cell for cell in read.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    kinds = {(output.output_type, output.get("name")) for output in outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", None)}, "warnings, errors or values"
    text = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"/(home|tmp|Users|root)/", text), "paths of the machine it ran on"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_that_its_numbers_are_of_simulated_data_and_when_they_were_made(name: str) -> None:
    first = notebook(name).cells[0].source
    assert "**simulated**" in first
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", first)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in notebook(name).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert targets
    for target in targets:
        assert (FOLDER / target).exists(), target
