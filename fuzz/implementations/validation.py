"""Whether an implementation is one: stages that exist, functions that take what a stage gets, a contract that answers.

What is wrong here would otherwise be green (a misspelt stage is never run) or a finding about every case.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_args

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Cache, Model
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.words import suggestion
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.implementations.builtin import builtin

FORMS: Mapping[str, tuple[str, ...]] = {
    "scales": get_args(Cache.model_fields["scales"].annotation),
    "norms": get_args(Model.model_fields["k_norm"].annotation),
}
"""What a contract may name, the first of each alone if it does not."""

OPTIONS = {"scales": "scales", "norm": "norms"}
"""Arguments that only functions get whose contract names more."""


def validate(implementation: Implementation) -> None:
    """Look at what a user has put together, without running a stage: nothing of it need be of the declared type.

    Raises ImplementationError that names the first thing that is wrong.
    """
    complaint = next(_complaints(implementation), None)
    if complaint:
        raise ImplementationError(complaint)


def _complaints(implementation: Any) -> Iterator[str]:
    name, stages = implementation.name, implementation.stages
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        yield f"the name of an implementation must be one line of text, not {name!r}"
    if not isinstance(stages, Mapping):
        yield f"stages must be a dictionary of stage names and functions, not {kind_of(stages)}"
    elif not stages:
        yield f"{name} has no stages, so nothing would be tested; name at least one of {', '.join(builtin().stages)}"
    else:
        contract = implementation.contract
        got = {name for name, form in OPTIONS.items() if getattr(contract, form, FORMS[form][:1]) != FORMS[form][:1]}
        yield from _stage_complaints(stages, got)
    if not isinstance(implementation.promises, Promises):
        yield f"promises must be an instance of Promises, not {kind_of(implementation.promises)}"
    if implementation.forward is not None and not callable(implementation.forward):
        yield f"forward must be a function, not {kind_of(implementation.forward)}"
    if isinstance(implementation.notes, str):
        yield "notes must be a tuple of sentences, not a single text"
    yield from _contract_complaints(implementation.contract)


def _stage_complaints(stages: Mapping[Any, Any], got: Collection[str]) -> Iterator[str]:
    """What is wrong with stages, which of the arguments with a default get those in `got`."""
    known = builtin().stages
    for stage, function in stages.items():
        if stage not in known:
            yield f"there is no stage {stage!r}; {suggestion(str(stage), known)}"
        elif not callable(function):
            yield f"stage {stage} must be a function, not {kind_of(function)}"
        elif type(function).__module__.split(".")[0] == "triton":
            yield f"stage {stage} is a Triton kernel; name the Python function that launches it"
        else:
            given = inspect.signature(known[stage]).parameters.values()
            wanted = tuple(p.name for p in given if p.name in got or p.default is p.empty)
            yield from _argument_complaints(stage, function, wanted)


def _argument_complaints(stage: str, function: Callable[..., Any], wanted: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the parameters of a function that is called with these arguments by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # functions of C extensions do not tell
        return
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    missing = [] if takes_all else [argument for argument in wanted if argument not in by_name]
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = [name for name in required if name not in wanted or name not in by_name]
    call = f"it is called as {stage}({', '.join(f'{argument}=...' for argument in wanted)})"
    if missing:
        yield f"the function of stage {stage} does not take {', '.join(missing)}; {call}"
    if unknown:
        yield f"the function of stage {stage} asks for {', '.join(unknown)}, which it does not get by name; {call}"


def _contract_complaints(contract: Any) -> Iterator[str]:
    if isinstance(contract, type) or not all(callable(getattr(contract, m, None)) for m in ("outside", "must_reject")):
        yield f"contract must be an instance of Clauses, not {kind_of(contract)}"
    elif isinstance(contract, Clauses):
        clauses: Any = contract.clauses
        if not isinstance(clauses, tuple | list):
            yield f"Clauses takes a tuple of clauses, not {kind_of(clauses)}"
            return
        for form, known in FORMS.items():
            named = getattr(contract, form)
            if not isinstance(named, tuple) or not set(named) <= set(known):
                yield f"the {form} of a contract must be a tuple with some of {', '.join(known)}, not {named!r}"
        for number, clause in enumerate(clauses, 1):
            if isinstance(clause, Clause):
                yield from _clause_complaints(clause)
            else:
                yield f"clause {number} of the contract must be a Clause, not {kind_of(clause)}"


def _clause_complaints(clause: Any) -> Iterator[str]:
    known = builtin().stages
    if not isinstance(clause.stages, tuple | list):
        yield f"the clause {clause.sentence!r} must name its stages in a tuple, not {kind_of(clause.stages)}"
        return
    for stage in clause.stages:
        if stage not in known:
            yield f"the clause {clause.sentence!r} is about no stage {stage!r}; {suggestion(str(stage), known)}"
    if not callable(clause.holds):
        yield f"the clause {clause.sentence!r} needs a function of the case, not {kind_of(clause.holds)}"
        return
    if not isinstance(clause.sentence, str) or not isinstance(clause.place, str):
        yield f"the clause {clause.sentence!r} must have a sentence and a place, both texts"
    try:
        clause.holds(Case())
    except Exception as error:  # noqa: BLE001 - somebody else's function
        yield f"the clause {clause.sentence!r} cannot be asked about a case: {type(error).__name__}: {error}"


def kind_of(value: object) -> str:
    """What a value is, with its article: "an int"."""
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
