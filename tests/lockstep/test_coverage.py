"""Mask coverage."""

from pathlib import Path

import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Coverage, Lockstep
from indexfuzz.lockstep.tracking.coverage import Operation


@triton.jit
def _kernel(x, out, n, BLOCK: tl.constexpr, DOUBLE: tl.constexpr = False):
    p = tl.program_id(0)
    i = p * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i, mask=i < n, other=0.0)  # load
    if p == 0:  # branch
        values = tl.where(values > 0, values, 0.0)  # where
    if DOUBLE:  # constexpr branch
        values *= 2
    for _ in range(n - 4):  # loop
        values += tl.sum(values, 0)
    for _ in range(2):  # constant loop
        values += 0
    first = tl.load(x + p, mask=p < n, other=0.0)  # one lane
    tl.store(out + i, values + first * 0)  # store


def _line(comment: str) -> int:
    text = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(text, 1) if line.endswith(f"  # {comment}"))


def _operation(coverage: Coverage, comment: str) -> Operation:
    (found,) = [o for o in coverage.operations() if o.line == _line(comment)]
    return found


def _launch(coverage: Coverage, programs: int, n: int, *, double: bool = False) -> None:
    with Lockstep(coverage=coverage):
        _kernel[(programs,)](torch.ones(8 * programs), torch.zeros(8 * programs), n, 8, double)


def test_coverage_accumulates_over_launches() -> None:
    coverage = Coverage()
    _launch(coverage, 1, 8)
    assert _operation(coverage, "load").states == {"all-true"}
    assert _operation(coverage, "branch").states == {"all-true"}
    _launch(coverage, 2, 4)
    assert _operation(coverage, "load").states == {"all-true", "mixed", "all-false"}
    assert _operation(coverage, "branch").states == {"all-true", "all-false"}
    assert _operation(coverage, "where").states == {"all-true", "mixed"}
    assert _operation(coverage, "store").states == {"unmasked"}
    assert _operation(coverage, "constant loop").states == {"unmasked"}


def test_masks_count_program_by_program() -> None:
    """One program all true and the other all false is no mixed mask, though both run at once."""
    coverage = Coverage()
    with Lockstep(coverage=coverage):
        _halves[(2,)](torch.zeros(16), 8)
    (store,) = coverage.operations()
    assert (store.states, store.missing) == ({"all-true", "all-false"}, "never mixed")


@triton.jit
def _halves(out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 1.0, mask=i < BLOCK)


def test_what_is_missing() -> None:
    coverage = Coverage()
    _launch(coverage, 1, 4)
    expected = {
        "load": "",  # mixed: some lane was true, and some false
        "branch": "never skipped",
        "where": "",
        "constexpr branch": "never taken",
        "loop": "never entered",
        "constant loop": "",
        "one lane": "never false",
        "store": "",
    }
    assert {comment: _operation(coverage, comment).missing for comment in expected} == expected
    _launch(coverage, 3, 16, double=True)
    _launch(coverage, 2, 1)
    assert [o.missing for o in coverage.operations() if o.missing] == []


def test_library_code_is_not_the_kernels() -> None:
    """tl.sort, tl.sum and their like branch and select inside; the line that calls them has no mask."""
    coverage = Coverage()
    with Lockstep(coverage=coverage):
        _sorted[(1,)](torch.zeros(8))
    assert {o.kind for o in coverage.operations()} == {"load", "store"}


@triton.jit
def _sorted(x):
    i = tl.arange(0, 8)
    tl.store(x + i, tl.sort(tl.load(x + i)) + tl.max(tl.load(x + i), 0))


def test_a_run_that_diverged_counts_once() -> None:
    coverage = Coverage()
    with Lockstep(coverage=coverage):
        _after_a_store[(2,)](torch.zeros(2), 1)
    assert _operation(coverage, "diverging").states == {"all-true", "all-false"}
    assert _operation(coverage, "before").states == {"all-true", "all-false"}


@triton.jit
def _after_a_store(out, limit):
    p = tl.program_id(0)
    tl.store(out + p, 1.0, mask=p < limit)  # before
    if p < limit:  # diverging
        tl.store(out + p, 2.0)


def test_report_and_listing() -> None:
    coverage = Coverage()
    _launch(coverage, 1, 5)
    assert coverage.files() == [__file__]
    head, *gaps = coverage.report().splitlines()
    assert head == "mask coverage: 4 of 8 operations were seen in every way"
    assert f"test_coverage.py:{_line('branch')}   branch   never skipped" in gaps[0]
    assert len(gaps) == 4
    listed = coverage.listing(__file__).splitlines()
    assert listed[0].startswith("          1 ")
    for comment, mark in (("store", "  U  "), ("load", "  --M"), ("branch", "! T--"), ("loop", "! T--")):
        assert listed[_line(comment) - 1].startswith(mark)
        assert listed[_line(comment) - 1].endswith(f"  # {comment}")
