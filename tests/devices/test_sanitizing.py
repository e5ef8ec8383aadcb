"""Reports of compute-sanitizer: as text in its documented format, as findings of a launch, and its command line."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.setup import Setup
from indexfuzz.devices import sanitizing
from indexfuzz.devices.base import DeviceError
from indexfuzz.devices.sanitizer_report import Access, read_report
from indexfuzz.devices.sanitizing import LOG, MARKER, Report, SanitizedSession, find_tool, sanitized

ROOT = Path(__file__).parents[2]
HEADER = "========= COMPUTE-SANITIZER\n"
WRITE = """========= Invalid __global__ write of size 4 bytes
=========     at _gather_kernel+0x1d0 in /src/kernels/gather.py:67
=========     by thread (18,0,0) in block (2,0,0)
=========     Access to 0x7f0000000410 is out of bounds
=========     and is 1,041 bytes after the nearest allocation at 0x7f0000000000 of size 1,024 bytes
=========
"""
OLDER = """========= Invalid __global__ read of size 16 bytes
=========     at 0xda0 in /src/kernels/gather.py:70:_gather_kernel
=========     by thread (96,0,0) in block (44,0,0)
=========     Address 0x7f0000000000 is out of bounds
=========     and is 64 bytes before the nearest allocation at 0x7f0000000040 of size 64 bytes
"""
MISALIGNED = """========= Invalid __global__ read of size 8 bytes
=========     at void f<float>(T1 *, int)+0x120
=========     by thread (0,0,0) in block (0,0,0)
=========     Access to 0x7f0000000004 is misaligned
=========     and is inside the nearest allocation at 0x7f0000000000 of size 64 bytes
"""
OF_THE_HOST = """========= Program hit CUDA_ERROR_INVALID_VALUE (error 1) on CUDA API call to cuFoo.
=========     Saved host backtrace up to driver entry point at error
========= ERROR SUMMARY: 1 error
"""


@pytest.mark.parametrize(
    ("text", "access"),
    [
        (
            WRITE,
            Access(
                "out-of-bounds",
                "write of 4 bytes of global memory",
                "_gather_kernel",
                "/src/kernels/gather.py:67",
                "thread (18,0,0) of block (2,0,0)",
                0x7F0000000000,
                "1041 bytes after",
            ),
        ),
        (
            OLDER,
            Access(
                "out-of-bounds",
                "read of 16 bytes of global memory",
                "_gather_kernel",
                "/src/kernels/gather.py:70",
                "thread (96,0,0) of block (44,0,0)",
                0x7F0000000040,
                "64 bytes before",
            ),
        ),
        (
            MISALIGNED,
            Access(
                "misaligned",
                "read of 8 bytes of global memory",
                "void f<float>",
                "",
                "thread (0,0,0) of block (0,0,0)",
                0x7F0000000000,
                "inside",
            ),
        ),
    ],
)
def test_a_complaint_is_read(text, access):
    assert read_report(HEADER + text) == [access]


def test_a_whole_report_is_read_in_order_without_what_is_about_the_host():
    text = HEADER + WRITE + "what the program prints\n" + OF_THE_HOST + MISALIGNED
    assert [access.kind for access in read_report(text)] == ["out-of-bounds", "misaligned"]
    assert read_report(HEADER + OF_THE_HOST + "========= ERROR SUMMARY: 0 errors\n") == []


class Tool:
    """Stands for the tool: writes what it has to `say`, and then the mark that it is asked for."""

    def __init__(self, log):
        self.log, self.say = log, HEADER

    def mark(self):
        with self.log.open("a") as file:
            file.write(self.say + OF_THE_HOST.replace("cuFoo", MARKER))
        self.say = ""


@pytest.fixture
def tool(tmp_path):
    return Tool(tmp_path / "report.txt")


@pytest.fixture
def session(tool):
    return SanitizedSession(Guarantees, Report(tool.log, tool.mark), device="cpu")


def test_each_launch_gets_what_was_reported_since_the_one_before(tool):
    report = Report(tool.log, tool.mark)
    tool.say = WRITE + WRITE
    assert len(report.read_on()) == 2
    assert report.read_on() == []
    tool.say = OLDER
    assert len(report.read_on()) == 1


def test_a_report_that_does_not_come_is_told(tool):
    with pytest.raises(DeviceError, match=r"compute-sanitizer has written nothing to .* for 0 s"):
        Report(tool.log, lambda: None, patience=0)


def test_tensors_are_brought_to_memory_of_their_own_and_taken_back(session):
    storage = torch.arange(64, dtype=torch.int32)
    x, y = storage.as_strided((3, 4), (8, 1), 5), storage[40:44]
    there = session.bring({"x": x, "y": y})
    assert torch.equal(there["x"], x)
    assert there["x"].stride() == (8, 1)
    assert there["x"].untyped_storage().nbytes() == 4 * 20
    there["x"][1, 2] = -1
    outputs = session.take_back({"part": there["x"][1, 1:3].view(torch.uint8), "other": torch.ones(2)})
    assert storage[5 + 8 + 2] == -1
    assert torch.equal(storage[:5], torch.arange(5, dtype=torch.int32))
    assert torch.equal(outputs["part"].view(torch.int32), x[1, 1:3])
    assert outputs["part"].data_ptr() == x[1, 1:].data_ptr()
    assert torch.equal(outputs["other"], torch.ones(2))


def test_what_is_reported_of_a_launch_are_findings_about_its_arguments(session, tool):
    tool.say = WRITE  # by what brings the tensors
    address = session.bring({"x": torch.zeros(4)})["x"].data_ptr()
    told = WRITE.replace("0x7f0000000000", hex(address))
    tool.say = told + told + OLDER
    session.take_back({})
    wild, other = session.violations({})
    assert session.violations({}) == []
    assert (wild.kind, wild.output, wild.location) == ("out-of-bounds", "x", "/src/kernels/gather.py:67")
    assert wild.detail == (
        "write of 4 bytes of global memory, 1041 bytes after x by thread (18,0,0) of block (2,0,0) of _gather_kernel"
    )
    assert (other.kind, other.output, other.location) == ("out-of-bounds", "", "/src/kernels/gather.py:70")


def test_nothing_reported_is_nothing_found(session):
    session.take_back(session.bring({"x": torch.zeros(4)}))
    assert session.violations({}) == []


def test_the_tool_is_looked_for_and_its_absence_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(sanitizing, "PACKAGES", (tmp_path / "none", tmp_path / "package"))
    with pytest.raises(DeviceError, match="--sanitize needs compute-sanitizer, which is neither on PATH nor in"):
        find_tool()
    tool = tmp_path / "package" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("")
    tool.chmod(0o755)
    assert find_tool() == str(tool)


def test_the_command_is_that_of_the_same_run_under_the_tool(tmp_path):
    command, variables = sanitized("/bin/tool", "memcheck", ["python", "-m", "indexfuzz"], tmp_path / "r")
    assert command[:3] == ["/bin/tool", "--tool", "memcheck"]
    assert command[-3:] == ["python", "-m", "indexfuzz"]
    assert variables == {LOG: str(tmp_path / "r"), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    assert "--sanitize memcheck" in " ".join(Setup(device="cuda", sanitize="memcheck").words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--sanitize", "memcheck"),
            "--sanitize looks at kernels on a GPU, not on lockstep; use it with --device cuda",
        ),
        (("--sanitize", "racecheck", "--device", "cuda"), "--sanitize: no 'racecheck'; "),
        (("--sanitize", "memcheck", "--device", "cuda", "--workers", "2"), "--sanitize looks at one process"),
        (("--sanitize", "memcheck", "--device", "cuda"), "--sanitize needs compute-sanitizer"),
    ],
)
def test_bad_input_is_2_and_one_sentence(indexfuzz, tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("PATH", os.environ["PATH"] if "lockstep" in message else str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(sanitizing, "PACKAGES", (tmp_path,))
    code, _, err = indexfuzz("run", *words)
    assert code == 2
    assert message in err


def has_tool():
    with contextlib.suppress(DeviceError):
        return bool(find_tool())
    return False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not has_tool(), reason="needs an NVIDIA GPU, compute-sanitizer")
@pytest.mark.parametrize(
    ("wild", "kind"),
    [("", ""), ("beyond", "out-of-bounds")],
)
def test_a_read_that_no_value_shows_is_seen_on_a_card(wild, kind, tmp_path):
    options = ("--device", "cuda", "--sanitize", "memcheck", "--impl", "module:tests.toy_wild", "--no-isolate")
    drawn = ("--cases", "8", "--seed", "1", "--corpus", str(tmp_path / "known"), "--out", str(tmp_path / "found"))
    command = [sys.executable, "-m", "indexfuzz", "run", *options, *drawn]
    variables = os.environ | {"WILD": wild}
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == bool(kind), ended.stdout + ended.stderr
    assert kind in ended.stdout
    assert ("gather/" in ended.stdout) is bool(kind)
