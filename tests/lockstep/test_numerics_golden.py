"""Scalar operations against what was recorded on an H100 or H200.

Bit for bit, but for the instructions that the hardware approximates (ex2.approx, sqrt.approx, rsqrt.approx, div.full):
those have the bound that sm90_scalars.py states.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from indexfuzz.lockstep.arithmetic.fp8_codec import encode_fp8

_spec = importlib.util.spec_from_file_location("golden_data", Path(__file__).with_name("golden_data.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
scalars = golden.module("sm90_scalars")

APPROXIMATE = {"exp2", "exp", "sqrt", "rsqrt", "divide"}


@pytest.fixture(scope="module")
def tensors():
    return golden.recorded("scalars")[0]


def beyond(operation, tensors):
    """Inputs on which the model is further from the recorded value than the operation allows."""
    with np.errstate(all="ignore"):
        model = operation.model(tensors["scalar/x"], tensors["scalar/y"])
    return np.flatnonzero(scalars.ulp_distance(model, tensors[f"scalar/{operation.name}"]) > operation.ulp)


def test_encoder_gives_the_recorded_codes(tensors):
    x = tensors["encode/x"]
    assert x.size > 99_000
    assert np.array_equal(encode_fp8(x, "e4m3fn"), tensors["encode/e4m3fn"])


@pytest.mark.parametrize("operation", scalars.SCALARS, ids=lambda s: s.name)
def test_scalar_model_gives_the_recorded_values(operation, tensors):
    assert beyond(operation, tensors).size == 0


def test_every_recorded_tensor_is_compared(tensors):
    scalar = {f"scalar/{s.name}" for s in scalars.SCALARS}
    assert set(tensors) == scalar | {"scalar/x", "scalar/y", "encode/x", "encode/e4m3fn"}
    assert {s.name for s in scalars.SCALARS if s.ulp} == APPROXIMATE
    assert golden.recorded("scalars")[1]["capability"] == [9, 0]


@pytest.mark.parametrize("operation", scalars.SCALARS, ids=lambda s: s.name)
def test_a_planted_flip_is_noticed(operation, tensors):
    """The lowest bit (8 ulp for an approximation) of recorded values: a NaN, a zero and another where there are any."""
    got = tensors[f"scalar/{operation.name}"]
    kinds = (np.isnan(got), got == 0, np.isfinite(got) & (got != 0))
    chosen = sorted({int(np.flatnonzero(kind)[-1]) for kind in kinds if kind.any()})
    planted = got.copy()
    planted.view(np.uint32)[chosen] ^= np.uint32(8 if operation.ulp else 1)
    assert beyond(operation, tensors | {f"scalar/{operation.name}": planted}).tolist() == chosen


def test_a_planted_code_is_noticed(tensors):
    planted = tensors["encode/e4m3fn"].copy()
    planted[71_234] ^= 1
    assert np.flatnonzero(encode_fp8(tensors["encode/x"], "e4m3fn") != planted).tolist() == [71_234]


def test_ulp_distance():
    x = np.array([1, -1, 0.0, 0.0, np.inf, 1], np.float32)
    y = np.array([1, 1, -0.0, 1e-45, np.finfo(np.float32).max, np.nan], np.float32)
    assert scalars.ulp_distance(x, y)[[0, 2, 3, 4]].tolist() == [0, 1, 1, 1]
    assert (scalars.ulp_distance(x, y)[[1, 5]] > 1000).all()
