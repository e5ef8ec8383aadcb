"""Guarantees: what a judge may hold an implementation on a device to."""

from dataclasses import dataclass, field, replace
from typing import Literal

from indexfuzz.reference.arithmetic import PORTABLE, Arithmetic
from indexfuzz.reference.bounds import Dot
from indexfuzz.reference.fp8 import AMAX_FLOOR

Padding = Literal["zeros", "untouched", "undefined"]
Hidden = Literal["minus-infinity", "untouched"]
NonFinite = Literal["contained", "triton"]
Between = Literal["bf16", "fp32", "unknown"]
Products = Literal["bf16", "fp32", "unknown"]


@dataclass(frozen=True)
class Promises:
    """What a project promises where the stages leave a choice.

    `gather_padding`: what gathered rows beyond the last sequence hold. `hidden_logits`: what logits outside a row's
    window hold. `nonfinite`: what becomes of NaN and infinities: anything that stays where they are, or what Triton's
    operators make of them on a GPU (fuzz/stages/nonfinite.py). `dot_rows`: the rows of the tl.dot of every
    logits kernel, where each scores a whole head_dim by one tl.dot and nothing else: on a known matrix unit its bits
    are known.
    `batch_invariant`: whether a row's bits are the same wherever it stands in the batch, as those of a kernel are; a
    library's matrix product does not promise it. `score_rounding`: the relative error of storing q . k before ReLU and
    weights, 2**-8 where that is in bf16.
    `rope_in_place`: whether RoPE in place changes the q and k it is given, or it is what it returns that counts.
    `rope_compiled`: whether RoPE has the mode "compiled", PyTorch operations under torch.compile.
    `sorted_topk`: whether a row selects its largest logit first; equal ones may come in any order.
    `ordered_selection`: whether selected slots keep the order of their positions, or come in any.
    `between`: what an operation of several nodes makes of a value between two of them: stored in bf16, or in
    the dtype of q and k where they have another; kept in fp32; or either of the two. `rotated`: what it makes of that
    behind RoPE or the Hadamard matrix, where it is something else.
    `rope_products`: what RoPE rounds its products and sums to, where the table of angles is bf16: fp32, contracted or
    not, or bf16, each by itself; or either of the two.
    `amax_floor`: the smallest amax that a scale is made of. `fnuz_largest`: what an operation of several nodes scales a
    row of e4m3fnuz to, where that is not 224.
    `reciprocal`: whether a value is multiplied by 1 / s where others divide it by its scale s.
    `wide_dots`: forms of the scales of keys ("fp32", "ue8m0", "mxfp4") in which logits kernels make FP8 wider before
    they multiply it; in others the operands of tl.dot must be FP8, and stay so in what a kernel is compiled to.
    """

    gather_padding: Padding = "zeros"
    hidden_logits: Hidden = "minus-infinity"
    nonfinite: NonFinite = "contained"
    dot_rows: int | None = None
    batch_invariant: bool = True
    score_rounding: float = 0.0
    rope_in_place: bool = False
    rope_compiled: bool = False
    sorted_topk: bool = False
    ordered_selection: bool = False
    between: Between = "unknown"
    rotated: Between | None = None
    rope_products: Products = "fp32"
    amax_floor: float = AMAX_FLOOR
    fnuz_largest: float | None = None
    reciprocal: bool = False
    wide_dots: tuple[str, ...] = ()

    @property
    def after_rotation(self) -> Between:
        """What an operation of several nodes makes of a value that RoPE or the Hadamard matrix has turned."""
        return self.rotated or self.between


@dataclass(frozen=True)
class Guarantees:
    """A device's arithmetic, and a project's promises. With a `simulated_dot` the bits of q . k are known."""

    promises: Promises = field(default_factory=Promises)
    arithmetic: Arithmetic = PORTABLE
    simulated_dot: Dot | None = None

    @property
    def quantising(self) -> Arithmetic:
        """The arithmetic of scales and codes: the device's, and how the project makes them.

        A reciprocal has the error of a division, and the product with it one rounding more.
        """
        promises, own = self.promises, self.arithmetic
        made = replace(own, amax_floor=promises.amax_floor)
        if promises.reciprocal and own.division == "ieee":
            return replace(made, division="reciprocal")
        return replace(made, division="unknown") if promises.reciprocal and own.division == "full" else made

    def quantising_in(self, fp8: str) -> Arithmetic:
        """The same for rows of an FP8 format that an operation of several nodes makes."""
        return replace(self.quantising, largest=self.promises.fnuz_largest if fp8 == "e4m3fnuz" else None)

    @property
    def scoring(self) -> Arithmetic:
        """The arithmetic of logits: the device's, and what the project does to scores."""
        return replace(self.arithmetic, score_rounding=self.promises.score_rounding)
