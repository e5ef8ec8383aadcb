"""What a stage of the indexer is: one object, of a class in one file, that holds everything that is true of it.

Every stage function, that of an implementation and that of the reference, takes the tensors and options of a `Call` by
keyword.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.checks.shape import check_shape
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.implementations.base import MalformedResultError
from indexfuzz.samples.step import Step
from indexfuzz.stages.nonfinite import may_be_nonfinite, replace_where
from indexfuzz.stages.verdict import Verdict

Tensors = Mapping[str, Tensor]
"""Tensors by the names of arguments or outputs."""

Agreement = Literal["bits", "bounds", "candidates"]
"""How closely two results must agree.

"bits": the same bits. "bounds": logits may differ as far as two legal evaluations can, all else has the same bits.
"candidates": values may differ where each is a legal rounding.
"""

Shown = Literal["cache", "logits", "selection", "values"]
"""How an output is drawn: whose bytes lie where in the cache, logits and their bounds, what was chosen, or elements."""

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype."""


@dataclass(frozen=True)
class Call:
    """The arguments of one stage.

    `fills` maps arguments that the stage may write to the buffers they lie in, `returns` names the tensors that it
    returns. `undefined` are the arguments that hold nothing before.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    fills: dict[str, str] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    undefined: frozenset[str] = frozenset()

    def run(self, function: Callable[..., Any]) -> dict[str, Tensor]:
        """Call a stage function; its outputs by name.

        Raises MalformedResultError when it does not return as many tensors as the stage has results.
        """
        result = function(**self.tensors, **self.options)
        outputs = {name: self.tensors[name] for name in self.fills}
        if not self.returns:
            return outputs
        results: Sequence[Any] = result if isinstance(result, tuple | list) else (result,)
        if len(results) != len(self.returns) or not all(isinstance(r, Tensor) for r in results):
            kinds = ", ".join(type(r).__name__ for r in results)
            raise MalformedResultError(f"returned ({kinds}) instead of the tensors ({', '.join(self.returns)})")
        return outputs | dict(zip(self.returns, results, strict=True))

    @property
    def results(self) -> tuple[str, ...]:
        """The outputs that count: those returned, or else those filled."""
        return self.returns or tuple(self.fills)

    def not_in_place(self, outputs: Tensors) -> list[str]:
        """The returned tensors that the arguments of their names, to be changed in place, do not hold."""
        both = [name for name in self.returns if name in self.fills]
        return [name for name in both if not memory.same(self.tensors[name], outputs[name])]

    def copy(self) -> "Call":
        """The same call on copies of what the stage may write, dense."""
        return self.with_tensors({name: self.tensors[name].clone() for name in self.fills})

    def with_tensors(self, tensors: Tensors) -> "Call":
        """The same call with other tensors for some of its arguments."""
        return replace(self, tensors={**self.tensors, **tensors})


@dataclass(frozen=True)
class Reach:
    """How far NaN and infinities in the inputs of a call reach.

    `masks` says of each output, bool of its shape, which elements they may change; an output without a mask is out of
    their reach. `finite` holds the inputs that have some, with numbers in their place.
    """

    masks: Tensors
    finite: Tensors


class Output(NamedTuple):
    """An output by the name that signatures give it, and what its axes are called."""

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Workload:
    """What benchmarks launch of a stage: sizes, and from each of them a case."""

    sizes: tuple[tuple[int, ...], ...]
    case: Callable[..., Case]


class Stage(ABC):
    """One step of the indexer."""

    name: str
    outputs: tuple[Output, ...]
    """What findings may be about."""
    row_inputs: tuple[str, ...]
    """The tensors with a row for each token or query, if no row has to do with another and every output has these
    rows, too. Empty where rows share something."""
    sources: tuple[str, ...]
    """The files in kernels/, without suffix, whose mistakes a test of this stage shows."""
    reference: Callable[..., Any]
    """The stage function that is right. It raises ValueError where no result is defined."""
    agreement: Agreement = "bits"
    """How closely two right results agree at least; see `are_both_legal`."""
    workload: Workload | None = None
    shown: Shown = "values"

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """What the axes of each output are called."""
        return {output.name: output.axes for output in self.outputs}

    @abstractmethod
    def applies(self, case: Case) -> bool:
        """Whether the stage has something to do in a case."""

    @abstractmethod
    def tensors(self, step: Step) -> dict[str, Tensor]:
        """The tensors of a step that the stage takes, poisoned buffers for what it fills included."""

    @abstractmethod
    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        """The call of the stage on such tensors, with the options that a case asks for."""

    @abstractmethod
    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """What is wrong with outputs of the right form. The inputs are as they were before, and they are numbers.

        Raises ValueError where no result is defined.
        """

    @abstractmethod
    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """How far NaN and infinities reach. With ``hides_nan`` a dot product with a NaN is 0 and reaches nothing."""

    def prepare(self, step: Step) -> Call:
        """The call of the stage on the tensors of a step."""
        return self.call(step.case, self.tensors(step))

    def name_node(self, found: Finding) -> Finding:
        """What a device saw of a launch, with the node to blame where the stage has several."""
        return found

    def forms(self, given: Call) -> dict[str, Form]:
        """Shape and dtype of what the stage returns. What it fills has the right form as it is given."""
        return {}

    def determined(self, given: Call, promises: Promises) -> dict[str, Tensor]:
        """Masks over the outputs that are not determined everywhere, bool of their shapes.

        Where a mask is False anything may be, even something else from launch to launch.
        """
        return {}

    def define(self, step: Step, call: Call) -> None:
        """Note in a step which bytes of the cache the stage has written; by default none."""

    def blank(self, call: Call) -> None:
        """Put zeros where the stage would put its results, for a case in which none is defined."""
        for argument in call.undefined:
            call.tensors[argument].zero_()

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """The tensor that an element of an output lies in, and its first byte there; None where there is no such."""
        tensor = got.get(output, call.tensors.get(output))
        if tensor is None or len(index) != tensor.dim():
            return None
        steps = sum(at * stride for at, stride in zip(index, tensor.stride(), strict=True))
        return tensor, steps * tensor.element_size()

    def elements(self, call: Call, tensors: Tensors, output: str) -> Tensor | None:
        """An output by its axes, among the results of a call or among what it was given; None where there is none."""
        return tensors.get(output)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the cache that a call may write, bool of its shape; None of a stage that leaves it alone."""
        return None

    def comparable(self, given: Call, outputs: Tensors) -> Tensors:
        """Outputs in a form in which two right results agree."""
        return outputs

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        """Where two results of an output may differ by the stage's `agreement`, bool of their shape."""
        return torch.zeros_like(one, dtype=torch.bool)

    def check_nonfinite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Finding | None:
        """What NaN and infinities have become that Triton's operators on a GPU would not make of them."""
        return None

    def judge(self, case: Case, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """What is wrong with the outputs of a stage, from the inputs that it was given.

        What NaN and infinities do not reach is judged as ever, as if numbers stood in their place. What they reach is
        judged where the implementation promises Triton's rules, else left alone.

        Raises ValueError where no result is defined.
        """
        wrong = [check_shape(name, got[name], *form) for name, form in self.forms(given).items()]
        if any(wrong):
            return Verdict.of(*wrong)
        if not may_be_nonfinite(case):
            return self.judge_finite(given, got, guarantees)
        follows = guarantees.promises.nonfinite == "triton"
        reach = self.nonfinite_reach(given, hides_nan=follows)
        finite = given.with_tensors(reach.finite)
        want = finite.copy().run(self.reference)
        judged = {name: replace_where(reach.masks.get(name), want[name], tensor) for name, tensor in got.items()}
        # The reference's dots, which are exact, are no matrix unit's bits.
        found = self.judge_finite(finite, judged, replace(guarantees, simulated_dot=None))
        broken = self.check_nonfinite(given, got, guarantees) if follows and not found.findings else None
        return replace(found, findings=(broken,)) if broken else found
