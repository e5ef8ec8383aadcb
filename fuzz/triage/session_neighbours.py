"""Neighbours of a session: the same requests in other steps, and steps in which one thing less happens.

A session that makes fewer keys is no neighbour: where nothing is due, nothing can be wrong, and that explains nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from indexfuzz.core.case import Case
from indexfuzz.core.session import MAX_STEPS, Row, Session, SessionStep, Turn, follow
from indexfuzz.triage.neighbour import Neighbour, change, tokens
from indexfuzz.triage.session_reductions import merge, tidy

RATIOS = (1, 2, 4, 8)
"""Tokens to a key that are tried."""


def session_neighbours(case: Case) -> Iterator[Neighbour]:
    """The neighbours of a case that is a session in what happens in it; none of any other case."""
    session = case.session
    if not session.steps:
        return
    if session.node != "none":
        yield from _with(case, "overlap", "off" if session.overlap else "on", overlap=not session.overlap)
        other = "max" if session.pooling == "softmax" else "softmax"
        yield from _with(case, "pooling", other, session.pooling, pooling=other)
        for ratio in (ratio for ratio in RATIOS if ratio != session.ratio):
            yield from _with(case, "ratio", str(ratio), str(session.ratio), ratio=ratio)
    yield from _other_chunks(case)
    for number, (step, rows) in enumerate(zip(session.steps, follow(session), strict=True)):
        rest = (*session.steps[:number], *session.steps[number + 1 :])
        yield from _with_steps(case, f"steps[{number}]", "left out", "", rest)
        yield from _other_events(case, number, step)
        for place, row in enumerate(rows):
            yield from _other_turns(case, number, place, row)


def _other_chunks(case: Case) -> Iterator[Neighbour]:
    """Two neighbouring steps as one, and steps of one token each."""
    steps = case.session.steps
    for at in range(len(steps) - 1):
        if not set(steps[at].free) & {turn.request for turn in steps[at + 1].turns}:
            merged = (*steps[:at], merge(steps[at], steps[at + 1]), *steps[at + 2 :])
            yield from _with_steps(case, "steps", f"{at} and {at + 1} as one", "two", merged)
    single = [part for step in steps for part in _cut(step)]
    if len(steps) < len(single) <= MAX_STEPS:
        yield from _with_steps(case, "steps", "of one token each", "longer ones", single)


def _cut(step: SessionStep) -> Iterator[SessionStep]:
    """The step as several, in each of which a request appends one token; drafts and padding come in the last."""
    count = max([1, *(turn.new for turn in step.turns)])
    for at in range(count):
        is_last = at == count - 1
        turns = []
        for turn in step.turns:
            drafts = {} if is_last else {"drafts": 0, "accepted": 0}
            new = int(at >= count - turn.new)
            if new or (is_last and turn.drafts):
                turns.append(turn.model_copy(update={"new": new, **drafts}))
        yield SessionStep.model_construct(
            forks=step.forks if not at else (),
            turns=tuple(turns),
            free=step.free if is_last else (),
            pad_tokens=step.pad_tokens if is_last else 0,
        )


def _other_events(case: Case, number: int, step: SessionStep) -> Iterator[Neighbour]:
    """A step without its forks, without requests that go, with less padding, or with its rows in another order."""
    name = f"steps[{number}]"
    for field, words in (("forks", "without forks"), ("free", "where no request goes")):
        if getattr(step, field):
            yield from _with_step(case, f"{name}.{field}", words, "", number, {field: ()})
    for pad in dict.fromkeys((0, 1, step.pad_tokens - 1)):
        if 0 <= pad < step.pad_tokens:
            change_of = {"pad_tokens": pad}
            yield from _with_step(case, f"{name}.pad_tokens", str(pad), str(step.pad_tokens), number, change_of)
    if len(step.turns) > 1:
        yield from _with_step(case, f"{name}.turns", "in reverse", "", number, {"turns": step.turns[::-1]})


def _other_turns(case: Case, number: int, place: int, row: Row) -> Iterator[Neighbour]:
    """A turn left out, without drafts, with another fate of them, or with a token more or less."""
    turn, name = row.turn, f"steps[{number}].turns[{place}]"
    turns = case.session.steps[number].turns
    if len(turns) > 1:
        rest = (*turns[:place], *turns[place + 1 :])
        yield from _with_step(case, name, "left out", "", number, {"turns": rest})
    if turn.drafts:
        for words, new in (("0", turn.new), ("0, and as many tokens more", turn.new + turn.drafts)):
            fields = {"drafts": 0, "accepted": 0, "new": new}
            yield from _with_turn(case, f"{name}.drafts", words, str(turn.drafts), number, place, fields)
    for accepted in dict.fromkeys((0, turn.drafts)):
        if accepted != turn.accepted:
            fields = {"accepted": accepted}
            yield from _with_turn(case, f"{name}.accepted", str(accepted), str(turn.accepted), number, place, fields)
    up_to_a_key = turn.new + -row.end % case.session.ratio
    for new in dict.fromkeys((turn.new - 1, turn.new + 1, up_to_a_key)):
        if new >= 0 and new != turn.new:
            yield from _with_turn(case, f"{name}.new", tokens(new), tokens(turn.new), number, place, {"new": new})


def _with_turn(
    case: Case, field: str, value: str, instead_of: str, number: int, place: int, fields: dict[str, int]
) -> Iterator[Neighbour]:
    turns: list[Turn] = list(case.session.steps[number].turns)
    turns[place] = turns[place].model_copy(update=fields)
    yield from _with_step(case, field, value, instead_of, number, {"turns": tuple(turns)})


def _with_step(
    case: Case, field: str, value: str, instead_of: str, number: int, fields: dict[str, Any]
) -> Iterator[Neighbour]:
    steps = list(case.session.steps)
    steps[number] = steps[number].model_copy(update=fields)
    yield from _with_steps(case, field, value, instead_of, steps)


def _with_steps(
    case: Case, field: str, value: str, instead_of: str, steps: Sequence[SessionStep]
) -> Iterator[Neighbour]:
    """With other steps, which leave room for the tokens of their longest request; none where no step is left."""
    if steps:
        told = tuple(step.model_dump() for step in tidy(steps))
        yield from _with(case, field, value, instead_of, steps=told)


def _with(case: Case, field: str, value: str, instead_of: str = "", **fields: object) -> Iterator[Neighbour]:
    try:
        session = Session.model_validate(case.session.model_dump() | fields)
    except ValidationError:
        return
    if not session.tokens or (session.node != "none" and _keys(session) < _keys(case.session)):
        return
    room: dict[str, object] = {"max_model_len": max(case.batch.max_model_len, session.length)}
    whole = session.model_dump() | {"pooling": session.pooling}
    yield from change(case, f"session.{field}", value, instead_of, {"session": whole, "batch": room})


def _keys(session: Session) -> int:
    """Keys that stay: those of drafts that are rejected are left out."""
    ratio = session.ratio
    return sum(row.length // ratio - row.start // ratio for rows in follow(session) for row in rows)
