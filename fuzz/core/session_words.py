"""A session in words: what happens in each step, and which keys are due with it."""

from collections.abc import Iterator

from indexfuzz.core.session import Row, Session, follow


def tell_session(session: Session) -> Iterator[tuple[str, str]]:
    """(step, words) of everything that happens, in order; a step is named at its first line only."""
    met = set[tuple[int, int]]()
    for number, (step, rows) in enumerate(zip(session.steps, follow(session), strict=True)):
        lines = [f"request {fork.child} begins as a fork of request {fork.parent}" for fork in step.forks]
        for row in rows:
            is_new = (row.request, row.life) not in met and not row.start
            met.add((row.request, row.life))
            again = " anew, as another request" if row.life and is_new else ""
            lines.append(f"request {row.request}{again} {_turn(row, session)}")
        lines += [f"{step.pad_tokens} rows of padding"] if step.pad_tokens else []
        lines += [f"request {request} goes; its pages and its ring are free" for request in step.free]
        for i, line in enumerate(lines or ["nothing"]):
            yield "" if i else f"step {number}", line


def tell_step(session: Session, number: int) -> list[str]:
    """What happens in one step, a line for each thing."""
    told, at = [], -1
    for step, words in tell_session(session):
        at += bool(step)
        told += [words] if at == number else []
    return told


def tell_chunks(session: Session, request: int) -> str:
    """In which steps the tokens of a request come, where it is one request only; drafts that stay are told as tokens.

    "in one step", "one a step", or as in "in steps of 4, 1 before 2 rejected drafts, 3".
    """
    turns = [turn for step in session.steps for turn in step.turns if turn.request == request]
    chunks = [(turn.new + turn.accepted, turn.drafts - turn.accepted) for turn in turns if turn.new + turn.drafts]
    if len(chunks) == 1 and not chunks[0][1]:
        return "in one step"
    if all(chunk == (1, 0) for chunk in chunks):
        return "one a step"
    words = (
        f"{kept} before {rejected} rejected draft{'s' * (rejected > 1)}" if rejected else str(kept)
        for kept, rejected in chunks
    )
    return f"in steps of {', '.join(words)}"


def _turn(row: Row, session: Session) -> str:
    turn, certain = row.turn, row.start + row.turn.new
    parts = [f"appends {_range('token', row.start, certain)}"] if turn.new else []
    if turn.drafts:
        rejected = turn.drafts - turn.accepted
        fate = f"{rejected} of them rejected" if rejected and turn.accepted else "rejected" if rejected else "accepted"
        parts.append(f"drafts {_range('token', certain, row.end)}, {fate}")
    first, last = row.start // session.ratio, row.end // session.ratio
    due = f"; {_range('key', first, last)} {'is' if last - first == 1 else 'are'} due" if last > first else ""
    is_told = session.node != "none"
    return (", then ".join(parts) or "appends nothing") + (due if is_told else "")


def _range(what: str, start: int, end: int) -> str:
    return f"{what} {start}" if end - start == 1 else f"{what}s {start} to {end - 1}"
