"""The map of recordings against scikit-learn's principal components."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from nearfar.report.machine_charts import principal_components


def test_the_map_is_that_of_standardised_training_recordings():
    random = np.random.default_rng(0)
    mix = random.normal(size=(5, 5)) * [10, 3, 1, 1, 0]
    near, far = random.normal(size=(2, 20, 5)) @ mix
    test = random.normal(size=(7, 5)) @ mix
    found = principal_components({"near": (near, test), "far": (far, test[:0])})
    normal = np.concatenate([near, far])
    mean, deviation = normal.mean(axis=0), normal.std(axis=0)
    used = deviation > 1e-9
    pca = PCA(2).fit((normal - mean)[:, used] / deviation[used])
    expected = pca.transform((test - mean)[:, used] / deviation[used])
    np.testing.assert_allclose(np.abs(found.points["near"][1]), np.abs(expected), rtol=1e-6, atol=1e-9)
    assert found.points["far"][0].shape == (20, 2)
    assert found.points["far"][1].shape == (0, 2)
    assert found.explained == pytest.approx(tuple(pca.explained_variance_ratio_))


def test_clips_that_are_all_alike_lie_on_one_point():
    found = principal_components({"near": (np.ones((3, 4)), np.ones((2, 4)))})
    assert not found.points["near"][0].any()
    assert found.explained == (0.0, 0.0)
