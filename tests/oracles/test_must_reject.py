"""The edges of the built-in contract: the last legal value is handled, the next illegal one rejected."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles.differential import run
from indexfuzz.reference import gather

CASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16, "spare_blocks": 1},
    batch={"decode": (20,), "prefill": ({"length": 20, "new": 3},), "max_model_len": 24},
)
PAGED = {"k_quant_cache", "gather", "paged_logits", "fused_k"}
LOGITS = {"prefill_logits", "paged_logits"}
FUSED = {"fused_q", "fused_k"}
TILED = PAGED | LOGITS | FUSED | {"q_quant", "k_norm", "rotate"}
SCALED = {"k_quant_cache", "gather", "fused_k"}


def model(**changes):
    return CASE.replace(model={"rope_dim": 16} | changes)


def cached(**changes):
    return CASE.replace(cache=changes)


LEGAL = {
    "SHUFFLE, block_size 16": cached(block_size=16, layout="shuffle"),
    "SHUFFLE, block_size 48": cached(block_size=48, layout="auto"),
    "NORMAL, block_size 15": cached(block_size=15, layout="normal"),
    "NORMAL, block_size 1": cached(block_size=1),
    "head_dim 32": model(head_dim=32, quant_group=32),
    "head_dim 64": model(head_dim=64, quant_group=64),
    "head_dim 128": model(head_dim=128, quant_group=128),
    "num_heads 128": model(num_heads=128),
}

ILLEGAL = {
    "SHUFFLE, block_size 15": (cached(block_size=15, layout="shuffle"), PAGED),
    "SHUFFLE, block_size 17": (cached(block_size=17, layout="auto"), PAGED),
    "SHUFFLE, block_size 1": (cached(block_size=1, layout="shuffle"), PAGED),
    "head_dim 16": (model(head_dim=16, quant_group=16), TILED),
    "head_dim 48": (model(head_dim=48, quant_group=48), TILED),
    "head_dim 256": (model(head_dim=256, quant_group=256), TILED),
    "num_heads 129": (model(num_heads=129), LOGITS),
    "quant_group 16": (model(quant_group=16), SCALED),
    "quant_group 64": (model(quant_group=64), SCALED),
    "scales that are no powers of two": (model(scale_fmt="fp32"), FUSED),
}


def test_gather_is_not_told_that_exponents_are_of_no_powers_of_two():
    """It cannot reject what it is not told, and no result is right."""
    case = cached(scales="ue8m0").replace(model={"scale_fmt": "fp32"})
    outcome = run(case, builtin(), LockstepDevice())
    assert "gather" in outcome.outside
    assert "gather" not in outcome.refused
    assert "k_quant_cache" in outcome.refused
    assert not outcome.findings


@pytest.mark.parametrize("name", LEGAL)
def test_the_last_legal_value_is_handled(name):
    tested = builtin()
    outcome = run(LEGAL[name], tested, LockstepDevice())
    assert outcome.findings == []
    assert set(outcome.stages) == {*tested.stages} - {*STATEFUL}
    assert [tested.contract.outside(stage, LEGAL[name]) for stage in tested.stages] == [None] * len(tested.stages)


@pytest.mark.parametrize("name", ILLEGAL)
def test_the_next_illegal_value_is_rejected_by_the_stages_that_care(name):
    case, rejecting = ILLEGAL[name]
    tested = builtin()
    of_a_step = [stage for stage in tested.stages if stage not in STATEFUL]
    assert {stage for stage in of_a_step if tested.contract.must_reject(stage, case)} == rejecting
    assert run(case, tested, LockstepDevice()).findings == []


@pytest.mark.parametrize("name", ILLEGAL)
def test_a_launcher_that_does_not_reject_is_found(name):
    case, rejecting = ILLEGAL[name]
    accepting = dict.fromkeys(
        rejecting,
        lambda **given: (given["q"], given.get("weights", given.get("k"))) if "q" in given else given.get("k"),
    )
    outcome = run(case, replace(builtin(), stages=accepting), LockstepDevice())
    assert {str(finding.signature) for finding in outcome.findings} == {f"{stage}/not-rejected" for stage in rejecting}


def test_a_crash_is_no_rejection():
    def asserts(**_):
        raise AssertionError("block_size")

    case, _ = ILLEGAL["SHUFFLE, block_size 15"]
    outcome = run(case, replace(builtin(), stages={"gather": asserts}), LockstepDevice())
    assert [str(finding.signature) for finding in outcome.findings] == ["gather/crash/AssertionError"]


def test_a_rejection_of_a_legal_value_is_found():
    def too_strict(**given):
        if given["cache"].shape[1] > 16:
            raise ValueError("block_size must be at most 16")
        gather.gather(**given)

    case = LEGAL["SHUFFLE, block_size 48"]
    outcome = run(case, replace(builtin(), stages={"gather": too_strict}), LockstepDevice())
    assert [str(finding.signature) for finding in outcome.findings] == ["gather/rejected/ValueError"]
