"""Figures: the curve they draw is scikit-learn's, and a PNG comes out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve as sklearn_roc_curve

from nearfar.evaluation.figures import machine_figure
from nearfar.metrics import roc_curve


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_curve_is_scikit_learns(clips):
    labels = np.array([True, False] + [label for label, _ in clips])
    scores = np.array([3, 3] + [score for _, score in clips], dtype=float)
    alarms, hits, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.array(roc_curve(labels, scores)), np.array([alarms, hits]), atol=1e-15)


def sample(separation):
    rng = np.random.default_rng(0)
    labels, domains = np.tile([False, True], 60), np.repeat(["source", "target"], 60)
    return labels, domains, rng.normal(size=120) + separation * labels


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_writes_a_legible_png_and_nothing_else(tmp_path):
    path = tmp_path / "figures" / "fan.png"
    machine_figure("fan", *sample(1.0), "eat-near, simulated data", path)
    assert png_size(path) == (1500, 720)
    assert list(path.parent.iterdir()) == [path]
    first = path.read_bytes()
    machine_figure("fan", *sample(1.0), "eat-near, simulated data", path)
    assert path.read_bytes() == first
    machine_figure("fan", *sample(2.0), "eat-near, simulated data", path)
    assert path.read_bytes() != first


def test_constant_scores_can_be_drawn(tmp_path):
    labels, domains, _ = sample(0.0)
    machine_figure("fan", labels, domains, np.full(labels.size, 0.25), "eat-near", tmp_path / "fan.png")
    assert png_size(tmp_path / "fan.png") == (1500, 720)


def test_a_failure_leaves_no_file(tmp_path):
    labels, domains, scores = sample(1.0)
    with pytest.raises(ValueError, match="both normal and anomalous"):
        machine_figure("fan", np.ones_like(labels), domains, scores, "eat-near", tmp_path / "fan.png")
    assert list(tmp_path.iterdir()) == []
