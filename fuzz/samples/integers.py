"""The inputs of a case that are integers, made without the others, which takes a fraction of the time."""

from functools import partial

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.samples.lazy import Lazy, making_indices
from indexfuzz.samples.requests import positions_of
from indexfuzz.samples.selections import place_requests
from indexfuzz.samples.step import Step


class _Values(Step):
    """Inputs without places in memory."""

    def place(self, name: str, value: Tensor, *, row_pad: int = 0, step: int = 1) -> None:  # noqa: ARG002
        """Keep the value as it is."""
        self.tensors[name] = value


def integer_inputs(case: Case) -> Lazy:
    """Their values by name, dense, each made when it is asked for; those of `Step` and of `place_requests`."""
    step = _Values(case, "cpu")
    step.tensors = made = Lazy(
        {
            **making_indices(step),
            ("positions",): lambda: step.place("positions", positions_of(case, step.key("positions"))),
            ("req_table", "token_to_req"): partial(place_requests, step),
        }
    )
    return made
