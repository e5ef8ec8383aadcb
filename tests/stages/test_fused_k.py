"""Which node a wrong key of the fused insertion is put down to, where its conversion to codes is to blame or not."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles.differential import run

CASE = Case().replace(
    model={"head_dim": 64, "quant_group": 64, "rope_dim": 16},
    batch={"prefill": ({"length": 200, "new": 200},)},
    values={"seed": 5},
)
PAIRS = CASE.replace(cache={"scales": "mxfp4"}, model={"quant_group": 16})
RMS = CASE.replace(model={"k_norm": "rms"})
TIES_DOWN = ("(size >= 0.75)", "(size > 0.75)"), ("(size >= 1.75)", "(size > 1.75)"), ("(size >= 3.5)", "(size > 3.5)")
PLANTED = {
    "ties of pairs go to zero": ("nibbles", TIES_DOWN, PAIRS, "k_quant_cache: ties go to the smaller number"),
    "one tie goes up": ("nibbles", [("(size > 2.5)", "(size >= 2.5)")], PAIRS, "k_quant_cache: ties are not all"),
    "halves are swapped": (
        "nibbles",
        [("(low | (high << 4))", "(high | (low << 4))")],
        PAIRS,
        "k_quant_cache: the halves of a byte are swapped",
    ),
    "no weight": (
        "fused",
        [("scaled = (x - mean) * factor * weight", "scaled = (x - mean) * factor")],
        PAIRS,
        "k_norm: the weight is left out",
    ),
    "a bias is added": (
        "fused",
        [("    if not RMS:\n        scaled", "    if True:\n        scaled")],
        RMS,
        "k_norm: a bias is",
    ),
    "the mean is subtracted": ("norm", [("tl.zeros_like(mean)", "mean")], RMS, "k_norm: the mean is subtracted"),
    "RMSNorm": ("norm", [("if RMS:", "if True:")], CASE, "k_norm"),
    "nothing is rounded": (
        "fused",
        [("rotated, x).to(STORED).to(tl.float32)", "rotated, x)")],
        CASE,
        "rope: its result is kept in fp32",
    ),
}


def first_words(name: str, other: Case | None = None) -> str:
    file, edits, case, _ = PLANTED[name]
    label = name.replace(" ", "-")
    kernels = builtin(edited_kernels(label, [(label, f"kernels/{file}.py", *edit) for edit in edits]))
    findings = run(other or case, kernels, LockstepDevice(), frozenset({"fused_k"})).findings
    return findings[0].detail if findings else ""


@pytest.mark.parametrize("case", [CASE, PAIRS, RMS], ids=["fp8", "mxfp4", "rms"])
def test_right_keys_are_silent(case: Case) -> None:
    assert run(case, builtin(), LockstepDevice(), frozenset({"fused_k"})).findings == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_is_put_down_to_its_node(name: str) -> None:
    assert first_words(name).startswith(PLANTED[name][-1])


def test_where_a_mistake_of_each_node_would_do_it_both_are_named() -> None:
    """Of few ties that fell: RoPE may have left something below each, or the conversion may have dropped it."""
    few = PAIRS.replace(model={"rope_dim": 64}, batch={"prefill": ({"length": 2, "new": 2},)})
    words = {first_words("ties of pairs go to zero", few.replace(values={"seed": seed})) for seed in range(12)}
    assert {text.partition(":")[0] for text in words if text} == {"k_quant_cache", "rope or k_quant_cache"}
