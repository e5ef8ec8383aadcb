"""The device that the executor is: which checkers a name asks for."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.devices import open_device


@triton.jit
def shift(x, N: tl.constexpr):
    lanes = tl.arange(0, N)
    tl.store(x + lanes, tl.load(x + (lanes + 1) % N))


@pytest.mark.parametrize(("name", "kinds"), [("lockstep", []), ("lockstep:sm90", []), ("lockstep:order", ["order"])])
def test_the_order_of_lanes_is_looked_at_where_the_name_says_so(name, kinds):
    device = open_device(name)
    assert device.name == name
    x = torch.arange(256)
    with device.session() as session:
        shift[(1,)](x, N=256)
        found = session.violations({x.data_ptr(): "k"})
    assert [finding.kind for finding in found] == kinds
    assert all(finding.location and "test_lockstep.py" in finding.location for finding in found)
