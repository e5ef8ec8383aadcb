"""Scalar operations against what was recorded on an H100 or H200."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from indexfuzz.lockstep.numerics import encode_fp8

_spec = importlib.util.spec_from_file_location("golden_data", Path(__file__).with_name("golden_data.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
scalars = golden.module("sm90_scalars")


def test_encoder_gives_the_recorded_codes():
    tensors, _ = golden.recorded("scalars")
    x = tensors["encode/x"]
    assert x.size > 99_000
    assert np.array_equal(encode_fp8(x, "e4m3fn"), tensors["encode/e4m3fn"])


@pytest.mark.parametrize("operation", scalars.SCALARS, ids=lambda s: s.name)
def test_scalar_model_gives_the_recorded_values(operation):
    tensors, _ = golden.recorded("scalars")
    x, y = tensors["scalar/x"], tensors["scalar/y"]
    with np.errstate(all="ignore"):
        model = operation.model(x, y)
    distance = scalars.ulp_distance(model, tensors[f"scalar/{operation.name}"])
    worst = int(distance.argmax())
    assert distance[worst] <= operation.ulp, (x[worst], y[worst], model[worst])


def test_ulp_distance():
    x = np.array([1, -1, 0.0, 0.0, np.inf, 1], np.float32)
    y = np.array([1, 1, -0.0, 1e-45, np.finfo(np.float32).max, np.nan], np.float32)
    assert scalars.ulp_distance(x, y)[[0, 2, 3, 4]].tolist() == [0, 1, 1, 1]
    assert (scalars.ulp_distance(x, y)[[1, 5]] > 1000).all()
