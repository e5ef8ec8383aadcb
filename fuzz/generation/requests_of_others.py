"""A case with the requests of another one: what a kernel is compiled for hardly changes with them."""

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.generation.strategies import MEDIUM, WIDE


def with_requests_of(case: Case, other: Case) -> Case | None:
    """The model, cache and memory of a case with the batch of another; None where they make too much work together.

    Sessions keep their requests: those and what they hold in memory are one.
    """
    batch, model = other.batch, case.model
    activations = batch.tokens * model.num_heads * model.head_dim
    if case.session.steps or other.session.steps or batch.scores > MEDIUM.scores or activations > MEDIUM.activations:
        return None
    try:
        made = case.replace(batch=batch.model_dump())
    except CaseError:
        return None
    cached = made.num_blocks * case.cache.block_size * model.head_dim
    return made if cached <= WIDE.cached or made.num_blocks <= case.num_blocks else None
