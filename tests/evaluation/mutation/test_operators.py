import pytest

from indexfuzz.evaluation.mutation.mutants import mutants_of

KERNEL = '''
@triton.jit
def kernel(x_ptr, x_row_stride, x_head_stride, n, SIZE: tl.constexpr):
    """Docstring 7 stays."""
    row = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    is_valid = (row >= 0) & (row < n)
    x = tl.load(x_ptr + row * x_row_stride, mask=is_valid, other=-1)
    x = tl.maximum(x, 1e-4)
    for turn in range(n):
        tl.store(x_ptr + row // SIZE, tl.where(is_valid, x, 0.0), mask=is_valid)
    if n == 3:
        tl.store(x_ptr, x)
'''


def changes(operator):
    return {(m.old, m.new) for m in mutants_of("kernels/demo.py", KERNEL) if m.operator == operator}


@pytest.mark.parametrize(
    ("operator", "old", "new"),
    [
        ("mask", "is_valid", "(is_valid) | True"),
        ("mask", "is_valid", "(is_valid) & False"),
        ("condition", "(row >= 0) & (row < n)", "(row < n)"),
        ("condition", "(row >= 0) & (row < n)", "((row >= 0) | (row < n))"),
        ("comparison", "row < n", "(row <= n)"),
        ("comparison", "n == 3", "(n != 3)"),
        ("division", "row // SIZE", "(row % SIZE)"),
        ("extreme", "tl.maximum", "tl.minimum"),
        ("clamp", "tl.maximum(x, 1e-4)", "x"),
        ("axis", "tl.program_id(0)", "tl.program_id(1)"),
        ("stride", "x_row_stride", "x_head_stride"),
        ("cast", "tl.program_id(0).to(tl.int64)", "(tl.program_id(0))"),
        ("dtype", "tl.int64", "tl.int32"),
        ("other", "-1", "0"),
        ("constant", "1e-4", "5e-05"),
        ("loop", "range(n)", "range(n - 1)"),
        ("branch", "tl.where(is_valid, x, 0.0)", "tl.where(is_valid, 0.0, x)"),
        ("statement", "x = tl.maximum(x, 1e-4)", "pass"),
        ("statement", "tl.store(x_ptr, x)", "pass"),
    ],
)
def test_operator(operator, old, new):
    assert (old, new) in changes(operator)


def test_a_first_assignment_and_the_docstring_stay():
    assert not any(old.startswith(("row =", "is_valid =", "x = tl.load")) for old, _ in changes("statement"))
    assert not any("Docstring" in old for operator in ("constant", "statement") for old, _ in changes(operator))


def test_each_mutant_changes_the_text_in_one_place():
    for mutant in mutants_of("kernels/demo.py", KERNEL):
        assert KERNEL.count(mutant.before) == 1
        changed = KERNEL.replace(mutant.before, mutant.after)
        assert changed != KERNEL
        old, new = KERNEL.splitlines(), changed.splitlines()
        assert [i for i, (a, b) in enumerate(zip(old, new, strict=True), 1) if a != b] == [mutant.line]
