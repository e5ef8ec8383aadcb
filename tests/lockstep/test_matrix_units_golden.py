"""The sm90 model against outputs recorded on an H100 or H200, bit for bit."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from indexfuzz.lockstep.arithmetic.matrix_units import MODELS

_spec = importlib.util.spec_from_file_location("golden_data", Path(__file__).with_name("golden_data.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
cases = golden.module("sm90_cases")


def replay(case, tensors, model):
    """(outputs of the model, recorded outputs) over the kept rows and columns, with the regimes as programs."""
    a = cases.values(tensors[f"{case.name}/a"], case.fmt)
    b = cases.values(tensors[f"{case.name}/b"], case.fmt)
    out = tensors[f"{case.name}/out"]
    rows = a.shape[1]
    # The model looks at M: fill up the rows that were not kept.
    padded = np.concatenate([a, np.zeros((a.shape[0], case.rows - rows, a.shape[2]), np.float32)], axis=1)
    acc = np.zeros((out.shape[0], case.rows, out.shape[2]), np.float32)
    if case.accumulator:
        acc[:, :rows] = tensors[f"{case.name}/acc"]
    return MODELS[model](padded, b, acc, case.fmt, case.fmt, case.imprecise)[:, :rows], out


def differing(case, tensors):
    """The regimes in which the sm90 model gives other bits than those recorded."""
    got, out = replay(case, tensors, "sm90")
    return [regime for regime, x, y in zip(cases.REGIMES, got, out, strict=True) if x.tobytes() != y.tobytes()]


def in_file(opcode):
    return [c for c in cases.dot_cases() if c.opcode.partition(".")[0] == opcode]


@pytest.mark.parametrize("opcode", ["wgmma", "mma"])
def test_sm90_model_gives_the_recorded_bits(opcode):
    tensors, metadata = golden.recorded(f"dot_{opcode}")
    assert metadata["capability"] == [9, 0]
    assert metadata["regimes"] == list(cases.REGIMES)
    for case in in_file(opcode):
        assert differing(case, tensors) == [], case.name
    assert {key.partition("/")[0] for key in tensors} == {c.name for c in in_file(opcode)}


@pytest.mark.parametrize("opcode", ["wgmma", "mma"])
def test_recorded_bits_tell_the_models_apart(opcode):
    tensors, _ = golden.recorded(f"dot_{opcode}")
    largest = [c for c in in_file(opcode) if c.size == 128 and c.accumulator and c.imprecise is None]
    for case in largest:
        got, out = replay(case, tensors, "ieee")
        assert (got.view(np.uint32) != out.view(np.uint32)).any(), case.name


@pytest.mark.parametrize("opcode", ["wgmma", "mma"])
def test_a_planted_flip_is_noticed(opcode):
    """The lowest bit of one output of every case."""
    tensors, _ = golden.recorded(f"dot_{opcode}")
    rng = np.random.default_rng(0)
    for case in in_file(opcode):
        planted = tensors[f"{case.name}/out"].copy()
        place = tuple(int(rng.integers(size)) for size in planted.shape)
        planted.view(np.uint32)[place] ^= np.uint32(1)
        assert differing(case, tensors | {f"{case.name}/out": planted}) == [cases.REGIMES[place[0]]]
