"""Rotation of q and k by the Hadamard matrix, between RoPE and quantisation."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from indexfuzz.checks.interval import check_between
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import ROTATE
from indexfuzz.reference import rotate as reference
from indexfuzz.reference.intervals import Interval, hadamard, rounded
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Tensors
from indexfuzz.stages.nonfinite import has_nonfinite, numbers, spread
from indexfuzz.stages.operation import Mistakes, Operation
from indexfuzz.stages.verdict import Verdict, open_share

Turn = Callable[[Tensor], Interval]
"""Rows of x [..., D] -> what may become of them."""


class Rotate(Operation):
    """Returns q [T,H,D] and k [T,D], each row turned by the Hadamard matrix over sqrt(D)."""

    name = stage_names.ROTATE
    outputs = (Output("q", ("token", "head", "dim")), Output("k", ("token", "dim")))
    row_inputs = ("q", "k")
    sources = ("rotate",)
    reference = staticmethod(reference.rotate)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {name: step.tensors[name] for name in ("q", "k")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(tensors, returns=("q", "k"))

    def forms(self, given: Call) -> dict[str, Form]:
        return {name: (tuple(given.tensors[name].shape), given.tensors[name].dtype) for name in given.returns}

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        turns: dict[str, Turn] = instead.get("turns", {})
        legal = {name: turns.get(name, reference.legal_rotated)(given.tensors[name]) for name in given.returns}
        found = [
            check_between(name, got[name], *x, axes=self.axes[name], before=poison_like(got[name]))
            for name, x in legal.items()
        ]
        return Verdict(tuple(f for f in found if f), width=open_share(*legal.values()))

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """Rows that are left as they are, or turned by another matrix."""
        turns: dict[str, Turn] = {
            "nothing is rotated": Interval.exact,
            "the factor 1/sqrt(D) is left out": _unscaled,
            "the factor is 1/D": _scaled_twice,
            "the halves of a row are turned apart from each other": _halves,
        }
        of_one = {f"{name} is not rotated": {name: Interval.exact} for name in given.returns}
        of_both = {words: dict.fromkeys(given.returns, turn) for words, turn in turns.items()}
        return {words: (ROTATE, {"turns": instead}) for words, instead in (of_both | of_one).items()}

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        return ROTATE

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """A row for itself."""
        rows = {name: given.tensors[name] for name in given.returns}
        masks = {name: spread(has_nonfinite(x), x) for name, x in rows.items()}
        return Reach(masks, {name: numbers(x) for name, x in rows.items()})


def _scaled(x: Tensor, factor: float) -> Interval:
    low, high = hadamard(Interval.exact(x))
    return rounded(Interval(low * factor, high * factor), "bf16", x.dtype)


def _unscaled(x: Tensor) -> Interval:
    return _scaled(x, x.shape[-1] ** 0.5)


def _scaled_twice(x: Tensor) -> Interval:
    return _scaled(x, x.shape[-1] ** -0.5)


def _halves(x: Tensor) -> Interval:
    """Both halves of each row turned by the matrix of their own size, over the factor of the whole."""
    halves = hadamard(Interval.exact(x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)))
    return rounded(Interval(*(end.flatten(-2) * 0.5**0.5 for end in halves)), "bf16", x.dtype)
