"""Mask coverage and features that are missing."""

from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Coverage, Lockstep, UnsupportedFeature


@triton.jit
def _kernel(x, out, n, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    i = p * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i, mask=i < n, other=0.0)  # load
    if p == 0:  # branch
        values = tl.where(values > 0, values, 0.0)  # where
    tl.store(out + i, values)  # store


def _line(comment: str) -> int:
    text = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(text, 1) if line.endswith(f"# {comment}"))


def _states(coverage: Coverage, kind: str) -> set[str]:
    found = [states for (_, line, name), states in coverage.seen.items() if (line, name) == (_line(kind), kind)]
    return found[0] if found else set()


def test_coverage_accumulates_over_launches() -> None:
    coverage = Coverage()
    with Lockstep(coverage=coverage):
        _kernel[(1,)](torch.ones(8), torch.zeros(8), 8, 8)
        assert _states(coverage, "load") == {"all-true"}
        assert _states(coverage, "branch") == {"all-true"}
        _kernel[(2,)](torch.ones(16), torch.zeros(16), 4, 8)
    assert _states(coverage, "load") == {"all-true", "mixed", "all-false"}
    assert _states(coverage, "branch") == {"all-true", "all-false"}
    assert _states(coverage, "where") == {"all-true", "mixed"}
    assert _states(coverage, "store") == {"all-true"}


def test_coverage_report_and_listing() -> None:
    coverage = Coverage()
    with Lockstep(coverage=coverage):
        _kernel[(1,)](torch.ones(8), torch.zeros(8), 5, 8)
    assert f"{__file__}:{_line('load')}: load: mixed" in coverage.report()
    listed = coverage.listing(__file__).splitlines()[_line("store") - 1]
    assert listed.startswith("T--")
    assert listed.endswith("# store")
    assert coverage.listing(__file__).splitlines()[0].startswith("        1 ")


@triton.jit
def _inline_assembly(x):
    tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tl.load(x)], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _scaled_dot(x, s, out):
    i = tl.arange(0, 32)
    a = tl.load(x + i[:, None] * 32 + i[None, :])
    scale = tl.load(s + i[:, None] + tl.arange(0, 1)[None, :])
    tl.store(out + i[:, None] * 32 + i[None, :], tl.dot_scaled(a, scale, "e4m3", a, scale, "e4m3"))


@triton.jit
def _breaks(x):
    for i in range(4):
        if i == 2:
            break


@triton.jit
def _item_assignment(x):
    values = (1, 2)
    values[0] = 3


@triton.jit
def _pointers_of_two_tensors(x, y, out):
    tl.store(out, tl.load(tl.where(tl.program_id(0) == 0, x, y)))


@pytest.mark.parametrize(
    ("kernel", "arguments", "feature"),
    [
        (_inline_assembly, (torch.zeros(1, dtype=torch.int32),), "inline_asm"),
        (
            _scaled_dot,
            (torch.zeros(1024).to(torch.float8_e4m3fn), torch.zeros(32, dtype=torch.uint8), torch.zeros(1024)),
            "dot_scaled",
        ),
        (_breaks, (torch.zeros(1),), "`Break`"),
        (_item_assignment, (torch.zeros(1),), "assignment to something other than a name"),
        (_pointers_of_two_tensors, (torch.zeros(1), torch.zeros(1), torch.zeros(1)), "different tensors"),
    ],
    ids=lambda value: getattr(getattr(value, "fn", None), "__name__", None),
)
def test_a_missing_feature_names_itself_and_its_line(
    kernel: triton.runtime.jit.JITFunction, arguments: tuple[torch.Tensor, ...], feature: str
) -> None:
    with Lockstep(), pytest.raises(UnsupportedFeature, match=rf"test_coverage\.py:\d+: .*{feature}"):
        kernel[(1,)](*arguments)
