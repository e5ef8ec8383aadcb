"""Whose bytes a kernel writes where in the cache, found by launching it once for each token.

One token at a time has a key whose dims all have different codes under a scale of 1, the others are zero. What is then
stored differently from a launch in which all are zero belongs to that token, and the code says which dim it is. Stores
are read from the recorder, so that those beyond the cache are seen, too. Where no kernel stores there, but a caller
copies what one has made, it is what the cache then holds that is compared, and nothing is said of dims.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from indexfuzz.lockstep.operations.casts import to_memory
from indexfuzz.lockstep.tracking.moments import Moment, Recorder
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import ScalarType
from indexfuzz.oracles.launching import launch
from indexfuzz.reference import fp8, layout
from indexfuzz.stages.base import Call
from indexfuzz.triage.look import Look

MOST_TOKENS = 26
"""Tokens that are told apart, a letter each."""

NOBODY = -1
SCALE = -2
"""In place of a dim."""


@dataclass(frozen=True)
class Owners:
    """Of the bytes from `first` on, counted from the first page: the token (its row in k) and the dim."""

    first: int
    token: Array
    dim: Array


def find_owners(look: Look, first: int, last: int) -> Owners | None:
    """The owners of the bytes [first, last) as the kernel writes them; None where it cannot be asked so."""
    k = look.given.tensors["k"]
    rows = min(len(look.given.tensors["slot_mapping"]), MOST_TOKENS, len(k))
    pattern, codes = _pattern(look)
    token, dim = (np.full(last - first, NOBODY, np.int64) for _ in range(2))
    nothing = _stores(look, torch.zeros_like(k))
    if nothing is None:
        return None
    if not nothing:
        return _copied(look, first, last, pattern, rows)
    for row in range(rows):
        key = torch.zeros_like(k)
        key[row] = pattern
        stores = _stores(look, key)
        if stores is None:
            return None
        for at, stored in stores.items():
            if stored != nothing.get(at):
                here = slice(max(at - first, 0), max(min(at - first + len(stored), last - first), 0))
                token[here] = row
                dim[here] = SCALE if len(stored) > 1 else codes.get(stored[0], NOBODY)
    return Owners(first, token, dim)


def _copied(look: Look, first: int, last: int, pattern: Tensor, rows: int) -> Owners | None:
    """The owners of bytes that no kernel has stored, by what the cache holds after a launch."""
    k = look.given.tensors["k"]
    held = []
    for row in range(-1, rows):
        key = torch.zeros_like(k)
        if row >= 0:
            key[row] = pattern
        call = look.given.copy().with_tensors({"k": key})
        if launch(look.stage.name, call, look.function, look.device).error is not None:
            return None
        held.append(layout.flat_bytes(call.tensors["cache"])[first:last].numpy())
    token = np.full(last - first, NOBODY, np.int64)
    for row, bytes_ in enumerate(held[1:]):
        differs = np.flatnonzero(bytes_ != held[0])
        token[differs] = row
        # Of two scales some bytes are the same.
        words = np.unique(differs // layout.SCALE_BYTES)
        for at in (words[:, None] * layout.SCALE_BYTES + np.arange(layout.SCALE_BYTES)).flat:
            if at < len(token) and token[at] == NOBODY:
                token[at] = row
    return Owners(first, token, np.full(last - first, NOBODY, np.int64))


def _pattern(look: Look) -> tuple[Tensor, dict[int, int]]:
    """A key [D] bf16 with another code in each dim, the largest in the first, and the dim of each code."""
    k, form = look.given.tensors["k"], fp8.FORMATS[look.given.options["fp8"]]
    values = torch.arange(256, dtype=torch.uint8).view(form.dtype).float()
    order = [int(c) for c in values.nan_to_num(0.0).abs().argsort(descending=True, stable=True) if values[c].abs() > 0]
    order = [code for code in order if torch.isfinite(values[code])]
    chosen = [order[dim % len(order)] for dim in range(k.shape[1])]
    return values[chosen].to(k.dtype), {code: dim for dim, code in reversed(list(enumerate(chosen)))}


def _stores(look: Look, k: Tensor) -> dict[int, bytes] | None:
    """What a launch with another k stores: the bytes of each store, by where its first lies behind the first page."""
    call = look.given.copy()
    call = call.with_tensors({"k": k})
    recorder = Recorder()
    launched = launch(look.stage.name, call, look.function, replace(look.device, recorder=recorder))
    if launched.error is not None:
        return None
    found: dict[int, bytes] = {}
    for moment in recorder.moments:
        _add(found, moment, call)
    return found


def _add(found: dict[int, bytes], moment: Moment, call: Call) -> None:
    access, cache = moment.access, call.tensors["cache"]
    if access is None or access.kind != "store" or not moment.stored:
        return
    if access.allocation.address != cache.untyped_storage().data_ptr():
        return
    element, value = moment.pointer.ty.element, moment.stored[0]
    if not isinstance(element, ScalarType):
        return
    raw = np.ascontiguousarray(to_memory(value.data, element))
    shape = np.broadcast_shapes((len(moment.programs), *moment.pointer.shape), access.wanted.shape, raw.shape)
    wanted = np.broadcast_to(access.wanted, shape)
    offsets = np.broadcast_to(moment.pointer.data, shape)[wanted] + access.allocation.address - cache.data_ptr()
    items = np.ascontiguousarray(np.broadcast_to(raw, shape)[wanted])
    for at, item in zip(offsets.tolist(), items, strict=True):
        found[at] = item.tobytes()
