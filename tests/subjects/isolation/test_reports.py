"""What is read in the report of where a process was."""

import pytest

from indexfuzz.implementations.sources import whiles_in, whiles_of
from indexfuzz.subjects.isolation.reports import has_whole_report, is_counting, last_words, location

DUMP = """loading weights
out of luck
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/opt/site-packages/triton/runtime/jit.py", line 3 in run
  File "/home/me/kernels.py", line 12 in gather
  File "/work/fuzz/subjects/isolation/worker.py", line 9 in watched
"""

KERNELS = """@triton.jit
def counted(out, n):
    for i in range(n):
        tl.store(out, i)

@triton.jit
def endless(out, n):
    while n > 0:
        tl.store(out, n)

def launch(out):
    counted[(1,)](out, 5)
    while True:
        counted[(1,)](out, 5)
"""


def test_words_and_place():
    assert last_words(DUMP) == "out of luck"
    assert location(DUMP) == "/home/me/kernels.py:12"
    assert (last_words(""), location("")) == ("", "")
    for own in ("<frozen importlib._bootstrap>", "<recording>", "/work/fuzz/implementations/watching.py"):
        assert location(DUMP.replace("/opt/site-packages/triton/runtime/jit.py", own)) == "/home/me/kernels.py:12"


def test_a_report_is_whole_with_its_outermost_frame():
    assert not has_whole_report(DUMP)
    assert has_whole_report(f'{DUMP}  File "/work/isolation/bootstrap.py", line 7 in <module>\n')
    assert has_whole_report(f"{DUMP}  ...\n")


@pytest.mark.parametrize(
    ("kernel", "launcher", "counts"),
    [(4, 12, True), (3, 12, True), (9, 12, False), (8, 12, False), (4, 14, False)],
)
def test_only_a_while_may_never_end(tmp_path, kernel, launcher, counts):
    file = tmp_path / "kernels.py"
    file.write_text(KERNELS)
    frames = [
        ("<recording>", 2),
        (file, kernel),
        ("/opt/indexfuzz/lockstep/launch.py", 90),
        (file, launcher),
        ("/work/fuzz/subjects/isolation/worker.py", 9),
        (file, 14),
        ("/work/fuzz/subjects/isolation/bootstrap.py", 82),
    ]
    report = "Current thread 0x00007f (most recent call first):\n"
    report += "".join(f'  File "{path}", line {line} in <module>\n' for path, line in frames)
    assert is_counting(report, {}) == counts
    assert not is_counting(report.replace("/lockstep/", "/elsewhere/"), {})
    assert not is_counting(report.replace("bootstrap", "else"), {})
    file.unlink()
    assert not is_counting(report, {})
    assert is_counting(report, {str(file): whiles_in(KERNELS)}) == counts


def test_files_that_are_no_python_have_no_loops():
    assert whiles_of({"a label/kernels.py": KERNELS, "readme": "while it lasts"}) == {
        "a label/kernels.py": [(8, 9), (13, 14)]
    }
