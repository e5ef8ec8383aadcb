"""Which operation does which node."""

from indexfuzz.core.stage_names import COVERS, NODES, OPERATION_NAMES, STAGE_NAMES, STATEFUL
from indexfuzz.implementations.plans import describe_plan, plans
from indexfuzz.stages.table import OPERATIONS


def test_what_is_covered_is_a_node_and_what_covers_is_an_operation():
    assert {operation.name: operation.covers for operation in OPERATIONS} == COVERS
    assert all(set(covered) <= set(NODES) for covered in COVERS.values())
    assert not set(COVERS) & set(STAGE_NAMES)
    assert set(OPERATION_NAMES) == {*COVERS, *STAGE_NAMES, *STATEFUL}


def test_stages_alone_make_one_plan():
    (plan,) = plans(["rope", "gather"])
    assert plan["rope"] == ("rope",)
    assert plan["k_norm"] == plan["topk"] == ()
    assert describe_plan(plan).startswith("slots, k_norm, q_quant, k_quant_cache")
    assert "rope, gather by operations of their own" in describe_plan(plan)


def test_fused_operations_alone_make_one_plan():
    (plan,) = plans(["fused_q", "fused_k", "gather"])
    assert plan["rope"] == ("fused_q", "fused_k")
    assert plan["k_norm"] == ("fused_k",)
    assert plan["q_quant"] == ("fused_q",)
    assert plan["gather"] == ("gather",)


def test_a_fused_and_an_unfused_path_are_two_plans():
    unfused, fused = plans(["rope", "q_quant", "fused_q"])
    assert (unfused["rope"], fused["rope"]) == (("rope",), ("fused_q",))
    assert (unfused["q_quant"], fused["q_quant"]) == (("q_quant",), ("fused_q",))
