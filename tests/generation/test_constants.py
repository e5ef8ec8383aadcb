"""Constants: every integer of the code under test, wherever it stands, and of nobody else's code."""

import sys

import pytest

from indexfuzz.generation.aims import LIMITS, Aim, draw_aim
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.constants import MOST, constants_in
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.implementations.sources import source_texts

SOURCE = '''
"""A text of 4711 words."""
LARGEST = 64 * 1024 - 1
CONFIGS = [{"BLOCK": 96, "warps": (3, 5)}, {"BLOCK": 1 << 7}]
DISPATCH = {640: "large", -48: "small"}

def launch(x, y=2**9):
    if x.shape[0] * x.shape[1] >= 10240 or 777 == y:
        return x[11:13]
    return 1.5, True, "99", 123456789
'''


def test_constants_of_comparisons_come_first():
    found = constants_in({"a.py": SOURCE, "b.py": "not Python at all", "c.py": "x = 17 if y < 2049 else 0"})
    assert found[:3] == (777, 2049, 10240)
    assert list(found[3:]) == sorted({64, 1024, 65535, 65536, 96, 3, 5, 7, 128, 640, 48, 9, 512, 2, 11, 13, 17})


def test_only_so_many_are_kept():
    found = constants_in({"a.py": f"t = {tuple(range(2, 2000))}\nx = y > 1999"})
    assert (len(found), found[0]) == (MOST, 1999)


@pytest.mark.parametrize("text", ["x = 1 // 0", "x = 1 << 900", "x = 2 ** 90 ** 90", "x = 10 ** -2", "x = 9 % 4"])
def test_no_expression_of_a_stranger_is_computed_at_any_cost(text):
    assert all(value <= 900 for value in constants_in({"a.py": text}))


def test_the_files_of_the_kernels_and_of_edited_copies():
    names = {name.rpartition("/")[2] for name in source_texts(builtin())}
    assert names >= {"indexer.py", "mqa_logits.py", "layout.py", "checks.py", "rope.py"}
    planted = source_texts(plant(("weights-unscaled-from-10240",)))
    assert {name.rpartition("/")[2] for name in planted} == names
    assert 10240 in constants_in(planted)
    assert 10240 not in constants_in(source_texts(builtin()))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Modules of a user, in a folder of loose files and in a package."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helpers_of_mine.py").write_text("LIMIT = 3001\ndef helper(x):\n    return x > LIMIT\n")
    (tmp_path / "kernels_of_mine.py").write_text(
        "import functools\nimport numpy\nimport torch\nimport helpers_of_mine\n"
        "def wrapped(f):\n    @functools.wraps(f)\n    def inner(**k):\n        return f(**k)\n    return inner\n"
        "@wrapped\ndef gather(**k):\n    return helpers_of_mine.helper(3003)\n"
        "class Launcher:\n    def topk(self, **k):\n        return 3005\n"
    )
    yield __import__("kernels_of_mine")
    for name in ("kernels_of_mine", "helpers_of_mine"):
        sys.modules.pop(name, None)


def test_wrappers_methods_and_helpers_are_followed_and_libraries_are_not(project):
    for function in (project.gather, project.Launcher().topk):
        texts = source_texts(Implementation("mine", {"gather": function}))
        assert {name.rpartition("/")[2] for name in texts} == {"kernels_of_mine.py", "helpers_of_mine.py"}
        assert set(constants_in(texts)) == {3001, 3003, 3005}


def test_files_that_an_adapter_executed_count():
    names = tuple(source_texts(builtin()))
    assert tuple(source_texts(Implementation("adapter", {}, sources=names[:2]))) == names[:2]


def test_aims_stay_within_what_a_case_affords_and_are_none_for_zeros():
    assert draw_aim(Choices(bytes(40)), (777,)) == Aim()
    for seed in range(256):
        aim = draw_aim(Choices(bytes([255, seed] + [(seed * 7 + i * 13) % 256 for i in range(40)])), (777, 16, 1 << 17))
        assert 1 <= aim.value <= LIMITS[aim.size]
