"""Make every input of a case: the cache, what a model computes, and what says where something is."""

from dataclasses import dataclass

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.samples.activations import draw_activations
from indexfuzz.samples.buffers import Buffer, Sealed
from indexfuzz.samples.cached import place_cache
from indexfuzz.samples.places import place_indices
from indexfuzz.samples.requests import page_tables, rectangle
from indexfuzz.samples.step import Step


def materialise(case: Case, device: str = "cpu") -> Step:
    """Make every input of a case on a device; of the same case once more from what was made of it."""
    known = _LAST.get(device)
    if known is not None and known.case is case:
        return known.remake()
    step = Step(case, device)
    tables = page_tables(case, step.key("pages"))
    place_cache(step, rectangle(tables, -1))
    _place_all_but_cache(step, tables)
    made = tuple(buffer.sealed for buffer in step.buffers.values())
    _LAST[device] = _Made(case, device, made, frozenset(step.tensors), step.defined.clone())
    return step


@dataclass(frozen=True)
class _Made:
    """What was made of a case: its buffers without their memory, and what they held.

    `inputs` are the buffers that are tensors of the step; guards around several are none.
    """

    case: Case
    device: str
    buffers: tuple[Sealed, ...]
    inputs: frozenset[str]
    defined: Tensor

    def remake(self) -> Step:
        """The step as it was."""
        step, storages = Step(self.case, self.device, defined=self.defined.clone()), dict[int, Tensor]()
        for buffer in self.buffers:
            step.buffers[buffer.name] = again = buffer.make(storages)
            if buffer.name in self.inputs:
                step.tensors[buffer.name] = again.view
        return step


_LAST: dict[str, _Made] = {}
"""By device: several oracles ask about one case, one after the other."""


def materialise_on_cache(case: Case, cache: Buffer, defined: Tensor, tables: list[list[int]], device: str) -> Step:
    """Make every input of a case but its cache, which other steps have filled; so many pages must the case have.

    `defined` is as in Step, and follows what the stages write; `tables` has the pages of each request, in order.
    """
    step = Step(case, device, defined=defined)
    step.add(cache)
    _place_all_but_cache(step, tables)
    return step


def _place_all_but_cache(step: Step, tables: list[list[int]]) -> None:
    draw_activations(step)
    place_indices(step, tables)
