"""The former import path of encoder weights."""

from __future__ import annotations

import importlib
import sys

import pytest

from nearfar import encoders


def test_the_former_path_gives_the_same_functions_and_a_warning() -> None:
    sys.modules.pop("nearfar.models.weights", None)
    with pytest.warns(DeprecationWarning, match=r"nearfar\.encoders"):
        former = importlib.import_module("nearfar.models.weights")
    assert former.load_encoder is encoders.load_encoder
    assert former.save_encoder is encoders.save_encoder
