"""Reductions of sessions: fewer steps, requests and tokens, no drafts, no forks.

Each proposes sessions and goes on from those that are taken. What no longer fits together, as the fork of a request
that is gone, is left out with it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from indexfuzz.core.session import SessionStep, Turn
from indexfuzz.triage.descent import leave_out, lower
from indexfuzz.triage.smallest import Smallest


def take_steps(smallest: Smallest, steps: Iterable[SessionStep], **fields: Any) -> bool:
    """Go on with other steps, without what does not fit together in them, and other fields of the session."""
    return smallest.take(session=fields | {"steps": tuple(step.model_dump() for step in tidy(steps))})


def tidy(steps: Iterable[SessionStep]) -> Iterable[SessionStep]:
    """The steps without forks from or into what cannot be, and without requests that go and are not there."""
    there = set[int]()
    for step in steps:
        forks = []
        for fork in step.forks:
            if fork.parent in there and fork.child not in there:
                there.add(fork.child)
                forks.append(fork)
        there |= {turn.request for turn in step.turns}
        free = tuple(request for request in dict.fromkeys(step.free) if request in there)
        there -= set(free)
        yield step.model_copy(update={"forks": tuple(forks), "free": free})


def drop_steps(smallest: Smallest) -> None:
    """Leave out steps."""

    def keep(rest: Sequence[SessionStep]) -> bool:
        return bool(rest) and take_steps(smallest, rest)

    leave_out(smallest.case.session.steps, keep)


def merge_steps(smallest: Smallest) -> None:
    """Let two neighbouring steps be one, where drafts were not rejected between them."""
    at = 0
    while at + 1 < len(smallest.case.session.steps):
        steps = smallest.case.session.steps
        merged = merge(steps[at], steps[at + 1])
        if not take_steps(smallest, (*steps[:at], merged, *steps[at + 2 :])):
            at += 1


def merge(one: SessionStep, other: SessionStep) -> SessionStep:
    """Two steps as one, in which drafts that were accepted in the first are tokens, and all others of it never were."""
    turns = {turn.request: turn for turn in one.turns}
    for turn in other.turns:
        before = turns.get(turn.request)
        certain = before.new + before.accepted if before else 0
        turns[turn.request] = turn.model_copy(update={"new": certain + turn.new})
    forks, free = (*one.forks, *other.forks), (*one.free, *other.free)
    return SessionStep.model_construct(forks=forks, turns=tuple(turns.values()), free=free, pad_tokens=other.pad_tokens)


def drop_session_requests(smallest: Smallest) -> None:
    """Leave out requests, wherever they are."""
    requests = sorted({turn.request for step in smallest.case.session.steps for turn in step.turns})
    steps = smallest.case.session.steps

    def keep(kept: Sequence[int]) -> bool:
        return take_steps(smallest, [_without(step, kept) for step in steps])

    leave_out(requests, keep)


def _without(step: SessionStep, kept: Sequence[int]) -> SessionStep:
    return step.model_copy(
        update={
            "forks": tuple(fork for fork in step.forks if fork.parent in kept and fork.child in kept),
            "turns": tuple(turn for turn in step.turns if turn.request in kept),
            "free": tuple(request for request in step.free if request in kept),
        }
    )


def drop_events(smallest: Smallest) -> None:
    """Less padding or none, then no fork, no request that goes, and no turn that need not be."""
    for number in range(len(smallest.case.session.steps)):
        for nothing in ({"pad_tokens": 0}, {"forks": ()}, {"free": ()}):
            _change_step(smallest, number, nothing)

        def keep(turns: Sequence[Turn], number: int = number) -> bool:
            return _change_step(smallest, number, {"turns": tuple(turns)})

        def pad(rows: int, number: int = number) -> bool:
            return _change_step(smallest, number, {"pad_tokens": rows})

        if number < len(smallest.case.session.steps):
            lower(smallest.case.session.steps[number].pad_tokens, 0, pad)
            leave_out(smallest.case.session.steps[number].turns, keep)


def _change_step(smallest: Smallest, number: int, fields: dict[str, Any]) -> bool:
    steps = smallest.case.session.steps
    changed = steps[number].model_copy(update=fields)
    return changed != steps[number] and take_steps(smallest, (*steps[:number], changed, *steps[number + 1 :]))


def shorten_turns(smallest: Smallest) -> None:
    """Drafts that are tokens like others, then fewer tokens of each turn, and fewer drafts."""
    for number, step in enumerate(smallest.case.session.steps):
        for place, turn in enumerate(step.turns):
            _change_turn(smallest, number, place, {"new": turn.new + turn.drafts, "drafts": 0})
            for name in ("drafts", "accepted", "new"):

                def take(value: int, number: int = number, place: int = place, name: str = name) -> bool:
                    return _change_turn(smallest, number, place, {name: value})

                lower(getattr(smallest.case.session.steps[number].turns[place], name), 0, take)


def _change_turn(smallest: Smallest, number: int, place: int, fields: dict[str, int]) -> bool:
    turns = smallest.case.session.steps[number].turns
    turn = turns[place].model_copy(update=fields)
    turn = turn.model_copy(update={"accepted": min(turn.accepted, turn.drafts)})
    return _change_step(smallest, number, {"turns": (*turns[:place], turn, *turns[place + 1 :])})


def number_requests(smallest: Smallest) -> None:
    """Requests numbered in the order in which they come, each life of a number as it is."""
    order = dict[int, int]()
    for step in smallest.case.session.steps:
        for turn in step.turns:
            order.setdefault(turn.request, len(order))
    take_steps(smallest, [_renumbered(step, order) for step in smallest.case.session.steps])


def _renumbered(step: SessionStep, order: dict[int, int]) -> SessionStep:
    return step.model_copy(
        update={
            "forks": tuple(
                fork.model_copy(update={"parent": order[fork.parent], "child": order[fork.child]})
                for fork in step.forks
                if fork.parent in order and fork.child in order
            ),
            "turns": tuple(turn.model_copy(update={"request": order[turn.request]}) for turn in step.turns),
            "free": tuple(order[request] for request in step.free if request in order),
        }
    )


def simplify_node(smallest: Smallest) -> None:
    """A smaller ratio, no overlap, the plainest pooling, and no more positions than there are tokens."""
    for ratio in (1, 2, 4, 8):
        if ratio < smallest.case.session.ratio and take_steps(smallest, smallest.case.session.steps, ratio=ratio):
            break
    if smallest.case.session.overlap:
        take_steps(smallest, smallest.case.session.steps, overlap=False)
    if smallest.case.session.pooling != "softmax":
        take_steps(smallest, smallest.case.session.steps, pooling="softmax")
    smallest.take(batch={"max_model_len": max(smallest.case.session.length, 1)})


SESSION_REDUCTIONS = (
    drop_steps,
    drop_session_requests,
    drop_events,
    merge_steps,
    shorten_turns,
    simplify_node,
    number_requests,
)
"""The largest steps first."""
