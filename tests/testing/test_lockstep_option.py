"""pytest --lockstep, in projects that know nothing of it."""

import json
import os
import re
from pathlib import Path

import pytest

from indexfuzz.testing import plugin

PROJECT = """
import pytest, torch, triton
import triton.language as tl

@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)

@triton.jit
def copy_beyond(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i), mask=i < n)

@triton.jit
def assembly(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.inline_asm_elementwise("nonsense $0, $1;", "=r,r", [tl.load(x + i)], tl.int32, True, 1))

@triton.jit
def mistyped(x):
    tl.store(x, x + 1.5)

def launch(kernel, n, block=64):
    x = torch.randn(n, device="DEVICE")
    out = torch.empty_like(x)
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n, BLOCK=block)
    assert torch.equal(out, x)

"""
CUDA = PROJECT.replace("DEVICE", "cuda")
CPU = PROJECT.replace("DEVICE", "cpu")


@pytest.fixture
def session(pytester, run_pytest):
    """Run pytest on a test file of the given text, without the settings of these tests."""

    def run(text, *words):
        pytester.makepyfile(test_project=text)
        return run_pytest("-p", "no:cacheprovider", "-rs", *words)

    return run


def test_a_violation_fails_the_test_that_made_it(session):
    text = CPU + "def test_right(): launch(copy, 100)\ndef test_wrong(): launch(copy_beyond, 100)\n"
    result = session(text, "--lockstep")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*test_project.py:12: out-of-bounds in copy_beyond: loads 4 bytes at byte 400 of x, outside its storage *",
            "    In copy_beyond (test_project.py), program (1, 0, 0), lane (36,):",
            "        12  tl.store(out + i, tl.load(x + i), mask=i < n)",
            "            i = 100",
            "        11  i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
            "    launched with x=float32[[]100], out=float32[[]100], n=100, BLOCK=64",
            "2 kernels, 2 launches, 1 violation",
        ]
    )


def test_without_the_option_nothing_is_taken(session):
    result = session(CPU + "def test_right(): launch(copy, 100)\n")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*lockstep*kernel*")


def test_cuda_tensors_are_on_the_cpu(session):
    text = CUDA + (
        "@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')\n"
        "def test_right():\n    launch(copy, 100)\n    assert torch.ones(1).cuda().is_cuda\n"
        "def test_wrong(): launch(copy_beyond, 100)\n"
    )
    session(text, "--lockstep", "--lockstep-device", "cuda").assert_outcomes(passed=1, failed=1)
    session(text, "--lockstep").assert_outcomes(skipped=1, failed=1)


def test_what_was_launched_can_be_launched_again(session):
    text = CPU + (
        "def test_again():\n"
        "    x, out = torch.arange(8.0), torch.zeros(8)\n"
        "    compiled = copy[(1,)](x, out, 4, BLOCK=8, num_warps=2)\n"
        "    compiled[(1, 1, 1)](x, out, 5)\n"
        "    assert out.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]\n"
        "    compiled[(1, 1, 1)](x, out, 6, 8)\n"
        "    assert out.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]\n"
        "def test_too_few():\n"
        "    copy[(1,)](torch.ones(4), torch.ones(4), 4, BLOCK=4)[(1,)](torch.ones(4))\n"
    )
    result = session(text, "--lockstep")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*copy is launched again with 1 arguments*", "1 kernel, 4 launches, 0 violations"])


def test_what_is_missing_skips_and_what_is_wrong_fails(session):
    text = CPU + (
        "def test_missing(): assembly[(1,)](torch.zeros(4, dtype=torch.int32), BLOCK=4)\n"
        "def test_mistyped(): mistyped[(1,)](torch.zeros(4))\n"
        "def test_handle(): copy[(1,)](torch.ones(4), torch.ones(4), 4, BLOCK=4).asm['ptx']\n"
    )
    result = session(text, "--lockstep")
    result.assert_outcomes(skipped=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "mistyped: 1 launch ended by an error of the kernel or its launch: *test_project.py:21: *",
            "SKIPPED*lockstep: *test_project.py:17: *inline_asm* is not supported by lockstep",
            "SKIPPED*lockstep: nothing is compiled, so a launch gives back no asm",
        ]
    )


def test_a_failed_test_tells_its_violations_as_well(session):
    result = session(CPU + "def test_wrong():\n    launch(copy_beyond, 100)\n    assert False\n", "--lockstep")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E       assert False", "*lockstep*", "*out-of-bounds in copy_beyond*"])


def test_a_session_without_launches_is_not_green(session):
    result = session("def test_nothing(): pass\n", "--lockstep")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    lines = [
        "no Triton kernel was launched, so nothing was checked",
        "with --lockstep-device cuda, tensors that tests want on the GPU are put on the CPU",
    ]
    result.stdout.fnmatch_lines(lines)


def test_who_asks_for_a_gpu_in_vain_hears_how_to_have_one(session):
    tests = CPU + "def test_right(): launch(copy, 100)\n"
    hint = "*with --lockstep-device cuda*"
    session(tests, "--lockstep").stdout.no_fnmatch_line(hint)
    tests += "def test_cuda(): raise AssertionError('Torch not compiled with CUDA enabled')\n"
    session(tests, "--lockstep").stdout.fnmatch_lines([hint])
    session(tests, "--lockstep", "--lockstep-device", "cuda").stdout.no_fnmatch_line(hint)


def test_an_option_of_lockstep_without_it_is_told(session, pytester):
    result = session("def test_nothing(): pass\n", "--lockstep-device", "cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --lockstep-device does nothing without --lockstep"])
    pytester.makeini("[pytest]\naddopts = --lockstep-device cuda\n")
    assert session("def test_nothing(): pass\n").ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lockstep-device", "tpu"), "unknown device 'tpu'; there are cpu, cuda"),
        (("--lockstep-dot", "abacus"), "unknown matrix unit 'abacus'; there are *"),
        (("--lockstep-configs", "some"), "unknown choice of configurations 'some'; there are first, all"),
        (("--lockstep-checkers", "bounds,luck"), "unknown checkers *luck*"),
        (("--lockstep-report", "nowhere/r.json"), "the report cannot be written: */nowhere is no folder"),
    ],
)
def test_wrong_options_end_in_one_line(session, words, message):
    result = session("def test_nothing(): pass\n", "--lockstep", *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --lockstep: {message}"])


def test_the_interpreter_would_take_the_kernels(session, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = session(CPU + "def test_right(): launch(copy, 100)\n", "--lockstep")
    result.stderr.fnmatch_lines(["ERROR: --lockstep: TRITON_INTERPRET is set, *"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_report_has_every_launch_of_every_worker(session, pytester, workers):
    text = CPU + (
        "@pytest.mark.parametrize('n', [1, 64, 100])\n"
        "def test_right(n): launch(copy, n)\n"
        "def test_wrong(): launch(copy_beyond, 100)\n"
    )
    session(text, "--lockstep", "--lockstep-report", "report.json", *workers)
    report = json.loads((pytester.path / "report.json").read_text())
    found = {(launch["test"], launch["outcome"], len(launch["violations"])) for launch in report["launches"]}
    assert found == {(f"test_project.py::test_right[{n}]", "ran", 0) for n in (1, 64, 100)} | {
        ("test_project.py::test_wrong", "ran", 1)
    }
    assert {kernel["kernel"]: kernel["launches"] for kernel in report["kernels"]} == {
        "copy": {"ran": 3},
        "copy_beyond": {"ran": 1},
    }
    (load,) = (o for o in report["coverage"] if o["line"] == 7 and o["kind"] == "load")
    assert (load["seen"], load["missing"]) == (["all-true", "mixed"], "")


def test_the_report_as_text(session, pytester):
    session(CPU + "def test_wrong(): launch(copy_beyond, 100)\n", "--lockstep", "--lockstep-report", "report.txt")
    lines = (pytester.path / "report.txt").read_text().splitlines()
    assert lines[0] == "1 kernel, 1 launch, 1 violation"
    assert any(line.startswith(f"copy_beyond ({pytester.path}{os.sep}test_project.py:10): 1 ran") for line in lines)
    assert any("out-of-bounds in copy_beyond" in line for line in lines)
    assert lines[-1].startswith("mask coverage: ")


def test_the_page_has_every_option():
    page = (Path(__file__).parents[2] / "docs" / "lockstep.md").read_text()
    rows = re.findall(r"^\| `(--lockstep-[a-z]+)[^|]*\| `(--[a-z]+)", page, re.MULTILINE)
    assert {option for option, _ in rows} | {"--lockstep"} == set(plugin.LOCKSTEP)
    assert all(option == script.replace("--", "--lockstep-", 1) for option, script in rows)


def test_the_page_shows_what_is_printed(session, pytester):
    """Its first example: the file and every line of the session's output that the page has."""
    page = (Path(__file__).parents[2] / "docs" / "lockstep.md").read_text()
    kernel = re.search(r"Take this `test_copy.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    printed = re.search(r"```\n\$ pytest (.*?)\n(.*?)```", page, re.DOTALL)
    pytester.makepyfile(test_copy=kernel[1])
    result = session("", *printed[1].split())
    lines = [line.replace(f"{pytester.path}{os.sep}", "/home/you/project/") for line in result.outlines]
    shown = printed[2].splitlines()
    assert lines[lines.index(shown[0]) :][: len(shown)] == shown


def test_every_checker(session):
    text = CPU + (
        "@triton.jit\n"
        "def reverse(x, N: tl.constexpr):\n"
        "    i = tl.arange(0, N)\n"
        "    tl.store(x + N - 1 - i, tl.load(x + i))\n\n"
        "def test_reverse(): reverse[(1,)](torch.arange(64.0), N=64)\n"
    )
    session(text, "--lockstep").assert_outcomes(passed=1)
    result = session(text, "--lockstep", "--lockstep-checkers", "all")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: order in reverse: *"])


def test_a_conftest_sees_the_gpu_that_is_not_there(session, pytester):
    pytester.makeconftest("import torch\nDEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'\n")
    test = "def test_right():\n    from conftest import DEVICE\n    assert DEVICE == 'cuda'\n    launch(copy, 100)\n"
    text = CUDA + test
    session(text, "--lockstep", "--lockstep-device", "cuda").assert_outcomes(passed=1)
    session(text, "--lockstep", "--lockstep-device", "cuda", "-n", "1").assert_outcomes(passed=1)


def test_a_plugin_that_a_conftest_loads(session, pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest("pytest_plugins = ['indexfuzz.testing.plugin']\n")
    session(CPU + "def test_wrong(): launch(copy_beyond, 100)\n", "--lockstep").assert_outcomes(failed=1)
