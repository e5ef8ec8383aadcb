"""A fused operation and the single steps of the same engine."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.oracles import paths

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 64, "quant_group": 64, "rope_dim": 32},
    cache={"block_size": 16},
    batch={"decode": (40, 17), "prefill": ({"length": 40, "new": 7},), "next_n": 2, "max_model_len": 60},
    values={"k": "tied"},
)
OTHERS = (
    CASE.replace(rope={"mode": "inplace", "style": "interleaved"}, model={"fp8": "e4m3fnuz"}),
    CASE.replace(memory={"fused": True}, rope={"placement": "last"}),
)


def without_weight(k_norm_weight, **others):
    return builtin().stages["k_norm"](k_norm_weight=0 * k_norm_weight + 1, **others)


@pytest.mark.parametrize("case", [CASE, *OTHERS])
def test_the_two_paths_of_the_kernels_agree(case):
    outcome = paths.run(case, builtin(), LockstepDevice())
    assert (outcome.findings, outcome.stages) == ([], ["fused_q", "fused_k"])


@pytest.mark.parametrize(
    ("step", "wrong", "operation", "node"),
    [
        ("k_norm", without_weight, "fused_k", "k_norm"),
        ("rope", plant(("rope-style-swapped",)).stages["rope"], "fused_q", "rope"),
        ("k_quant_cache", plant(("layout-flat-writer",)).stages["k_quant_cache"], "fused_k", "k_quant_cache"),
    ],
)
def test_a_step_that_is_wrong_makes_them_differ(step, wrong, operation, node):
    own = builtin()
    implementation = replace(own, stages={**own.stages, step: wrong})
    found = next(f for f in paths.run(CASE, implementation, LockstepDevice()).findings if f.stage == operation)
    assert found.kind == paths.KIND
    steps, blamed = found.detail.split(": ")[:2]
    assert steps.endswith("one by one")
    assert node in blamed


def test_without_both_paths_nothing_is_compared():
    own = builtin()
    implementation = replace(own, stages={name: f for name, f in own.stages.items() if name != "rope"})
    assert paths.run(CASE, implementation, LockstepDevice()).stages == []
    assert paths.run(CASE.replace(model={"scale_fmt": "fp32"}), own, LockstepDevice()).stages == []
    assert paths.run(CASE, own, LockstepDevice(), frozenset({"fused_q"})).stages == []
