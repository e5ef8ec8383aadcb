"""What a metamorphic relation is, and what relations are made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive, permutation
from indexfuzz.reference import layout
from indexfuzz.samples.allocation import allocate
from indexfuzz.stages.base import Agreement, Call, Tensors

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Output -> (what the twin says that it is, what the first launch made it), of one shape."""


@dataclass(frozen=True)
class Twin:
    """One or more launches that together determine the outputs of another.

    `case` describes them as far as a contract looks at it. `pairs` takes the first launch's outputs and those of
    `calls`. `stage` names the stage that takes the calls where it is not the first launch's own.
    """

    case: Case
    calls: tuple[Call, ...]
    pairs: Callable[[Tensors, Sequence[Tensors]], Pairs]
    stage: str = ""


Twins = Callable[[Case, Call], Iterator[Twin]]
"""From a stage's call to its twins, none where the relation says nothing about it."""


@dataclass(frozen=True)
class Relation:
    """One relation. `change` says in words what the twin has, such as "with its pages permuted"."""

    name: str
    change: str
    agreement: Agreement
    twins: Mapping[str, Twins]
    """Stage -> its twins."""

    @property
    def kind(self) -> str:
        """The kind of its findings."""
        return f"metamorphic/{self.name}"


def unchanged(first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """The pairs of a single twin with the very same outputs."""
    return {name: (others[0][name], first[name]) for name in first}


def alter(call: Call, options: Mapping[str, Any] | None = None, **tensors: Tensor) -> Call:
    """A call with some tensors and options changed; everything else that it may write is copied."""
    copy = call.copy()
    return replace(copy, tensors=copy.tensors | tensors, options=copy.options | dict(options or {}))


def pick(tensor: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Entries of a tensor along one dim, dense; FP8 travels as bytes, which can be indexed everywhere."""
    raw = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    return raw.index_select(dim, index.to(tensor.device)).view(tensor.dtype)


def in_form_of(model: Tensor, values: Tensor) -> Tensor:
    """Values in a tensor with the strides of another, so that the very same binary takes both."""
    out = torch.empty_strided(model.shape, model.stride(), dtype=model.dtype, device=model.device)
    return out.copy_(values)


def blank(like: Tensor, *shape: int) -> Tensor:
    """A poisoned output of another shape."""
    return allocate("twin", shape, like.dtype, str(like.device)).view


def shuffled(case: Case, purpose: str, size: int) -> Tensor:
    """A permutation of range(size) that is the case's own, int64; the reverse order where chance gives the identity."""
    order = permutation(derive(case.values.seed, f"twin {purpose}"), size)
    return order.flip(0) if torch.equal(order, torch.arange(size)) else order


def stored(case: Case, cache: Tensor, slots: Tensor) -> dict[str, Tensor]:
    """Values and scales of a cache at slots, by the layout that a case asks for."""
    values, scales = layout.read_tokens(cache, slots, layout.resolve(case.cache.layout, cache.shape[1]))
    return {"cache_values": values, "cache_scales": scales}


def paired(twin: Tensors, first: Tensors) -> Pairs:
    """Pairs of outputs of the same names."""
    return {name: (twin[name], first[name]) for name in first}
