"""Watching: the functions do what they did, and tell what they compared."""

import gc
import linecache
import pickle
import sys
from types import ModuleType

import pytest
import torch

from indexfuzz.core.comparison import Comparison
from indexfuzz.core.tracebacks import location_of
from indexfuzz.implementations.watching import MOST, watch, watching

SOURCE = '''
import functools
import torch

LIMIT = 4096

def jit(f):
    return f

@jit
def kernel(x):
    return x > 1

def helper(x):
    return x * 2 if x.sum() > 0 else x

def body(x):
    return helper(x)

compiled = torch.compile(body)

def launch(x, y=3, *, mode="a"):
    """Documented."""
    seen = []
    if x > LIMIT:
        seen.append("large")
    if 1 <= y <= 128 and mode == "b":
        seen.append("b")
    if mode:
        seen.append("mode")
    grid = lambda meta: 1 if x // 64 >= meta else 2
    while y < 2:
        y += 1
    return seen, grid(7), [n for n in range(3) if n != 1], x == y == 3

def compare(a, b):
    return a < b

def chain(a):
    return 0 < a() < 10

class Launcher:
    limit = 5
    def __call__(self, x):
        return x >= self.__own()
    def __own(self):
        return self.limit

def outer(limit):
    def inner(x):
        return x > limit
    return inner

made = outer(9)

@functools.cache
def cached(x):
    return x > 1

def require(condition, sentence):
    """Documented."""
    if not condition:
        raise ValueError(sentence)

def check(x):
    require(x > 1, "small")
    assert x < 900
    if x > 800 or x == 700:
        raise ValueError("large")
    return x > 300

def join(a, b):
    if a > 1 and b == 2 and a < 9:
        return "and"
    if b == 3 or (a > 5 and b > 5) or 2 < b < 8:
        return "or"
    return a == 9

def parts(a, b):
    return a % 8 == 3, a * b > 6, (a + b) % 3 == b % 3, "%s" % a == "11", max(a * b, b)

def least(a, b, *others):
    return min(a, b), max(a * 2, b), min(*others), max(others, default=0), [min(n, 2) for n in others]
'''
FILE = "watched project/kernels.py"


@pytest.fixture(scope="module")
def module():
    """The source as a module, watched."""
    made = ModuleType("watched_project")
    made.__file__ = FILE
    linecache.cache[FILE] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), FILE)
    sys.modules[made.__name__] = made
    exec(compile(SOURCE, FILE, "exec"), vars(made))
    watch({FILE: SOURCE, "broken.py": "def ("})
    yield made
    del sys.modules[made.__name__]


def line(text: str) -> int:
    return next(number for number, own in enumerate(SOURCE.splitlines(), 1) if text in own)


def told(function, *arguments, **options):
    with watching() as seen:
        result = function(*arguments, **options)
    return result, seen


def test_comparisons_tell_their_operands_and_the_result_stays(module):
    result, seen = told(module.launch, 5000, mode="b")
    assert result == (["large", "b", "mode"], 1, [0, 2], False)
    at = line("x > LIMIT")
    assert [c for c in seen if c.line == at] == [Comparison(FILE, at, "x > LIMIT", True, 5000, 4096, None)]
    texts = {c.text: (c.left, c.right, c.holds) for c in seen}
    assert texts["1 <= y"] == (1, 3, True)
    assert texts["y <= 128"] == (3, 128, True)
    assert texts["mode == 'b'"] == ("b", "b", True)
    assert texts["mode"] == (None, None, True)
    assert texts["x // 64 >= meta"] == (78, 7, True)
    assert texts["y < 2"] == (3, 2, False)
    assert "y == 3" not in texts
    assert {(c.left, c.holds) for c in seen if c.text == "n != 1"} == {(0, True), (1, False), (2, True)}


def test_a_remainder_and_a_product_tell_what_they_were_made_of(module):
    result, seen = told(module.parts, 11, 2)
    assert result == (True, True, False, True, 22)
    assert type(result[-1]) is int
    parts = {c.text: getattr(c.left, "parts", None) for c in seen}
    assert parts["a % 8 == 3"] == (11, 8)
    assert parts["a * b > 6"] == (11, 2)
    assert parts["(a + b) % 3 == b % 3"] == (13, 3)
    assert parts["'%s' % a == '11'"] is None
    assert pickle.loads(pickle.dumps(seen))[0].left.parts == seen[0].left.parts


def test_methods_and_closures_tell_too(module):
    assert told(module.Launcher(), 7)[1] == [Comparison(FILE, line("self.__own()"), "x >= self.__own()", True, 7, 5)]
    assert told(module.made, 10)[1] == [Comparison(FILE, line("x > limit"), "x > limit", True, 10, 9)]


def test_a_function_whose_results_are_cached_tells_nothing_rather_than_of_the_first_case_only(module):
    assert told(module.cached, 3) == (True, [])


def test_checks_that_end_in_an_error_tell_nothing(module):
    assert [c.text for c in told(module.check, 7)[1]] == ["x > 300"]
    with pytest.raises(ValueError, match="large"):
        module.check(850)


def test_tensors_are_compared_and_not_looked_into(module):
    result, seen = told(module.compare, torch.ones(2), torch.zeros(2))
    assert (result.tolist(), seen) == ([False, False], [])
    assert told(module.compare, 1.5, 2.5)[1][0].left is None


def test_the_end_that_settles_a_joined_condition_is_told(module):
    settles = {}
    for a, b in ((2, 2), (0, 9), (9, 9), (0, 7)):
        settles |= {seen.text: seen.settles for seen in told(module.join, a, b)[1]}
    assert settles == {
        "a > 1": False,
        "b == 2": False,
        "a < 9": None,
        "b == 3": True,
        "a > 5": False,
        "b > 5": None,
        "2 < b": False,
        "b < 8": None,
        "a == 9": None,
    }


def test_the_smaller_and_the_larger_of_two_are_compared(module):
    result, seen = told(module.least, 3, 7, 4, 1)
    assert result == (3, 7, 1, 4, [2, 1])
    assert {(c.text, c.holds, c.left, c.right) for c in seen} == {
        ("a < b", True, 3, 7),
        ("a * 2 < b", True, 6, 7),
        ("n < 2", False, 4, 2),
        ("n < 2", True, 1, 2),
    }
    assert told(module.least, 3.0, 7, 1, 2)[1] == [c for c in told(module.least, 3.0, 7, 1, 2)[1] if c.text == "n < 2"]


def test_operands_are_evaluated_once(module):
    calls = []
    assert module.chain(lambda: calls.append(1) or 5) is True
    assert calls == [1]


def test_what_something_else_compiles_stays_as_it_is(module):
    for function in (module.kernel, module.helper, module.body):
        assert "__indexfuzz_see__" not in function.__code__.co_names
    assert "__indexfuzz_see__" in module.compare.__code__.co_names


def test_errors_keep_their_type_and_line(module):
    with pytest.raises(TypeError) as error:
        module.compare(1, "a")
    frames = [frame for frame in error.traceback if str(frame.path) == FILE]
    assert frames[-1].lineno + 1 == line("return a < b")
    assert location_of(error.value) == f"{FILE}:{line('return a < b')}"


def test_only_what_happens_inside_counts_and_only_so_much_of_it(module):
    module.compare(0, 1)
    with watching() as outer:
        for number in range(50):
            module.compare(number, 100)
        with watching() as inner:
            module.compare(3, 2)
    assert len(outer) == MOST
    assert [(c.left, c.right) for c in inner] == [(3, 2)]


def test_a_second_watch_of_the_same_text_changes_nothing(module):
    before = module.compare.__code__
    watch({FILE: SOURCE})
    assert module.compare.__code__ is before


def test_what_is_told_does_not_depend_on_what_was_watched_before(tmp_path):
    """A function that only checks is known by its text, which lies in another file than its calls."""
    texts = {
        str(tmp_path / "b_checks.py"): "def require(holds):\n    if not holds:\n        raise ValueError\n",
        str(tmp_path / "a_calls.py"): "def launch(x):\n    require(x > 3)\n    return x > 5\n",
        str(tmp_path / "c_more.py"): "def more(x):\n    return x > 7\n",
    }
    names: dict = {}
    for file, text in texts.items():
        exec(compile(text, file, "exec"), names)
    checks, calls, more = texts

    def told(*files):
        watch({file: texts[file] for file in files})
        with watching() as found:
            names["more"](9), names["launch"](9)
        return [seen.text for seen in found]

    assert told(more) == ["x > 7"]
    assert told(calls) == ["x > 3", "x > 5", "x > 7"]
    for _ in range(2):
        assert told(checks, calls, more) == ["x > 5", "x > 7"]
        assert told(calls, more) == ["x > 3", "x > 5", "x > 7"]


def test_functions_that_a_process_froze_before_it_forked_are_watched(tmp_path):
    file, text = str(tmp_path / "frozen.py"), "def larger(x):\n    return x > 3\n"
    names: dict = {}
    exec(compile(text, file, "exec"), names)
    gc.freeze()
    try:
        watch({file: text})
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    with watching() as found:
        names["larger"](4)
    assert [(seen.holds, seen.left, seen.right) for seen in found] == [(True, 4, 3)]
