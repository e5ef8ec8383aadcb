"""A hollow step: the tensors of a case, each where it would be, that hold what says where something is, and no values.

Launchers decide by sizes, strides, addresses and integers. To know what they decide takes a fraction of a sample, and
of it only what the stages in question are given is made.
"""

from collections.abc import Callable

import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.activations import angles_for, place_angles, place_positions, place_q_and_k, place_weights
from indexfuzz.samples.buffers import Buffer
from indexfuzz.samples.cached import allocate_cache
from indexfuzz.samples.lazy import Lazy, Makers, making_indices
from indexfuzz.samples.requests import positions_of
from indexfuzz.samples.step import Step


class _Hollow(Step):
    """A step that nobody asks what has changed since."""

    def add(self, buffer: Buffer) -> None:
        """Take a buffer as an input."""
        self.buffers[buffer.name] = buffer
        self.tensors[buffer.name] = buffer.view


def materialise_hollow(case: Case, device: str = "cpu", results: Callable[[Step], Makers] = lambda _step: {}) -> Step:
    """The tensors of a case without values: zeros, and pages of poison. Integers are those of the case.

    Each is made when it is asked for; `results` makes what the stages would have made.
    """
    step, model, tokens = _Hollow(case, device), case.model, case.batch.tokens

    def positions() -> torch.Tensor:
        return positions_of(case, step.key("positions"))

    makers: Makers = {
        ("cache",): lambda: step.add(allocate_cache(case, device)),
        ("q", "k"): lambda: place_q_and_k(
            step, torch.zeros(tokens, model.num_heads, model.head_dim), torch.zeros(tokens, model.head_dim)
        ),
        ("weights",): lambda: place_weights(step, torch.zeros(tokens, model.num_heads)),
        ("positions",): lambda: place_positions(step, positions()),
        ("cos_sin_cache",): lambda: place_angles(step, torch.zeros(angles_for(positions()), model.rope_dim)),
    }
    step.tensors = Lazy({**makers, **making_indices(step), **results(step)})
    return step
