"""A case in words: what is special about it, one line for each field and for each request."""

from collections.abc import Iterator

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Prefill
from indexfuzz.core.session_words import tell_session

MAX_OVERRIDES = 8
"""How many single values of tensors are told."""

ALWAYS = frozenset({"num_heads", "head_dim", "block_size", "decode", "prefill"})
"""Fields that say what shape a case has: they are told even at their defaults."""

REGIMES = ("q", "k", "weights", "cache", "rope")
"""Fields of the values that are told in one line where they are the same, as in most minimal cases."""

REQUESTS = frozenset({"decode", "prefill"})
"""Fields that a session has none of; its steps are told at the end."""


def describe_case(case: Case) -> Iterator[tuple[str, str, str]]:
    """(part, field, words) of everything in which a case differs from the plainest one, and of its shape.

    A part is named at its first field only, a field at its first line.
    """
    plain = Case()
    regimes = {getattr(case.values, name) for name in REGIMES}
    for part in type(case).model_fields:
        shown_part = part
        for name in type(getattr(case, part)).model_fields:
            value = getattr(getattr(case, part), name)
            is_plain = value == getattr(getattr(plain, part), name) and name not in ALWAYS
            if is_plain or name == "steps" or (case.session.steps and name in REQUESTS):
                continue
            shown_name = name
            if part == "values" and name in REGIMES and len(regimes) == 1:
                if name != REGIMES[0]:
                    continue
                shown_name = "all tensors"
            for line in _lines(name, value):
                yield shown_part, shown_name, line
                shown_part = shown_name = ""
    if case.session.steps:
        for step, line in tell_session(case.session):
            yield "", step, line


def _lines(name: str, value: object) -> list[str]:
    if name in ("decode", "prefill") and isinstance(value, tuple):
        return [_request(request) for request in value] or ["no requests"]
    if name == "set" and isinstance(value, dict):
        entries = [(tensor, *entry) for tensor, rows in value.items() for entry in rows]
        shown = [f"{tensor}{index} = {_number(number)}" for tensor, *index, number in entries[:MAX_OVERRIDES]]
        return shown + ([f"and {len(entries) - MAX_OVERRIDES} more"] if len(entries) > MAX_OVERRIDES else [])
    return [str(value)]


def _request(request: object) -> str:
    if isinstance(request, Prefill):
        return f"a request of {_tokens(request.length)}, {request.new or 'none'} of them new"
    return f"a request with a context of {_tokens(request)}"


def _tokens(count: object) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def _number(text: object) -> str:
    return f"{float.fromhex(str(text)):g}"
