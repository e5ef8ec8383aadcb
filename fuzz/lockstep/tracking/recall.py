"""Launches that were made before, on the same bytes: what they left in memory is put there instead of running them.

A launch is determined by its kernel, its grid, its arguments, and the bytes behind them. Only one in which nothing was
wrong is remembered, and that hung on nothing else: neither on addresses nor on what is declared about memory. It is
recalled where nothing is declared, so that nothing else can be wrong: less is held against it than was the first time.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from indexfuzz.lockstep.tracking.run import Launch
from indexfuzz.lockstep.triton_api.functions import is_jit
from indexfuzz.lockstep.triton_api.types import Constexpr, Dtype

MOST_BYTES: Final = 1 << 22
"""Bytes behind the arguments of a launch that may be remembered."""

MOST_KEPT: Final = 1 << 26
"""Bytes that are remembered, of all launches."""

_ALIGNED: Final = 64
"""Addresses are told apart as far as accesses are held to their alignment."""


class Described(NamedTuple):
    """A launch before it runs: what it is, and every byte that it may read."""

    form: Hashable
    before: tuple[bytes, ...]


class Recall:
    """What launches have left of the bytes behind their arguments."""

    def __init__(self) -> None:
        self._left: dict[Described, list[tuple[int, bytes]]] = {}
        self._kept = 0
        self.recalled = 0
        """Launches that did not run."""

    def put_back(self, launch: Launch, described: Described) -> bool:
        """Leave in memory what the same launch has left; False where there is none, or something is declared."""
        left = self._left.get(described)
        memory = list(launch.allocations.values())
        if left is None or any(allocation.buffers for allocation in memory):
            return False
        for place, after in left:
            memory[place].data[:] = np.frombuffer(after, np.uint8)
        self.recalled += 1
        return True

    def keep(self, launch: Launch, described: Described) -> None:
        """Remember what a launch has left, if it may be recalled."""
        if launch.violations or not launch.is_closed or self._kept > MOST_KEPT:
            return
        after = [allocation.data.tobytes() for allocation in launch.allocations.values()]
        changed = [(place, now) for place, now in enumerate(after) if now != described.before[place]]
        self._left[described] = changed
        self._kept += sum(map(len, described.before)) + sum(len(now) for _, now in changed)


def describe_launch(launch: Launch, machine: Hashable, bound: Mapping[str, Any]) -> Described | None:
    """What determines a launch of these arguments; None where that is too much, or not known.

    `machine` is what it runs on and how it is checked.
    """
    memory = launch.allocations
    if sum(allocation.size for allocation in memory.values()) > MOST_BYTES:
        return None
    places = {address: place for place, address in enumerate(memory)}
    try:
        forms = tuple(_form(argument, places) for argument in bound.values())
    except TypeError:
        return None
    form = (id(launch.kernel), launch.grid, launch.num_warps, id(launch.coverage), machine, forms)
    return Described(form, tuple(allocation.data.tobytes() for allocation in memory.values()))


def _form(argument: Any, places: Mapping[int, int]) -> Hashable:
    """What a kernel sees of an argument but for the bytes behind it.

    Raises TypeError for one of another kind than the usual ones.
    """
    if isinstance(argument, torch.Tensor):
        address = argument.untyped_storage().data_ptr()
        return places[address], address % _ALIGNED, int(argument.storage_offset()), argument.dtype
    if isinstance(argument, float):
        return float, argument.hex()
    if argument is None or isinstance(argument, bool | int | str | Dtype):
        return type(argument), argument
    if isinstance(argument, Constexpr):
        return Constexpr, _form(argument.value, places)
    if isinstance(argument, tuple | list):
        return type(argument), *(_form(part, places) for part in argument)
    if is_jit(argument):
        return id(argument)
    raise TypeError(f"a {type(argument).__name__} is not recalled")
