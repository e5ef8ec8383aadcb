"""The line of Python that mixes something up: heard of while it runs, as calls and returns go by."""

import ast
import linecache
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.words import location_from_here
from indexfuzz.lockstep.source.statements import Statement, statement_at
from indexfuzz.lockstep.tracking.moments import Launched
from indexfuzz.samples.step import Step

PASSED_OVER = ("torch.", "triton.", "numpy.", "functools", "contextlib")
"""How names of modules begin whose functions return what is under test, and did not make it."""

SHOWN = 8
"""Elements up to which a tensor is told."""

OURS, KERNELS, STAGES = "indexfuzz.", "indexfuzz.kernels", "indexfuzz.stages."
"""How names of modules begin: of IndexFuzz, of the kernels in it, and of what launches them."""

Inputs = dict[str, list[dict[str, Tensor]]]
"""What each stage is given, call by call: tensors by the names of its arguments."""

Hear = Callable[[FrameType, str, Any], None]
"""Frame, "call" or "return" among others, and what is returned."""


@dataclass(frozen=True)
class Culprit:
    """A line of Python that mixes something up: what it does, and its variables."""

    place: str
    text: str
    words: str
    values: tuple[tuple[str, str], ...]

    def lines(self) -> Iterator[str]:
        """What it does, the statement, and the names on it with their values."""
        yield self.words
        yield f"  {self.place}  {self.text}"
        width = max((len(name) for name, _ in self.values), default=0)
        yield from (f"        {name:<{width}} = {value}" for name, value in self.values)


@contextmanager
def hearing(hear: Hear) -> Iterator[None]:
    """Let somebody hear of every call and return of Python in here."""
    before = sys.getprofile()
    sys.setprofile(hear)
    try:
        yield
    finally:
        sys.setprofile(before)


def find_return(function: Callable[..., Any], run: Callable[[], object], output: Tensor | None) -> Culprit | None:
    """The statement that first returns an output while something runs, else the one with which the function returns.

    Functions of adapters, of PyTorch and of Triton are passed over. None where it is none of Python's.
    """
    code, found = code_of(function), list[tuple[CodeType, Any, Culprit]]()

    def hear(frame: FrameType, event: str, value: Any) -> None:
        is_output = output is not None and isinstance(value, Tensor) and value.shape == output.shape
        if event == "return" and (frame.f_code is code or (is_output and _is_theirs(frame))):
            told = value.clone() if isinstance(value, Tensor) else value
            found.append((frame.f_code, told, _culprit(frame, f"{frame.f_code.co_name} returns it here.")))

    with hearing(hear):
        run()
    made = (culprit for of, value, culprit in found if of is not code and _is_same(value, output))
    return next(made, None) or next((culprit for of, _, culprit in found if of is code), None)


def find_last_return(run: Callable[[], object], output: Tensor) -> Culprit | None:
    """The last statement that returns an output, alone or among others, while something runs; None where none does.

    Functions of adapters, of PyTorch and of Triton are passed over.
    """
    found: list[Culprit] = []

    def hear(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and _is_theirs(frame):
            parts = value if isinstance(value, tuple | list) else (value,)
            if any(_is_same(part, output) for part in parts):
                found.append(_culprit(frame, f"{frame.f_code.co_name} returns it here."))

    with hearing(hear):
        run()
    return found[-1] if found else None


def _is_theirs(frame: FrameType) -> bool:
    """Whether a function is one of what is under test."""
    module = frame.f_globals.get("__name__", "")
    return not module.startswith((*PASSED_OVER, OURS)) or module.startswith(KERNELS)


def _is_same(value: Any, output: Tensor | None) -> bool:
    return (
        isinstance(value, Tensor)
        and output is not None
        and value.dtype == output.dtype
        and value.shape == output.shape
        and torch.equal(describe.bits(value), describe.bits(output))
    )


def tell_launch(launched: Launched, names: Collection[str] = ()) -> Iterator[str]:
    """A kernel that ran, and the lines that led to it up to the stage, but for those of IndexFuzz.

    Of arguments that were passed under one of `names`, or to a parameter of the kernel of that name, the lines with
    what was passed.
    """
    yield f"  {launched.kernel}  {location_from_here(launched.place)}"
    before: tuple[str, int] | None = None
    for module, file, number in launched.callers:
        if module.startswith(STAGES):
            return
        if not module.startswith(OURS) or module.startswith(KERNELS):
            statement = statement_at(file, number)
            if statement is not None and (file, statement.line) == before:
                continue  # a comprehension in it has a frame of its own
            before = (file, statement.line) if statement else None
            text = statement.text if statement else linecache.getline(file, number).strip()
            yield f"    {location_from_here(f'{file}:{number}')}  {text}"
            for name, value in _passed(statement, launched.parameters) if statement else ():
                if name in names:
                    yield f"      {value.lineno:>4}  {name}={ast.unparse(value)}"


def _passed(statement: Statement, parameters: Sequence[str]) -> Iterator[tuple[str, ast.expr]]:
    """What the calls in a statement pass by name; of a launch, kernel[grid](...), also what stands in order."""
    for expression in statement.expressions:
        for call in (node for node in ast.walk(expression) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Subscript):
                in_order = takewhile(lambda value: not isinstance(value, ast.Starred), call.args)
                yield from zip(parameters, in_order, strict=False)
            yield from ((keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg)


def code_of(function: Any) -> CodeType | None:
    """The code of a function of Python; None of any other callable."""
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


@dataclass
class CallWatcher:
    """Hears of every call and return while the whole runs, and keeps the first that is wrong.

    inputs are what each stage is to be given, call by call, and earlier what it was given in the step before; that is
    empty where there was none.
    """

    codes: Mapping[CodeType, str]
    inputs: Inputs
    earlier: Inputs
    stepwise: Step
    selected: Tensor
    culprit: Culprit | None = None
    _callers: set[str] = field(default_factory=set)

    @property
    def uncalled(self) -> tuple[str, ...]:
        """The stages that are yet to be called, or called once more."""
        return tuple(name for name, waiting in self.inputs.items() if waiting)

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        """Take a call of a stage, or what a function between the stages returns once all of them have run."""
        if self.culprit is not None or event not in ("call", "return"):
            return
        name = self.codes.get(frame.f_code)
        if event == "call" and name and frame.f_back:
            self._callers.add(frame.f_back.f_code.co_filename)
            self._take_call(name, frame, frame.f_back)
        elif event == "return" and not name and not self.uncalled and frame.f_code.co_filename in self._callers:
            self._take_return(frame, value)

    def _take_call(self, name: str, frame: FrameType, caller: FrameType) -> None:
        waiting = self.inputs.get(name, [])
        if not waiting:
            return
        number = min(range(len(waiting)), key=lambda at: len(list(_differences(waiting[at], frame.f_locals))))
        given, earlier = waiting.pop(number), self.earlier[name].pop(number) if self.earlier else {}
        for argument, index in _differences(given, frame.f_locals):
            is_now, was = frame.f_locals[argument], given[argument]
            words = f"{caller.f_code.co_name} calls {name} with another {argument} than the stages before it leave"
            if index is None:
                words = f"{words}: {_form(is_now)} instead of {_form(was)}."
            else:
                at = f"{argument}{list(index)}"
                words = f"{words}: {at} is {describe.text(is_now[index])}, must be {describe.text(was[index])}"
                words += f", and was {describe.text(earlier[argument][index])} in the step before." if earlier else "."
            self.culprit = _culprit(caller, words)
            return

    def _take_return(self, frame: FrameType, value: Any) -> None:
        if not isinstance(value, Tensor) or value.shape[1:] != self.selected.shape[1:]:
            return
        rows = (self.stepwise.decode_rows, self.stepwise.prefill_rows, slice(0, len(self.selected)))
        if not any(torch.equal(value, self.selected[own]) for own in rows):
            words = f"The stages are called with what they should be; {frame.f_code.co_name} returns what is wrong."
            self.culprit = _culprit(frame, words)


def _differences(given: Mapping[str, Tensor], seen: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """The arguments that are others, with their first element that is; without one where the form differs."""
    for name, was in given.items():
        is_now = seen.get(name)
        if not isinstance(is_now, Tensor):
            continue
        if is_now.shape != was.shape or is_now.dtype != was.dtype:
            yield name, None
        elif not torch.equal(describe.bits(is_now), describe.bits(was)):
            yield name, describe.first(describe.bits(is_now) != describe.bits(was))


def _culprit(frame: FrameType, words: str) -> Culprit:
    """The statement that a frame is at, with what the names on it hold there."""
    file, line = frame.f_code.co_filename, frame.f_lineno
    statement = statement_at(file, line)
    if statement is None:
        return Culprit(location_from_here(f"{file}:{line}"), linecache.getline(file, line).strip(), words, ())
    read = [node for expression in statement.expressions for node in ast.walk(expression)]
    held = {
        ast.unparse(node): _held(node, frame.f_locals) for node in read if isinstance(node, ast.Name | ast.Attribute)
    }
    values = tuple((name, text) for name, value in held.items() if (text := _value(value)))
    return Culprit(location_from_here(f"{file}:{statement.line}"), statement.text, words, values)


def _held(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What a name, or a field of what a name holds, is; None of all else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(names.get(node.value.id), node.attr, None)
    return None


def _value(held: Any) -> str:
    if isinstance(held, Tensor):
        is_short = 0 < held.numel() <= SHOWN and held.dtype.itemsize > 1
        return str(held.tolist()) if is_short else _form(held)
    return repr(held) if isinstance(held, bool | int | float | str | slice) else ""


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
