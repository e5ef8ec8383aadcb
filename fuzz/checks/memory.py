"""Memory that a kernel must leave alone, must fill, or must not depend on.

Pure functions of byte tensors: what memory held before and after a launch, or after two launches.
"""

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint


def check_independence_of_poison(output: str, first: Tensor, second: Tensor) -> Finding | None:
    """Results of two runs that differ only in what uninitialised memory held; they must agree bit for bit."""
    return _check_agreement(output, first, second, "uninitialised", "depends on memory that nobody wrote")


def check_repeatable(output: str, first: Tensor, second: Tensor) -> Finding | None:
    """Results of two identical launches; they must agree bit for bit."""
    return _check_agreement(output, first, second, "nondeterministic", "differs between two identical launches")


def _check_agreement(output: str, first: Tensor, second: Tensor, kind: str, what: str) -> Finding | None:
    wrong = describe.bits(first) != describe.bits(second)
    if not bool(wrong.any()):
        return None
    index = describe.first(wrong)
    one, other = describe.text(first[index]), describe.text(second[index])
    axes = describe.default_axes(wrong)
    words = describe.extent(wrong, axes)
    detail = f"{output}: {describe.place(index, axes)} {what}: {one}, then {other}; {describe.share(wrong)}"
    detail = f"{detail}; {words}" if words else detail
    return complaint(kind, output, detail, index, other, one)


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one form and the same bits."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(describe.bits(first), describe.bits(second))
