"""A hollow step: the tensors of a case, each where it would be, that hold what says where something is, and no values.

Launchers decide by sizes, strides, addresses and integers. To know what they decide takes a fraction of a sample.
"""

import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.buffers import Buffer
from indexfuzz.samples.requests import page_tables, positions_of
from indexfuzz.samples.step import Step, allocate_cache, angles_for, place_activations, place_indices


class _Hollow(Step):
    """A step that nobody asks what has changed since."""

    def add(self, buffer: Buffer) -> None:
        """Take a buffer as an input."""
        self.buffers[buffer.name] = buffer
        self.tensors[buffer.name] = buffer.view


def materialise_hollow(case: Case, device: str = "cpu") -> Step:
    """The tensors of a case without values: zeros, and pages of poison. Integers are those of the case."""
    step, model, tokens = _Hollow(case, device), case.model, case.batch.tokens
    step.add(allocate_cache(case, device))
    positions = positions_of(case, step.key("positions"))
    q, k = torch.zeros(tokens, model.num_heads, model.head_dim), torch.zeros(tokens, model.head_dim)
    weights, table = torch.zeros(tokens, model.num_heads), torch.zeros(angles_for(positions), model.rope_dim)
    place_activations(step, q, k, weights, positions, table)
    place_indices(step, page_tables(case, step.key("pages")))
    return step
