"""What runs in Python and Triton does not compile: lockstep says what Triton says of each, and of nothing else."""

import gc

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.errors import CompilationError, UnsupportedLanguageConstruct

from indexfuzz.lockstep import KernelError, Lockstep
from indexfuzz.lockstep.language import meetings

PLAIN = 7


@triton.jit
def _half_or_whole(x, HALF: tl.constexpr):
    if HALF:
        return x.to(tl.float16)
    return x


@triton.jit
def _half_above_three(x, n):
    if n > 3:
        return x.to(tl.float16)
    return x


@triton.jit
def _out_of_a_loop(x, n):
    for _ in range(n):
        return x
    return x


@triton.jit
def _down(n):
    if n <= 0:
        return 0
    return _down(n - 1)


@triton.jit
def returns_by_constexpr(x, out, n):
    tl.store(out, _half_or_whole(tl.load(x), HALF=True))


@triton.jit
def returns_by_value(x, out, n):
    tl.store(out, _half_above_three(tl.load(x), n))


@triton.jit
def returns_in_a_loop(x, out, n):
    for _ in range(n):
        tl.store(out, 1.0)
        return


@triton.jit
def calls_what_returns_in_a_loop(x, out, n):
    tl.store(out, _out_of_a_loop(tl.load(x), n))


@triton.jit
def calls_itself(x, out, n):
    tl.store(out, _down(n))


@triton.jit
def carries_another_type(x, out, n):
    total = 0
    for i in range(n):
        total += tl.load(x + i)
    tl.store(out, total)


@triton.jit
def carries_another_shape(x, out, n):
    total = 0.0
    for _ in range(n):
        total += tl.load(x + tl.arange(0, 8))
    tl.store(out + tl.arange(0, 8), total)


@triton.jit
def carries_another_type_in_while(x, out, n):
    total = 0
    while total < n:
        total += 1.5
    tl.store(out, total)


@triton.jit
def carries_a_constant(x, out, n):
    c: tl.constexpr = 1
    for i in range(n):
        c = i
    tl.store(out, c)


@triton.jit
def carries_a_tuple_of_another_type(x, out, n):
    pair = (0, 1)
    for _ in range(n):
        pair = (0.5, 1)
    tl.store(out, pair[0])


@triton.jit
def reads_what_a_loop_made(x, out, n):
    for i in range(n):
        y = tl.load(x + i)
    tl.store(out, y)


@triton.jit
def reads_what_a_while_made(x, out, n):
    i = 0
    while i < n:
        y = tl.load(x + i)
        i += 1
    tl.store(out, y)


@triton.jit
def changes_a_type_in_a_branch(x, out, n):
    y = 0
    if n > 3:
        y = tl.load(x)
    tl.store(out, y)


@triton.jit
def changes_a_type_in_a_branch_not_taken(x, out, n):
    y = 0
    if n < 0:
        y = tl.load(x)
    tl.store(out, y)


@triton.jit
def makes_two_types(x, out, n):
    if n > 3:  # noqa: SIM108
        y = 1.5
    else:
        y = 2
    tl.store(out, y)


@triton.jit
def makes_two_types_in_two_programs(x, out, n):
    if tl.program_id(0) == 0:  # noqa: SIM108
        y = tl.load(x)
    else:
        y = 3
    tl.store(out + tl.program_id(0), y)


@triton.jit
def makes_two_types_of_pointers(x, out, n):
    if n > 3:  # noqa: SIM108
        pointer = out
    else:
        pointer = x.to(tl.pointer_type(tl.float16))
    tl.store(pointer, 1.0)


@triton.jit
def makes_something_of_none(x, out, n):
    y = None
    if n > 3:
        y = tl.load(x)
    tl.store(out, y)


@triton.jit
def reads_what_one_branch_made(x, out, n):
    if n > 3:
        y = tl.load(x)
    tl.store(out, y)


@triton.jit
def chooses_between_types(x, out, n):
    tl.store(out, tl.load(x) if n > 3 else 3)


@triton.jit
def chooses_between_shapes(x, out, n):
    y = tl.load(x + tl.arange(0, 8)) if n > 3 else 0.0
    tl.store(out + tl.arange(0, 8), y)


@triton.jit
def names_nothing_in_a_branch_not_taken(x, out, n):
    if n < 0:
        tl.store(out, missing)  # noqa: F821
    tl.store(out, 1.0)


@triton.jit
def names_nothing_behind_a_return(x, out, n, C: tl.constexpr = 1):
    if C == 1:
        return
    tl.store(out, missing)  # noqa: F821


@triton.jit
def makes_a_constant_twice(x, out, n):
    c: tl.constexpr = 1
    c: tl.constexpr = 2
    tl.store(out, c)


@triton.jit
def breaks(x, out, n):
    for i in range(n):
        if i > 2:
            break


@triton.jit
def continues(x, out, n):
    while tl.load(x) > 0:
        continue


@triton.jit
def has_a_lambda(x, out, n):
    add = lambda a: a + 1  # noqa: E731
    tl.store(out, add(n))


@triton.jit
def has_a_dict(x, out, n):
    values = {"a": 1}
    tl.store(out, values["a"])


@triton.jit
def tries(x, out, n):
    try:
        tl.store(out, 1.0)
    finally:
        pass


@triton.jit
def assigns_an_item(x, out, n):
    values = (1, 2)
    values[0] = 3


@triton.jit
def chooses_a_pointer_or_a_number(x, out, n):
    tl.store(tl.where(n > 3, out, n), 1.0)


@triton.jit
def adds_a_product_to_another_type(x, out, n):
    i = tl.arange(0, 16)
    square = i[:, None] * 16 + i[None, :]
    a = tl.load(x + square)
    tl.store(out + square, tl.dot(a, a, tl.zeros((16, 16), tl.float16)))


@triton.jit
def swaps_another_type(x, out, n):
    tl.atomic_cas(out, 1, 2)


@triton.jit
def counts_to_a_value(x, out, n):
    tl.store(out + tl.arange(0, n), 1.0)


@triton.jit
def counts_to_six(x, out, n):
    tl.store(out + tl.arange(0, 6), 1.0)


@triton.jit
def makes_a_block_of_six(x, out, n):
    tl.store(out, tl.sum(tl.zeros((6,), tl.float32)))


@triton.jit
def multiplies_types(x, out, n):
    i = tl.arange(0, 16)
    square = i[:, None] * 16 + i[None, :]
    a = tl.load(x + square)
    tl.store(out + square, tl.dot(a, a.to(tl.float16)))


@triton.jit
def chooses_between_pointers(x, out, n):
    tl.store(tl.where(n > 3, out, x.to(tl.pointer_type(tl.float16))), 1.0)


@triton.jit
def reads_a_plain_global(x, out, n):
    tl.store(out, PLAIN)


@triton.jit
def unrolls_to_a_value(x, out, n):
    for _ in tl.static_range(n):
        tl.store(out, 1.0)


@triton.jit
def asserts_a_value_while_compiling(x, out, n):
    tl.static_assert(n > 0)


@triton.jit
def measures_a_block(x, out, n):
    tl.store(out, len(tl.arange(0, 8)))


@triton.jit
def changes_a_type_in_a_loop_that_nobody_enters(x, out, n):
    total = 0
    for i in range(n - 5):
        total += tl.load(x + i)
    tl.store(out, total)


@triton.jit
def multiplies_pointers_in_a_loop_that_nobody_enters(x, out, n):
    for _ in range(5, n):
        tl.store(out, tl.load(x * 2))


@triton.jit
def changes_a_type_in_a_while_that_nobody_enters(x, out, n):
    total = 0
    while total + 5 < n:
        total += tl.load(x)
    tl.store(out, total)


@triton.jit
def multiplies_pointers_in_a_while_that_nobody_enters(x, out, n):
    while n > 5:
        tl.store(out, tl.load(x * 2))


REFUSED = [
    changes_a_type_in_a_while_that_nobody_enters,
    multiplies_pointers_in_a_while_that_nobody_enters,
    changes_a_type_in_a_loop_that_nobody_enters,
    multiplies_pointers_in_a_loop_that_nobody_enters,
    returns_by_constexpr,
    returns_by_value,
    returns_in_a_loop,
    calls_what_returns_in_a_loop,
    calls_itself,
    carries_another_type,
    carries_another_shape,
    carries_another_type_in_while,
    carries_a_constant,
    carries_a_tuple_of_another_type,
    reads_what_a_loop_made,
    reads_what_a_while_made,
    changes_a_type_in_a_branch,
    changes_a_type_in_a_branch_not_taken,
    makes_two_types,
    makes_two_types_in_two_programs,
    makes_two_types_of_pointers,
    makes_something_of_none,
    reads_what_one_branch_made,
    chooses_between_types,
    chooses_between_shapes,
    names_nothing_in_a_branch_not_taken,
    names_nothing_behind_a_return,
    makes_a_constant_twice,
    breaks,
    continues,
    has_a_lambda,
    has_a_dict,
    tries,
    assigns_an_item,
    chooses_a_pointer_or_a_number,
    adds_a_product_to_another_type,
    swaps_another_type,
    counts_to_a_value,
    counts_to_six,
    makes_a_block_of_six,
    multiplies_types,
    chooses_between_pointers,
    reads_a_plain_global,
    unrolls_to_a_value,
    asserts_a_value_while_compiling,
    measures_a_block,
]


@triton.jit
def carries_what_is_unrolled(x, out, n):
    total = 0
    for i in tl.static_range(4):
        total += tl.load(x + i)
    tl.store(out, total)


@triton.jit
def enters_no_loop(x, out, n):
    total = 0.0
    for i in range(n - 5):
        total += tl.load(x + i)
    tl.store(out, total)


@triton.jit
def enters_no_while(x, out, n):
    total = 0.0
    i = 5
    while i < n:
        total += tl.load(x + i)
        i += 1
    tl.store(out, total)


@triton.jit
def reads_the_counter_behind_its_loop(x, out, n):
    for i in range(n):
        tl.store(out, i)
    tl.store(out, i)


@triton.jit
def makes_a_name_where_a_constant_says_so(x, out, n, C: tl.constexpr = 1):
    if C == 1:
        y = tl.load(x)
    else:
        z = 3
    if C == 1:
        tl.store(out, y)
    else:
        tl.store(out, z)


@triton.jit
def makes_a_name_again_before_it_is_read(x, out, n):
    if n > 3:
        y = tl.load(x)
        tl.store(out, y)
    y = 2
    tl.store(out, y)


@triton.jit
def leaves_early(x, out, n):
    if n > 3:
        y = 1
        tl.store(out, y)
        return
    for i in range(n):
        y = tl.load(x + i)
        tl.store(out, y)


@triton.jit
def chooses_between_equal_types(x, out, n):
    tl.store(out, 1.0 if n > 3 else 2.0)


COMPILED = [
    enters_no_loop,
    enters_no_while,
    carries_what_is_unrolled,
    reads_the_counter_behind_its_loop,
    makes_a_name_where_a_constant_says_so,
    makes_a_name_again_before_it_is_read,
    leaves_early,
    chooses_between_equal_types,
]


def _name(kernel):
    return kernel.fn.__name__


def _compile(kernel):
    """What Triton says for SM90: the innermost error, None where it compiles."""
    types = {"x": "*fp32", "out": "*fp32", "n": "i32", "C": "constexpr"}
    signature = {name: types[name] for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {"C": 1} if "C" in signature else {})
    try:
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    except (CompilationError, RuntimeError) as error:
        while isinstance(error.__cause__, CompilationError):
            error = error.__cause__
        return error
    return None


def _launch(kernel):
    with Lockstep() as machine:
        kernel[(2,)](torch.ones(256), torch.zeros(256), 5)
    return machine.violations


@pytest.mark.parametrize("kernel", REFUSED, ids=_name)
def test_what_triton_refuses_is_refused_in_its_words(kernel):
    wanted = _compile(kernel)
    assert wanted is not None
    place = r"(test_refused_by_triton|standard)\.py:\d+"
    with pytest.raises(KernelError, match=rf"{place}: in {_name(kernel)}: ") as found:
        _launch(kernel)
    assert isinstance(found.value, CompilationError)
    assert isinstance(found.value, UnsupportedLanguageConstruct) == isinstance(wanted, UnsupportedLanguageConstruct)
    words = (wanted.error_message if isinstance(wanted, CompilationError) else str(wanted)) or "AssertionError"
    assert words.splitlines()[-1] in str(found.value) or words.split("('")[-1].rstrip("')") in str(found.value)


@pytest.mark.parametrize("kernel", COMPILED, ids=_name)
def test_what_triton_compiles_runs(kernel):
    assert _compile(kernel) is None
    assert {v.kind for v in _launch(kernel)} <= {"race"}


def test_the_place_is_the_line_that_triton_names():
    line = changes_a_type_in_a_branch.starting_line_number + 3
    with pytest.raises(CompilationError, match=rf"test_refused_by_triton\.py:{line}: in changes_a_type_in_a_branch: "):
        _launch(changes_a_type_in_a_branch)
    first = _half_or_whole.starting_line_number
    lines = f"{first + 1}|{first + 4}"  # the function, or the return that older releases name
    with pytest.raises(CompilationError, match=rf"test_refused_by_triton\.py:({lines}): in returns_by_constexpr: "):
        _launch(returns_by_constexpr)


def test_nothing_of_the_compiler_outlives_the_question():
    """Nanobind would complain on the way out of the process."""
    alive = {id(o) for o in gc.get_objects() if type(o) is ASTSource}
    kernel = triton.jit(makes_two_types.fn)
    with Lockstep(), pytest.raises(CompilationError):
        kernel[(1,)](torch.ones(1), torch.zeros(1), 5)
    gc.collect()
    assert {id(o) for o in gc.get_objects() if type(o) is ASTSource} <= alive


def test_triton_is_asked_once_for_each_specialisation(monkeypatch):
    asked = _note_questions(monkeypatch)
    kernel = triton.jit(chooses_between_equal_types.fn)
    x = torch.zeros(1)
    with Lockstep():
        for n in (2, 3, 2**40, 5):
            kernel[(1,)](x, x, n)
    assert asked == [kernel] * 2


@triton.jit
def _nearest(x, UP: tl.constexpr):
    if UP:
        return tl.ceil(x)
    return tl.floor(x)


@triton.jit
def _round(x, out, N: tl.constexpr, UP: tl.constexpr):
    tl.store(out, _nearest(tl.load(x), UP))


def test_triton_is_asked_once_for_all_sizes(monkeypatch):
    asked = _note_questions(monkeypatch)
    x = torch.full((1,), 1.5)
    with Lockstep():
        for size in (16, 32, 64):
            _round[(1,)](x, torch.zeros(1), size, UP=False)
        assert asked == [_round]
        _round[(1,)](x, torch.zeros(1), 16, UP=True)
    assert asked == [_round] * 2


@pytest.mark.parametrize("kernel", [enters_no_loop, enters_no_while], ids=_name)
def test_triton_is_asked_about_a_loop_until_a_program_enters_it(kernel, monkeypatch):
    asked = _note_questions(monkeypatch)
    x = torch.ones(256)
    entered, idle = triton.jit(kernel.fn), triton.jit(kernel.fn)
    with Lockstep():
        entered[(2,)](x, torch.zeros(2), 7)
        assert asked == []
        for n in (4, 5):
            idle[(2,)](x, torch.zeros(2), n)
    assert asked == [idle]


@pytest.mark.parametrize("kernel", [leaves_early, makes_a_name_where_a_constant_says_so], ids=_name)
def test_triton_is_not_asked_where_nothing_is_in_doubt(kernel, monkeypatch):
    asked = _note_questions(monkeypatch)
    _launch(kernel)
    _launch(triton.jit(kernel.fn))
    assert asked == []


def _note_questions(monkeypatch):
    """The kernels about which Triton is asked from now on."""
    asked = []
    ask = meetings.find_refusal
    monkeypatch.setattr(meetings, "find_refusal", lambda kernel, *rest: asked.append(kernel) or ask(kernel, *rest))
    return asked
