"""What record_stages.py and test_against_hardware.py share: cases, runs of the built-in kernels, and their comparison.

A run gives the raw outputs of each stage, uint8 for FP8 and the cache, fp32 otherwise, under "stage/output". The other
side of a comparison gets the run's outputs as inputs of the later stages, so that each stage is compared on its own.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.devices.simulated_dot import simulated_dot
from indexfuzz.generation.strategies import Budget, cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.kernels import mqa_logits, paged_mqa_logits
from indexfuzz.lockstep import Lockstep
from indexfuzz.oracles.walk import accept
from indexfuzz.reference import bounds, rope
from indexfuzz.reference.arithmetic import DOT_UNITS, Arithmetic
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import STAGES

Outputs = dict[str, Tensor]

COMPARED: Final = ("q_quant", "k_quant_cache", "gather", "prefill_logits", "paged_logits")
KERNELS: Final = {
    "prefill_logits": mqa_logits._mqa_logits_kernel,
    "paged_logits": paged_mqa_logits._paged_mqa_logits_kernel,
}
M_TILES: Final = {"wgmma": 64, "mma": 32}
"""For each instruction, rows of a tile from which the sm90 model concludes that it is used."""

UNITS: Final = {"wgmma": DOT_UNITS["sm90-qgmma"], "mma": DOT_UNITS["sm90-hmma"]}
MEDIUM: Final = Budget(scores=1 << 16, activations=1 << 16, length=300, cached=1 << 17)
SMALL: Final = Budget(scores=1 << 12, activations=1 << 15, length=40, cached=1 << 14)
LARGEST_PAGE_PAD: Final = 1 << 16
"""Gigabytes between rows or pages have no part in this: several processes share the memory of a GPU."""


def drawn_cases(number: int, count: int, budget: Budget) -> list[Case]:
    """Draw about `count` cases from the strategies, seeded by `number`: UE8M0 scales, e4m3fn, within contract."""
    found: dict[str, Case] = {}

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(budget=budget))
    def draw(case: Case) -> None:
        case = case.replace(
            model={"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": case.model.head_dim},
            cache={"page_pad": min(case.cache.page_pad, LARGEST_PAGE_PAD)},
            memory={"far": "none"},
        )
        if not any(builtin().contract.outside(stage, case) for stage in COMPARED):
            found[case.id] = case

    draw()
    return list(found.values())


def stages_of(case: Case) -> list[Stage]:
    """The stages to compare that a case has."""
    return [stage for stage in STAGES if stage.name in COMPARED and stage.applies(case)]


def rotated_step(case: Case, device: str) -> Step:
    """The inputs of a case on a device; q and k rotated by the reference, on the CPU."""
    step = materialise(case)
    rotated = rope.rope(
        *(step.tensors[name] for name in ("q", "k", "positions", "cos_sin_cache")),
        rope_dim=case.model.rope_dim,
        style=case.rope.style,
        placement=case.rope.placement,
    )
    if device != "cpu":
        step = materialise(case, device)
    for name, value in zip(("q", "k"), rotated, strict=True):
        step.tensors[name].copy_(value)
        step.buffers[name].seal()
    return step


def digest(case: Case) -> str:
    """A hash of everything that the stages of a case read."""
    whole = hashlib.sha256()
    for name, tensor in sorted(rotated_step(case, "cpu").tensors.items()):
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        whole.update(
            tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return whole.hexdigest()[:16]


class Gpu:
    """The CUDA device; notes the PTX of the logits kernels."""

    torch_device = "cuda"

    @contextmanager
    def session(self, stage: str, ptx: list[str]) -> Iterator[None]:
        """Run kernels, and append the PTX of those of a logits stage."""
        kernel = KERNELS.get(stage)
        if kernel is not None:
            plain = kernel.run

            def run(*args: Any, **kwargs: Any) -> Any:
                compiled = plain(*args, **kwargs)
                ptx.append(compiled.asm["ptx"])
                return compiled

            kernel.run = run
        try:
            yield
            torch.cuda.synchronize()
        finally:
            if kernel is not None:
                del kernel.run


class Simulated:
    """Lockstep with the sm90 model, in place of a GPU."""

    torch_device = "cpu"

    @contextmanager
    def session(self, stage: str, ptx: list[str]) -> Iterator[None]:
        """Run kernels; their dots are of 64 rows."""
        with Lockstep(dot="sm90"):
            yield
        if stage in KERNELS:
            ptx.append("wgmma.mma_async")


def run(case: Case, machine: Gpu | Simulated) -> tuple[Outputs, dict[str, str]]:
    """Run the stages of a case: their raw outputs, and the matrix instruction of each logits stage."""
    step = rotated_step(case, machine.torch_device)
    outputs: Outputs = {}
    instructions: dict[str, str] = {}
    for stage in stages_of(case):
        call = stage.prepare(step)
        ptx: list[str] = []
        with machine.session(stage.name, ptx):
            got = call.run(builtin().stages[stage.name])
        if ptx:
            instructions[stage.name] = instruction(ptx)
        outputs |= {f"{stage.name}/{name}": raw(tensor) for name, tensor in got.items()}
        accept(stage, step, call, got)
    return outputs, instructions


def instruction(ptx: list[str]) -> str:
    """The matrix instruction that all launches of a stage use: "wgmma" or "mma"."""
    found = {"wgmma" if "wgmma.mma_async" in p else "mma" if "mma.sync" in p else "none" for p in ptx}
    if len(found) != 1 or not found <= M_TILES.keys():
        raise ValueError(f"a logits kernel uses {found} for its dot, which no model covers")
    return found.pop()


def raw(tensor: Tensor) -> Tensor:
    """A dense copy on the CPU, FP8 as uint8."""
    dense = tensor.contiguous().cpu()
    return dense.view(torch.uint8) if dense.element_size() == 1 else dense.clone()


@dataclass(frozen=True)
class Comparison:
    """One output of a stage.

    `exact` elements, and logits that are `hidden` from their row, have only one right value: `different` of them have
    other bits. The `bounded` logits are compared with what the simulated matrix unit allows; `ratio` is the largest
    error as a share of its bound.
    """

    stage: str
    output: str
    exact: int
    different: int
    hidden: int = 0
    bounded: int = 0
    ratio: float = 0.0
    first: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.different == 0 and self.ratio <= 1


@dataclass
class Comparisons:
    """The comparisons of one case."""

    case: Case
    found: list[Comparison] = field(default_factory=list)

    @property
    def wrong(self) -> list[Comparison]:
        """Those that are not clean."""
        return [c for c in self.found if not c.is_clean]


def compare(case: Case, recorded: Mapping[str, Tensor], instructions: Mapping[str, str]) -> Comparisons:
    """Compare recorded outputs with the same kernels in lockstep, whose dots are exact and rounded once."""
    step = rotated_step(case, "cpu")
    result = Comparisons(case)
    for stage in stages_of(case):
        call = stage.prepare(step)
        given = call.copy()
        with Lockstep(dot="ieee") as machine:
            got = call.run(builtin().stages[stage.name])
        if machine.violations:
            raise ValueError(f"{stage.name}: {machine.violations[0]}")
        want = {name: recorded[f"{stage.name}/{name}"] for name in got}
        for name, tensor in got.items():
            result.found.append(_compared(case, stage, given, instructions, name, raw(tensor), want[name]))
            tensor.copy_(want[name].view(tensor.dtype))
        accept(stage, step, call, got)
    return result


def _compared(
    case: Case, stage: Stage, given: Call, instructions: Mapping[str, str], name: str, got: Tensor, want: Tensor
) -> Comparison:
    """Compare what lockstep got with what the hardware gave."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise ValueError(f"{stage.name}/{name} was recorded as {want.dtype} {list(want.shape)}")
    exact = torch.ones(got.shape, dtype=torch.bool)
    hidden, bounded, shares = torch.zeros_like(exact), torch.zeros_like(exact), torch.zeros(got.shape)
    if stage.name in KERNELS:
        limits = _limits(case, stage, given, instructions[stage.name])
        hidden, exact = ~limits.visible, limits.visible & (limits.bound == 0)
        bounded = limits.visible & ~exact & torch.isfinite(limits.bound)
        error = (want.double() - limits.reference).abs().nan_to_num(nan=float("inf"))
        shares = torch.where(bounded, error / limits.bound, 0.0)
    different = (exact | hidden) & (_bits(got) != _bits(want)) & ~_once_rounded(name, got, want)
    wrong = (different | (shares > 1)).nonzero().tolist()
    first = f"{wrong[0]}: {want[tuple(wrong[0])].item()!r}, lockstep {got[tuple(wrong[0])].item()!r}" if wrong else ""
    ratio = float(shares.max()) if shares.numel() else 0.0
    counts = (int(mask.sum()) for mask in (exact, different, hidden, bounded))
    return Comparison(stage.name, name, *counts, ratio, first)


def _bits(tensor: Tensor) -> Tensor:
    """The bits that an output has to have."""
    return tensor if tensor.dtype == torch.uint8 else tensor.view(torch.int32)


def _once_rounded(name: str, got: Tensor, want: Tensor) -> Tensor:
    """Where a product overflows in between in lockstep, and not on the card: compiled, it may be rounded only once."""
    if name != "q_weights":
        return torch.zeros(got.shape, dtype=torch.bool)
    return torch.isinf(got) & torch.isfinite(want) & (got.sign() == want.sign())


def _limits(case: Case, stage: Stage, given: Call, instruction: str) -> bounds.LogitBounds:
    """What the logits may be, given the bits of every dot."""
    unit: dict[str, Any] = {
        "arithmetic": Arithmetic(UNITS[instruction]),
        "simulated_dot": simulated_dot("sm90", M_TILES[instruction]),
    }
    t = given.tensors
    if stage.name == "prefill_logits":
        names = ("q_fp8", "k_fp8", "k_scale", "weights", "ks", "ke")
        return bounds.prefill_bounds(*(t[name] for name in names), **unit)
    names = ("q_fp8", "cache", "weights", "context_lens", "block_table")
    layout = case.cache.layout
    return bounds.paged_bounds(*(t[name] for name in names), case.batch.max_model_len, layout=layout, **unit)
