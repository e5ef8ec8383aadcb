"""Offsets that are kept as sums of rows and columns give and report what listed offsets do."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.language.helpers import RUNTIME
from indexfuzz.lockstep.tracking import access
from indexfuzz.lockstep.tracking.coverage import Coverage
from indexfuzz.lockstep.values import sums
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import I32
from indexfuzz.lockstep.values.value import Value

PROGRAMS, ROWS, COLUMNS = 3, 8, 64


@triton.jit
def _copies(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    tl.store(out + i * stride + j * step, tl.load(x + (i * stride + j * step)) + 1)


@triton.jit
def _copies_some(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    mask = (i < rows)[:, None] & (j < columns)[None, :]
    place = (i * stride)[:, None] + (j * step)[None, :]
    tl.store(out + place, tl.load(x + place, mask=mask, other=7), mask=mask)


@triton.jit
def _copies_rows(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    place = i.to(tl.int64) * stride - (0 - j) * step
    tl.store(out + place, tl.load(x + place, mask=i < rows), mask=i < rows)


@triton.jit
def _copies_lines(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    line = tl.program_id(0) * (ROWS * stride) + tl.arange(0, COLUMNS) * step
    place = line.to(tl.int64)[None, :] + tl.arange(0, ROWS)[:, None] * stride
    tl.store(out + place, tl.load(x + place))


@triton.jit
def _copies_columns(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    inside = (j >= 3) & (j < columns)
    tl.store(out + i * stride + j * step, tl.load(x + j * step + i * stride, mask=inside, other=0), mask=inside)


@triton.jit
def _copies_by_table(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row = tl.load(table + i, mask=i < rows, other=0).to(tl.int64)
    place = (row * stride)[:, None] + j[None, :]
    tl.store(out + i[:, None] * stride + j[None, :], tl.load(x + place, mask=(i < rows)[:, None]), i[:, None] < rows)


@triton.jit
def _transposes(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :], tl.arange(0, COLUMNS)[:, None]
    value = tl.load(x + (i * stride + j * step), mask=(i < rows) & (j < columns), other=0)
    tl.store(out + i + j * (ROWS * 4), value)


@triton.jit
def _compares(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    place = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None] * stride + tl.arange(0, COLUMNS)[None, :]
    value = tl.where((place < 2**20) & (place != 70), tl.load(x + place, mask=place >= 0), 9)
    tl.store(out + place, value, mask=(place < rows * stride) & (place > -5))


@triton.jit
def _overflows(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    far = (i + j) * 2**26
    place = far - far + i * stride + j * step
    tl.store(out + place, tl.load(x + i * stride + j * step) + far.to(tl.int64) // 2**26)


@triton.jit
def _counts(x, out, table, rows, columns, stride, step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    tl.atomic_add(out + i * stride + j * step, 1, mask=(i < rows) & (j < columns))


KERNELS = [
    _copies,
    _copies_some,
    _copies_rows,
    _copies_lines,
    _copies_columns,
    _copies_by_table,
    _transposes,
    _compares,
    _overflows,
    _counts,
]
LAYOUTS = {
    "apart": (24, 64, 80, 1, 3000),
    "some": (19, 50, 80, 1, 3000),
    "touching": (24, 64, 64, 1, 24 * 64),
    "overlapping": (24, 64, 40, 1, 3000),
    "columns apart": (24, 61, 200, 3, 6000),
    "columns first": (24, 64, 1, 24, 3000),
    "one place": (24, 64, 0, 0, 3000),
    "beyond the end": (24, 60, 80, 1, 1200),
    "none": (0, 0, 80, 1, 3000),
}


def _run(kernel, layout, dtype, worth, monkeypatch, **options):
    monkeypatch.setattr(sums, "WORTH", worth)
    monkeypatch.setattr(access, "_MANY", worth)
    rows, columns, stride, step, size = LAYOUTS[layout]
    random = torch.Generator().manual_seed(5)
    x = torch.randint(-50, 50, (size,), generator=random).to(dtype)
    out = torch.full((size,), 3, dtype=dtype)
    table = torch.randperm(PROGRAMS * ROWS, generator=random)
    with Lockstep(**options) as machine:
        kernel[(PROGRAMS,)](x, out, table, rows, columns, stride, step, ROWS=ROWS, COLUMNS=COLUMNS)
    return out.view(torch.uint8), machine


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fn.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_sums_change_nothing(kernel, layout, dtype, monkeypatch):
    if kernel is _counts and dtype is torch.int8:
        dtype = torch.int32
    kept, machine = _run(kernel, layout, dtype, 1 << 6, monkeypatch)
    listed, plain = _run(kernel, layout, dtype, 1 << 40, monkeypatch)
    assert torch.equal(kept, listed)
    assert machine.violations == plain.violations


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fn.__name__)
def test_sums_change_no_coverage(kernel, monkeypatch):
    reports = []
    for worth in (1 << 6, 1 << 40):
        coverage = Coverage()
        _run(kernel, "some", torch.float32, worth, monkeypatch, coverage=coverage)
        reports.append(coverage.report())
    assert reports[0] == reports[1]


@pytest.mark.parametrize("kernel", [_copies, _copies_rows, _copies_lines, _copies_columns, _copies_by_table])
def test_rows_are_never_listed(kernel, monkeypatch):
    """The tests above compare two ways; this is the proof that there are two."""

    def refuse(terms, dtype):
        raise AssertionError(f"a sum of {len(terms)} terms was listed")

    monkeypatch.setattr("indexfuzz.lockstep.values.value.list_sum", refuse)
    monkeypatch.setattr(RUNTIME.recordings, "known", {})
    for _ in ("as each operation is recorded", "from the recordings"):
        _run(kernel, "apart", torch.float32, 1 << 6, monkeypatch, checkers=("bounds", "overflow", "undefined"))


def _terms(*shapes: tuple[int, ...]) -> list[Array]:
    return [np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) * 7 + 3 for shape in shapes]


def test_terms_along_the_same_axes_are_added_at_once(monkeypatch):
    monkeypatch.setattr(sums, "WORTH", 16)
    row, rows, column = _terms((4, 1, 1), (4, 8, 1), (1, 1, 16))
    made = sums.add_terms([row], [column])
    assert made is not None
    more = sums.add_terms(made, [rows], -2)
    assert more is not None
    assert [term.shape for term in more] == [(4, 8, 1), (1, 1, 16)]
    assert np.array_equal(sums.list_sum(more, np.int64), row + column - 2 * rows)
    assert sums.add_terms(more, _terms((4, 8, 16))) is None


def test_a_sum_that_wraps_on_the_way_is_right():
    far = np.full((4, 1), 1 << 40, np.int64)
    near = np.arange(8, dtype=np.int64)[None] - (1 << 40)
    value = Value(far, I32, (8,)).replace_data((far, near))
    assert np.array_equal(value.data, np.broadcast_to(np.arange(8), (4, 8)))
    assert value.data.dtype == np.int32


def test_what_each_lane_has_more_than_the_one_before():
    row, column = _terms((4, 1), (1, 8))
    assert sums.step_of((row, column)) == 7
    assert sums.step_of((row, column * column)) is None
    assert sums.step_of((row * np.arange(1, 9), column)) is None
