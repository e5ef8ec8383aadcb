"""Memory that a kernel must leave alone, must fill, or must not depend on.

Pure functions of byte tensors: what memory held before and after a launch, or after two launches.
"""

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.mismatch import Mismatch


def untouched(output: str, before: Tensor, after: Tensor, *, kind: str, origin: int = 0) -> Mismatch | None:
    """Bytes (uint8, any shape) that must not change; ``kind`` is "guard-write" or "input-mutated".

    Offsets are counted from byte ``origin``, so that a guard in front of a buffer has negative ones.
    """
    wrong = (before != after).flatten()
    if not bool(wrong.any()):
        return None
    index = int(wrong.nonzero()[0]) - origin
    old, new = (f"0x{int(x.flatten()[index + origin]):02x}" for x in (before, after))
    count = int(wrong.sum())
    where = f"byte {index}" if index >= 0 else f"{-index} bytes before the start"
    detail = f"{output}: {where} changed from {old} to {new}; {count} of {wrong.numel()} bytes changed"
    return Mismatch(kind, output, (index,), new, old, count, wrong.numel(), detail)


def written(output: str, poison: Tensor, after: Tensor, must_write: Tensor | None = None) -> Mismatch | None:
    """Every element (of those in the mask ``must_write``) must differ from the poison that it held before.

    ``poison`` and ``after`` have one shape and dtype; the poison must be a value that no right result has.
    """
    same = describe.bits(poison) == describe.bits(after)
    wrong = same if must_write is None else same & must_write
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    axes = describe.default_axes(wrong)
    words = describe.extent(wrong, axes, must_write)
    total = wrong.numel() if must_write is None else int(must_write.sum())
    detail = f"{output}: {describe.place(index, axes)} was never written; {int(wrong.sum())} of {total} unwritten"
    detail = f"{detail}; {words}" if words else detail
    return Mismatch(
        "unwritten", output, index, describe.text(after[index]), "a result", int(wrong.sum()), total, detail
    )


def independent_of_poison(output: str, first: Tensor, second: Tensor) -> Mismatch | None:
    """Results of two runs that differ only in what uninitialised memory held; they must agree bit for bit."""
    return _agree(output, first, second, "uninitialised", "depends on memory that nobody wrote")


def repeatable(output: str, first: Tensor, second: Tensor) -> Mismatch | None:
    """Results of two identical launches; they must agree bit for bit."""
    return _agree(output, first, second, "nondeterministic", "differs between two identical launches")


def _agree(output: str, first: Tensor, second: Tensor, kind: str, what: str) -> Mismatch | None:
    wrong = describe.bits(first) != describe.bits(second)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    one, other = describe.text(first[index]), describe.text(second[index])
    axes = describe.default_axes(wrong)
    words = describe.extent(wrong, axes)
    detail = f"{output}: {describe.place(index, axes)} {what}: {one}, then {other}; {describe.share(wrong)}"
    detail = f"{detail}; {words}" if words else detail
    return Mismatch(kind, output, index, other, one, int(wrong.sum()), wrong.numel(), detail)


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one form and the same bits."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(describe.bits(first), describe.bits(second))


def digest(tensor: Tensor) -> int:
    """A 64-bit hash of a tensor's elements in order, for noticing that one changed; computed where the tensor lies."""
    data = describe.bits(tensor).flatten().long()
    position = torch.arange(1, data.numel() + 1, device=data.device)
    mixed = (data + 0x9E3779B97F4A7C1) * (2 * position + 1)
    mixed = (mixed ^ (mixed >> 31)) * 0x7FB5D329728EA185
    return int((mixed ^ (mixed >> 29)).sum()) if data.numel() else 0
