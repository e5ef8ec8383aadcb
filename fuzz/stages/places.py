"""Addresses in words: which tensor of a call a byte belongs to, and which token, head, dim or page of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.lockstep.source.words import find_element
from indexfuzz.reference import layout
from indexfuzz.stages.base import Call

AXES: Mapping[str, tuple[str, ...]] = {
    "q": ("token", "head", "dim"),
    "k": ("token", "dim"),
    "positions": ("token",),
    "cos_sin_cache": ("position", "angle"),
    "weights": ("token", "head"),
    "slot_mapping": ("token",),
    "block_table": ("request", "page"),
    "cu_seqlens": ("request",),
    "token_to_seq": ("token",),
    "k_fp8": ("token", "dim"),
    "k_scale": ("token",),
    "q_fp8": ("token", "head", "dim"),
    "q_weights": ("token", "head"),
    "ks": ("row",),
    "ke": ("row",),
    "context_lens": ("request", "draft"),
    "logits": ("row", "column"),
    "kv": ("token", "column"),
    "scores": ("token", "column"),
    "bias": ("place", "column"),
    "query_start": ("request",),
    "rings": ("request",),
    "state": ("ring", "row", "part", "column"),
    "keys": ("token", "dim"),
    "visible": ("token",),
    "k_norm_weight": ("dim",),
    "k_norm_bias": ("dim",),
    "norm_weight": ("dim",),
    "state_table": ("request", "page"),
    "token_to_req": ("token",),
    "columns": ("token", "entry"),
    "slots": ("token", "entry"),
    "counts": ("token",),
    "prefill_topk": ("row", "entry"),
    "paged_topk": ("row", "entry"),
}
"""What the axes of the tensors that stages take and return are called, by name. Decode's q_fp8 has one more."""


def axes_of(name: str, tensor: Tensor) -> tuple[str, ...]:
    """What the axes of an argument are called, numbers where nothing is known."""
    axes = AXES.get(name, ())
    if name == "q_fp8" and tensor.dim() == 4:
        return "request", "draft", "head", "dim"
    return axes[: tensor.dim()] if len(axes) >= tensor.dim() else tuple(f"axis {d}" for d in range(tensor.dim()))


def describe_index(name: str, axes: tuple[str, ...], index: tuple[int, ...]) -> str:
    """An element in words: "token 3, dim 5 of k"."""
    words = ", ".join(f"{axis} {at}" for axis, at in zip(axes, index, strict=False))
    return f"{words} of {name}" if words else name


@dataclass(frozen=True)
class Places:
    """The tensors of a call, and those that it returned, as places in memory."""

    call: Call
    returned: Mapping[str, Tensor]

    def __call__(self, address: int) -> str:
        """What lies at an address; empty where none of the tensors is."""
        for name, tensor in {**self.call.tensors, **self.returned}.items():
            lead = address - tensor.data_ptr()
            if not 0 <= lead < span_of(tensor):
                continue
            if name == "cache":
                return describe_cache_byte(tensor, lead, self.call.options["layout"])
            index = find_element(tensor, address)
            if index is None:
                return f"a gap between the rows of {name}"
            return describe_index(name, axes_of(name, tensor), index)
        return self._outside(address)

    def _outside(self, address: int) -> str:
        """How far an address lies from the storage's tensor; empty where no storage has it."""
        for name, tensor in {**self.call.tensors, **self.returned}.items():
            storage = tensor.untyped_storage()
            lead, start = address - tensor.data_ptr(), tensor.data_ptr() - storage.data_ptr()
            if -start <= lead < storage.nbytes() - start:
                return f"{-lead} bytes before {name}" if lead < 0 else f"{lead - span_of(tensor)} bytes behind {name}"
        return ""


def span_of(tensor: Tensor) -> int:
    """Bytes from the first element of a tensor to behind its last."""
    if tensor.numel() == 0:
        return 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


def address_of(tensor: Tensor, index: tuple[int, ...]) -> int:
    """The address of an element."""
    steps = sum(at * stride for at, stride in zip(index, tensor.stride(), strict=True))
    return tensor.data_ptr() + steps * tensor.element_size()


def describe_cache_byte(cache: Tensor, byte: int, asked: str) -> str:
    """A byte of the cache, counted from the first page: whose value or scale it is in the layout that is asked for."""
    block_size, head_dim = layout.page_shape(cache)
    page, at = divmod(byte, max(cache.stride(0), 1))
    if at >= block_size * (head_dim + layout.SCALE_BYTES):
        return f"the gap behind page {page} of cache"
    concrete = layout.resolve(asked, block_size)
    values, scales = layout.arrangements(block_size, head_dim, torch.device("cpu"))[concrete]
    for words, offsets in (("dim {} of cache", values), ("byte {} of its scale in cache", scales)):
        found = (offsets == at).nonzero()
        if len(found):
            token, place = found[0].tolist()
            return f"page {page}, token {token}, {words.format(place)} ({concrete.upper()})"
    return f"page {page}, byte {at} of cache"
