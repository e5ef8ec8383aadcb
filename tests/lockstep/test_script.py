"""python -m indexfuzz.lockstep: a script with every launch in lockstep."""

import json
import os
import subprocess
import sys

import pytest

HEAD = """
import sys, torch, triton
import triton.language as tl

@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i), mask=i < n)

@triton.jit
def assembly(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.inline_asm_elementwise("nonsense $0, $1;", "=r,r", [tl.load(x + i)], tl.int32, True, 1))

@triton.jit
def failing(x):
    tl.static_assert(False, "as it was told to")

"""
RIGHT = HEAD + "x = torch.ones(64)\ncopy[(1,)](x, torch.empty(64), 64, BLOCK=64)\n"
WRONG = HEAD + "x = torch.ones(60)\ncopy[(1,)](x, torch.empty(60), 60, BLOCK=64)\nprint('the end')\n"


@pytest.fixture
def run(tmp_path):
    """Run a script of this text with these words before its name."""

    def run_script(text, *words, args=()):
        script = tmp_path / "script.py"
        script.write_text(text)
        command = [sys.executable, "-m", "indexfuzz.lockstep", *words, str(script), *args]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    return run_script


def test_a_script_that_does_nothing_wrong(run):
    done = run(RIGHT + "print(sys.argv[1:], __name__)\nsys.exit(0)\n", args=("--report", "a"))
    assert (done.returncode, done.stdout) == (0, "['--report', 'a'] __main__\n")
    assert done.stderr == "lockstep: 1 kernel, 1 launch, 0 violations\n"


def test_violations_are_told_and_the_script_goes_on(run, tmp_path):
    done = run(WRONG, "--report", "report.json")
    assert (done.returncode, done.stdout) == (1, "the end\n")
    assert "script.py:8: out-of-bounds in copy: loads 4 bytes at byte 240 of x" in done.stderr
    assert "    launched with x=float32[60], out=float32[60], n=60, BLOCK=64\n" in done.stderr
    (launch,) = json.loads((tmp_path / "report.json").read_text())["launches"]
    assert launch["violations"][0]["byte_offset"] == 240


def test_a_launch_that_order_looked_at_is_told(run, tmp_path):
    done = run(RIGHT + "copy[(1,)](x, x, 64, BLOCK=64, num_warps=1)\n", "--checkers=all", "--report=report.json")
    assert done.stderr == "lockstep: 1 kernel, 2 launches, 0 violations, order looked at in 1 launch\n"
    launches = json.loads((tmp_path / "report.json").read_text())["launches"]
    assert [launch["is_ordered"] for launch in launches] == [True, False]


def test_checkers_and_devices_are_chosen(run):
    assert run(WRONG, "--checkers", "races").returncode == 0
    done = run(WRONG.replace("torch.ones(60)", "torch.ones(60, device='cuda')"), "--device", "cuda")
    assert done.returncode == 1
    assert "out-of-bounds" in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (RIGHT + "sys.exit(7)\n", 7, "1 kernel, 1 launch, 0 violations"),
        (HEAD, 2, "no Triton kernel was launched, so nothing was checked"),
        (HEAD, 2, "with --device cuda, tensors that the script wants on the GPU are put on the CPU"),
        (HEAD + "assembly[(1,)](torch.zeros(4, dtype=torch.int32), BLOCK=4)\n", 2, "is not supported by lockstep"),
        (HEAD + "failing[(1,)](torch.zeros(4))\n", 1, "as it was told to"),
        (RIGHT + "raise ValueError('of the script')\n", 1, "ValueError: of the script"),
    ],
)
def test_exit_codes(run, text, code, words):
    done = run(text)
    assert done.returncode == code
    assert words in done.stderr


def test_a_script_that_is_not_there():
    command = [sys.executable, "-m", "indexfuzz.lockstep", "nowhere.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: nowhere.py is no file\n")
