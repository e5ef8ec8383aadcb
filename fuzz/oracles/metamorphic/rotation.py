"""RoPE in its three modes, which must agree."""

from collections.abc import Iterator
from dataclasses import replace

from indexfuzz.core.case import Case
from indexfuzz.oracles.metamorphic.relation import Twin, alter, unchanged
from indexfuzz.stages.base import Call


def rope_modes(case: Case, call: Call) -> Iterator[Twin]:
    """In place instead of functional, and the other way round."""
    for mode in ("inplace", "functional"):
        if mode != case.rope.mode:
            yield _in_mode(case, call, mode)


def rope_compiled(case: Case, call: Call) -> Iterator[Twin]:
    """By PyTorch operations under torch.compile."""
    if case.rope.mode != "compiled":
        yield _in_mode(case, call, "compiled")


def _in_mode(case: Case, call: Call, mode: str) -> Twin:
    twin = alter(replace(call, fills={"q": "q", "k": "k"}), {"mode": mode})
    if mode != "inplace":
        twin = replace(twin, fills={})
    return Twin(case.replace(rope={"mode": mode}), (twin,), unchanged)
