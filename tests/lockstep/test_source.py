"""The line of a kernel that did something, with the values of its names there."""

import ast
from pathlib import Path

import numpy as np
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.source.lanes import lanes_of_calls, lanes_of_names
from indexfuzz.lockstep.source.search import Doing, find_store, find_stray, find_violation, has_stored
from indexfuzz.lockstep.source.statements import condition_of, definition_of, statement_at
from indexfuzz.lockstep.source.trace import MOST_LINES, Trace, trace
from indexfuzz.lockstep.source.words import find_element
from indexfuzz.lockstep.tracking.moments import Recorder


@triton.jit
def _row(index, stride):
    return index * stride


@triton.jit
def _copy(x, rows, out, n, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0) * 2 + tl.arange(0, 2)
    dim = tl.arange(0, BLOCK)
    source = tl.load(rows + row)  # index
    seen = dim < n
    value = tl.load(x + _row(source, stride)[:, None] + dim[None, :], mask=seen[None, :], other=0.0)  # value
    tl.store(out + row[:, None] * stride + dim[None, :], value * 2, mask=seen[None, :])  # store


@triton.jit
def _diverge(x, out):
    p = tl.program_id(0)
    if tl.load(x + p) > 0:
        tl.store(out + p, 1.0)


@triton.jit
def _sum(x, out):
    lanes = tl.load(x + tl.arange(0, 4)) * 2
    total = tl.sum(lanes, axis=0)
    tl.store(out, total)


def _line(comment: str) -> int:
    text = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(text, 1) if line.endswith(f"  # {comment}"))


def _run(rows: list[int], *, accesses: bool = True) -> tuple[Recorder, torch.Tensor, Lockstep]:
    recorder, out = Recorder(accesses=accesses), torch.zeros(4, 6)
    with Lockstep(recorder=recorder) as machine:
        _copy[(2,)](torch.arange(24.0).reshape(4, 6), torch.tensor(rows), out, 5, 6, BLOCK=8)
    return recorder, out, machine


def _trace(doing: Doing | None) -> Trace:
    assert doing
    told = trace(*doing)
    assert told
    return told


def test_the_store_of_an_element_is_found_with_its_values_and_what_led_to_it():
    recorder, out, _ = _run([3, 1, 0, 2])
    told = _trace(find_store(recorder, out.data_ptr() + (3 * 6 + 4) * 4))
    first, *before = told.lines
    assert (told.program, told.lane) == ((1, 0, 0), (1, 4))
    assert first.line == _line("store")
    assert first.access == "stores 4 bytes at out + 88 bytes, which is out[3, 4]"
    assert dict(first.values) == {"row": "3", "stride": "6", "dim": "4", "value": "16", "seen": "True"}
    loads = {line.line: line.access for line in before if line.access}
    assert loads == {
        _line("value"): "loads 4 bytes at x + 64 bytes, which is x[2, 4]",
        _line("index"): "loads 8 bytes at rows + 24 bytes, which is rows[3]",
    }
    assert [line.line for line in before] == sorted((line.line for line in before), reverse=True)


def test_a_lane_that_was_masked_off_is_found_where_no_store_wrote_the_byte():
    recorder, out, _ = _run([3, 1, 0, 2])
    told = _trace(find_store(recorder, out.data_ptr() + (2 * 6 + 5) * 4))
    assert told.lane == (0, 5)
    assert told.lines[0].access == "masked off: stores nothing at out + 68 bytes, which is out[2, 5]"
    assert dict(told.lines[0].values)["seen"] == "False"


def test_a_byte_that_no_lane_points_to_has_no_store():
    recorder, _, _ = _run([3, 1, 0, 2])
    other = torch.zeros(4)
    assert find_store(recorder, other.data_ptr()) is None


def test_an_access_out_of_bounds_is_told_in_the_lane_that_made_it():
    recorder, _, machine = _run([3, 1, 0, 9], accesses=False)
    (violation,) = machine.violations
    doing = find_violation(recorder, "out-of-bounds", "x", violation.file, violation.line)
    assert doing
    told = trace(*doing, places=lambda _address: "a neighbour, by chance")
    assert told
    assert (told.program, told.lane) == (violation.program, violation.lane)
    assert dict(told.lines[0].values)["source"] == "9"
    assert told.lines[0].access == "points to x + 216 bytes"
    assert find_violation(recorder, "out-of-bounds", "out", violation.file, violation.line) is None


def test_without_accesses_only_violations_are_kept():
    recorder, _, _ = _run([3, 1, 0, 2], accesses=False)
    assert recorder.moments == []


def test_what_programs_did_before_they_diverged_is_not_kept_twice():
    recorder, out = Recorder(), torch.zeros(4)
    with Lockstep(recorder=recorder):
        _diverge[(4,)](torch.tensor([1.0, 0.0, 1.0, 0.0]), out)
    (store,) = [m for m in recorder.moments if m.access and m.access.kind == "store"]
    assert store.programs.tolist() == [0, 2]


def test_a_store_outside_of_what_is_expected_is_found_though_it_was_dropped():
    recorder, out = Recorder(), torch.zeros(2, 6)
    with Lockstep(recorder=recorder) as machine:
        _copy[(2,)](torch.zeros(4, 6), torch.tensor([0, 1, 2, 3]), out, 5, 6, BLOCK=8)
    expected = np.ones(out.numel() * 4, np.bool_)
    doing = find_stray(recorder, out.untyped_storage().data_ptr(), out.data_ptr(), expected)
    assert machine.violations
    assert (_trace(doing).program, _trace(doing).lane) == ((1, 0, 0), (0, 0))
    assert find_stray(recorder, 0, out.data_ptr(), expected) is None


def test_lanes_follow_subscripts_and_stop_where_a_function_mixes_them():
    def lanes(text: str, lane: tuple[int, ...]) -> dict[str, object]:
        return dict(lanes_of_names(ast.parse(text, mode="eval").body, lane))

    assert lanes("a[:, None] * n + b[None, :]", (3, 5)) == {"a": (3,), "n": (3, 5), "b": (5,)}
    assert lanes("f(a, mask=m)[:, None]", (3, 5)) == {"a": (3,), "m": (3,)}
    assert lanes("tl.sum(a, 1) + b", (3,)) == {"tl": None, "a": None, "b": (3,)}


def test_calls_have_the_lane_of_what_they_give_back():
    expression = ast.parse("f(a)[:, None] + tl.sum(module.g(b), 0)", mode="eval").body
    assert dict(lanes_of_calls(expression, (3, 5))) == {"f": (3,), "sum": (3, 5), "g": None}


def test_a_name_comes_from_the_last_statement_above():
    statement = statement_at(__file__, _line("store"))
    assert statement
    given = definition_of("value", statement)
    assert given
    assert given.line == _line("value")
    assert definition_of("n", statement) is None


def test_elements_are_found_by_their_address_in_strided_tensors_and_gaps_are_none():
    tensor = torch.zeros(4, 8)[:, :6]
    assert find_element(tensor, tensor.data_ptr() + (2 * 8 + 3) * 4 + 1) == (2, 3)
    assert find_element(tensor, tensor.data_ptr() + (2 * 8 + 7) * 4) is None
    assert find_element(tensor, tensor.data_ptr() - 4) is None


def test_what_lies_in_a_branch_that_was_not_taken_defines_nothing():
    statement = statement_at(__file__, _line("use"))
    assert statement
    for tiled, comment in ((True, "tiled"), (False, "flat")):
        given = definition_of("at", statement, {"TILED": tiled})
        assert given
        assert given.line == _line(comment) + tiled
    unknown = definition_of("at", statement)
    assert unknown
    assert unknown.line == _line("flat")


@triton.jit
def _branches(x, i, TILED: tl.constexpr):
    if TILED:  # condition
        at = i * 16  # tiled
        at += 0
    else:
        at = i  # flat
    tl.store(x + at, 0.0)  # use


@triton.jit
def _sum_of_rows(x, out, n):
    row = tl.arange(0, 2)
    dim = tl.arange(0, 4)
    value = tl.load(x + row[:, None] * 4 + dim[None, :])  # unwritten
    total = tl.sum(value, axis=1)  # total
    offset = n * 0
    tl.store(out + row + offset, total)  # sum


def test_what_is_undefined_is_followed_to_the_load_and_the_lane_that_it_comes_from():
    recorder, x, out = Recorder(), torch.zeros(2, 4), torch.zeros(2)
    written = torch.ones(2, 16, dtype=torch.bool)
    written[1, 8:12] = False
    with Lockstep(recorder=recorder) as machine:
        machine.declare("x", x, written)
        _sum_of_rows[(1,)](x, out, 3)
    (seen,) = machine.drain()
    told = _trace(find_violation(recorder, seen.kind, seen.argument or "", seen.file, seen.line))
    told_at = {line.line: line for line in told.lines}
    store, load = told.lines[0], told_at[_line("unwritten")]
    assert dict(store.values)["total"] == "undefined"
    assert dict(told_at[_line("total")].values)["value"] == "undefined in lane (1, 2) of [2, 4]"
    assert load.access == "loads 4 bytes at x + 24 bytes, which is x[1, 2]"
    assert dict(load.values) == {"row": "1", "dim": "2"}


def test_a_block_of_which_no_lane_is_meant_is_told_by_its_least_and_largest_or_by_what_all_of_it_is():
    told = {}
    for x in (torch.arange(4.0), torch.ones(4), torch.full((4,), float("nan"))):
        recorder, out = Recorder(), torch.zeros(1)
        with Lockstep(recorder=recorder):
            _sum[(1,)](x, out)
        values = [dict(line.values) for line in _trace(find_store(recorder, out.data_ptr())).lines]
        told[str(x[0].item())] = next(each["lanes"] for each in values if "lanes" in each)
    assert told == {"0.0": "0 to 6 in [4]", "1.0": "2 in all [4]", "nan": "nan in all [4]"}


@triton.jit
def _twice(x):
    return x * 2  # twice


@triton.jit
def _both(x, i):
    low = tl.load(x + i)  # low
    high = _twice(low)  # high
    other = i + 100  # other
    return high, other  # both


@triton.jit
def _call_both(x, out, n):
    i = tl.arange(0, 4)
    value, _ = _both(x, i)  # call
    tl.store(out + i, value, mask=i < n)  # keep


def test_what_a_called_function_makes_is_told_with_the_values_that_it_had_at_its_end():
    recorder, out = Recorder(), torch.zeros(4)
    with Lockstep(recorder=recorder):
        _call_both[(1,)](torch.arange(4.0), out, 4)
    told = _trace(find_store(recorder, out.data_ptr() + 3 * 4))
    lines = {(line.function, line.line): line for line in told.lines}
    assert dict(lines["_both", _line("high")].values) == {"low": "3"}
    assert lines["_both", _line("low")].access == "loads 4 bytes at x + 12 bytes, which is x[3]"
    assert dict(lines["_twice", _line("twice")].values) == {"x": "3"}
    # Nothing stored comes of the other part of what is returned, and a return of variables says nothing more.
    assert not {("_both", _line("other")), ("_both", _line("both"))} & lines.keys()
    text = list(told.sentences())
    assert text[0].startswith("In _call_both (test_source.py), program (0, 0, 0), lane (3,):")
    own, inner = text.index("  in _both (test_source.py):"), text.index("  in _twice (test_source.py):")
    assert own > next(i for i, line in enumerate(text) if line.endswith("# call"))
    assert own < next(i for i, line in enumerate(text) if line.endswith("# high")) != inner


@triton.jit
def _wide_way(x, out, n):
    made = tl.load(x)  # made
    half = made * 1
    value = half * 1
    a = n + 0
    b = n + 0
    c = n + 0
    d = n + 0
    e = n + 0
    f = n + 0
    g = n + 0
    h = n + 0
    i = n + 0
    j = n + 0
    k = n + 0
    r = n + 0
    m = n + 0
    o = n + 0
    p = n + 0
    q = n + 0
    at = a + b + c + d + e + f + g + h + i + j + k + r + m + o + p + q
    tl.store(out + at, value)  # far


def test_neither_where_a_store_goes_nor_what_it_stores_takes_all_the_lines_unless_it_is_suspect():
    recorder, out = Recorder(), torch.zeros(1)
    with Lockstep(recorder=recorder):
        _wide_way[(1,)](torch.ones(1), out, 0)
    doing = find_store(recorder, out.data_ptr())
    assert doing
    assert has_stored(doing)
    told = [line.line for line in _trace(doing).lines]
    assert told[0] == _line("far")
    assert _line("made") in told
    assert len(told) == MOST_LINES
    place = trace(*doing, suspect="place")
    assert place
    assert _line("made") not in [line.line for line in place.lines]
    value = trace(*doing, suspect="value")
    assert value
    assert _line("made") in [line.line for line in value.lines]


def test_a_store_that_its_mask_held_back_has_stored_nothing():
    recorder, out, _ = _run([3, 1, 0, 2])
    for column, is_stored in ((4, True), (5, False)):
        doing = find_store(recorder, out.data_ptr() + (2 * 6 + column) * 4)
        assert doing
        assert has_stored(doing) == is_stored


def test_the_condition_is_told_under_which_a_name_got_its_value():
    for tiled in (True, False):
        recorder, out = Recorder(), torch.zeros(32)
        with Lockstep(recorder=recorder):
            _branches[(1,)](out, 1, TILED=tiled)
        lines = {
            line.line: line for line in _trace(find_store(recorder, out.data_ptr() + 4 * (16 if tiled else 1))).lines
        }
        assert dict(lines[_line("condition")].values) == {"TILED": str(tiled)}
    statement = statement_at(__file__, _line("use"))
    assert statement
    assert condition_of(statement) is None
