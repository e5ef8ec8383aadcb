"""The keys that a session ends with, in parts: as an operation hands them on, or as it leaves them in the cache."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.session import Row, follow, lengths_at_end
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import schedules, sessions
from indexfuzz.oracles.launching import launch
from indexfuzz.samples.serving import MakeTokens
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.stateful import PLACES

Key = tuple[int, int]
"""A key: the number of its request, and which of the request's keys it is."""

Parts = Mapping[str, Tensor]
"""Outputs -> what a key has of them: keys bf16 [D], or in the cache cache_values uint8 [D] and cache_scales fp32 []."""


def key_outputs(stage: Stage) -> list[str]:
    """The outputs of an operation that hold keys."""
    return [output.name for output in stage.outputs if output not in PLACES]


def rows_due(rows: Sequence[Row], ratio: int) -> dict[int, Key]:
    """The rows of a step with which a key is due, with the request and the number of the key."""
    positions = [(row.request, position) for row in rows for position in range(row.start, row.end)]
    return {
        at: (request, position // ratio)
        for at, (request, position) in enumerate(positions)
        if (position + 1) % ratio == 0
    }


def make_keys(
    case: Case, implementation: Implementation, device: LockstepDevice, make_tokens: MakeTokens | None = None
) -> dict[Key, Parts]:
    """The keys that a session ends with; those of rejected drafts give way to the ones that come later.

    A fork has those of its parent. Where the cache has no layout, keys in it have no parts.
    """
    found = dict[Key, Parts]()
    session, maker, steps = case.session, schedules.maker_of(case), [*follow(case.session)]
    for number, stage, _, call in sessions.launches(case, device, implementation, make_tokens):
        if stage.name != maker or number == len(steps):
            continue
        for fork in session.steps[number].forks:
            found |= {(fork.child, at): parts for (request, at), parts in found.items() if request == fork.parent}
        launched = launch(maker, call, implementation.stages[maker], device)
        found |= _read_keys(stage, call, launched.outputs, rows_due(steps[number], session.ratio))
    lengths = lengths_at_end(session)
    return {key: parts for key, parts in sorted(found.items()) if key[1] < lengths.get(key[0], 0) // session.ratio}


def _read_keys(stage: Stage, call: Call, outputs: Mapping[str, Tensor], due: Mapping[int, Key]) -> dict[Key, Parts]:
    """The keys that a launch has made; none where it did not end."""
    if not outputs:
        return {}
    every = {name: stage.elements(call, outputs, name) for name in key_outputs(stage)}
    return {
        key: {name: rows[row].clone() for name, rows in every.items() if rows is not None} for row, key in due.items()
    }
