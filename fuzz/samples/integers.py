"""The inputs of a case that are integers, made without the others, which takes a fraction of the time."""

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.samples.requests import page_tables, positions_of
from indexfuzz.samples.selections import place_requests
from indexfuzz.samples.step import Step, place_indices


class _Values(Step):
    """Inputs without places in memory."""

    def place(self, name: str, value: Tensor, *, row_pad: int = 0, step: int = 1) -> None:  # noqa: ARG002
        """Keep the value as it is."""
        self.tensors[name] = value


def integer_inputs(case: Case) -> dict[str, Tensor]:
    """Their values by name, dense; those of `Step` and of `place_requests`."""
    step = _Values(case, "cpu")
    step.place("positions", positions_of(case, step.key("positions")))
    place_indices(step, page_tables(case, step.key("pages")))
    place_requests(step)
    return step.tensors
