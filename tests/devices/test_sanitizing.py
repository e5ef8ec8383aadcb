"""Reports of compute-sanitizer: as text in its documented format, as findings of a launch, and its command line."""

import contextlib
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path

import pytest
import torch
from triton import knobs

from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.setup import Setup
from indexfuzz.devices import sanitizing
from indexfuzz.devices.base import DeviceError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.devices.sanitizer_marks import FAILING_CALL, KERNELS, ptx_of
from indexfuzz.devices.sanitizer_report import Access, read_report
from indexfuzz.devices.sanitizing import LOG, USED, Report, SanitizedSession, find_tool, sanitized
from indexfuzz.oracles.launching import launch
from indexfuzz.stages.base import Call

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
UNWRITTEN = """========= Uninitialized __global__ memory read of size 4 bytes
=========     at copy_kernel+0x70 in /src/toy.py:33
=========     by thread (0,0,0) in block (1,0,0)
=========     Access to 0x7f0000000004 is uninitialized
"""
OLDER_UNWRITTEN = """========= Uninitialized __global__ memory read of size 16 bytes
=========     at 0x70 in /src/toy.py:33:copy_kernel
=========     by thread (0,0,0) in block (1,0,0)
=========     Address 0x7f0000000010
"""
RACE = """========= Error: Race reported between Write access at exchange_kernel+0x90 in /src/toy.py:20
=========     and Read access at exchange_kernel+0xb0 in /src/toy.py:21 [508 hazards]
=========     and Write access at exchange_kernel+0x90 [2 hazards]
=========
"""
OLDER_RACE = """========= Error: Race reported between Write access at 0x90 in /src/toy.py:20:exchange_kernel(int*)
=========     and Read access at 0xb0 in /src/toy.py:21:exchange_kernel(int*) [508 hazards]
"""
WARNING = RACE.replace("Error: ", "Warning: ")
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
                0x7F0000000410,
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
                0x7F0000000000,
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
                0x7F0000000004,
            ),
        ),
        *(
            (
                text,
                Access(
                    "uninitialised",
                    f"read of {size} bytes of global memory that nobody has written",
                    "copy_kernel",
                    "/src/toy.py:33",
                    "thread (0,0,0) of block (1,0,0)",
                    address=0x7F0000000000 + size,
                ),
            )
            for text, size in ((UNWRITTEN, 4), (OLDER_UNWRITTEN, 16))
        ),
        (
            RACE,
            Access(
                "order",
                "write and read at /src/toy.py:21 and write at exchange_kernel of the same shared memory "
                "with no barrier between",
                "exchange_kernel",
                "/src/toy.py:20",
            ),
        ),
        (
            OLDER_RACE,
            Access(
                "order",
                "write and read at /src/toy.py:21 of the same shared memory with no barrier between",
                "exchange_kernel",
                "/src/toy.py:20",
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
    assert read_report(WARNING + "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n") == []


class Tool:
    """Stands for the tool: writes what it has to `say`, and then the mark that it is asked for."""

    def __init__(self, log):
        self.log, self.say = log, HEADER

    def mark(self):
        self.write(OF_THE_HOST.replace("cuFoo", FAILING_CALL))
        return FAILING_CALL

    def write(self, text):
        with self.log.open("a") as file:
            file.write(self.say + text)
        self.say = ""


class KernelTool(Tool):
    """Stands for racecheck and initcheck, whose marks are kernels, by turns: each is told of in several complaints."""

    def __init__(self, log, like):
        super().__init__(log)
        self.like, self.names = like, cycle(KERNELS)

    def mark(self):
        name = next(self.names)
        self.write(2 * self.like.replace("exchange_kernel", name).replace("copy_kernel", name))
        return name


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


@pytest.mark.parametrize("like", [RACE, OLDER_RACE, UNWRITTEN, OLDER_UNWRITTEN])
def test_marks_that_are_kernels_are_no_complaint_and_no_mark_is_taken_for_the_next(tmp_path, like):
    tool = KernelTool(tmp_path / "report.txt", like)
    report = Report(tool.log, tool.mark)
    for number in (0, 2, 0, 1, 0):
        tool.say = number * like
        assert len(report.read_on()) == number


@pytest.mark.parametrize("tool", ["racecheck", "initcheck"])
def test_kernels_that_are_marks_can_be_assembled(tool, tmp_path):
    (tmp_path / "marks.ptx").write_text(ptx_of(tool))
    ptxas = [knobs.nvidia.ptxas.path, "-arch=sm_90", str(tmp_path / "marks.ptx"), "-o", str(tmp_path / "marks.cubin")]
    assert subprocess.run(ptxas, capture_output=True, check=False).returncode == 0
    assert all(name in ptx_of(tool) for name in KERNELS)


def test_arguments_that_hold_nothing_are_new_memory_for_the_tool_that_tells_of_reads(tool, monkeypatch):
    asked = []
    monkeypatch.setattr(sanitizing, "_copy", lambda tensor, _, unwritten: asked.append(unwritten) or tensor.clone())
    for tells in (True, False):
        report = Report(tool.log, tool.mark, tells_unwritten=tells)
        session = SanitizedSession(Guarantees, report, device="cpu")
        written = torch.tensor([True, False])
        for name, flag in (("full", True), ("empty", False), ("part", written)):
            session.declare(name, torch.zeros(2), flag)
        session.bring({name: torch.zeros(2) for name in ("full", "empty", "part")})
        assert session.sees_unwritten is tells
        assert asked == [False, tells, False]
        asked.clear()


def test_new_memory_holds_what_was_there_either_way():
    for numbers in (torch.arange(6.0), torch.arange(600.0).as_strided((3, 4), (50, 2), 7), torch.empty(0)):
        for unwritten in (True, False):
            assert torch.equal(sanitizing._copy(numbers, "cpu", unwritten=unwritten), numbers)


@pytest.mark.parametrize("tells", [True, False])
def test_what_launchers_allocate_is_left_to_the_tool_that_tells_of_reads(tool, tells):
    class Device(LockstepDevice):
        @contextmanager
        def session(self):
            yield SanitizedSession(Guarantees, Report(tool.log, tool.mark, tells_unwritten=tells), device="cpu")

    def allocate():
        return torch.empty(4, dtype=torch.uint8)

    filled = []
    launched = launch(
        "gather", Call({}, returns=("made",)), allocate, Device(), garbage=lambda _: filled.append(1) or 7
    )
    assert launched.outputs["made"].shape == (4,)
    assert len(filled) == (not tells)


def test_a_report_that_does_not_come_is_told(tool):
    with pytest.raises(DeviceError, match=r"compute-sanitizer has written nothing to .* for 0 s"):
        Report(tool.log, lambda: "mark", patience=0)


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


def test_reads_of_what_nobody_has_written_are_about_the_argument_and_races_about_none(session, tool):
    address = session.bring({"y": torch.zeros(2), "x": torch.zeros(4)})["x"].data_ptr()
    tool.say = UNWRITTEN.replace("0x7f0000000004", hex(address + 4)) + UNWRITTEN + RACE
    session.take_back({})
    own, other, race = session.violations({})
    assert (own.kind, own.output, own.location) == ("uninitialised", "x", "/src/toy.py:33")
    assert own.detail == (
        "read of 4 bytes of global memory that nobody has written by thread (0,0,0) of block (1,0,0) of copy_kernel"
    )
    assert (other.kind, other.output) == ("uninitialised", "")
    assert (race.kind, race.output, race.location) == ("order", "", "/src/toy.py:20")


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
    assert variables == {LOG: str(tmp_path / "r"), USED: "memcheck", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command, _ = sanitized("/bin/tool", "initcheck", ["python"], tmp_path / "r")
    assert ("--check-api-memory-access", "no") in pairwise(command)
    assert "--sanitize memcheck" in " ".join(Setup(device="cuda", sanitize="memcheck").words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--sanitize", "memcheck"),
            "--sanitize looks at kernels on a GPU, not on lockstep; use it with --device cuda",
        ),
        (("--sanitize", "synccheck", "--device", "cuda"), "--sanitize: no 'synccheck'; "),
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
    ("tool", "wild", "shown"),
    [
        ("memcheck", "", ""),
        ("memcheck", "beyond", "gather/out-of-bounds/k_scale"),
        ("racecheck", "", ""),
        ("racecheck", "hazard", "gather/order"),
        ("initcheck", "", ""),
        ("initcheck", "unwritten", "gather/uninitialised"),
        ("initcheck", "early", "gather/uninitialised/k_scale"),
    ],
)
def test_what_no_value_shows_is_seen_on_a_card_by_the_tool_that_looks_for_it(tool, wild, shown, tmp_path):
    options = ("--device", "cuda", "--sanitize", tool, "--impl", "module:tests.toy_wild", "--no-isolate")
    drawn = ("--cases", "8", "--seed", "1", "--corpus", str(tmp_path / "known"), "--out", str(tmp_path / "found"))
    command = [sys.executable, "-m", "indexfuzz", "run", *options, *drawn]
    variables = os.environ | {"WILD": wild}
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == bool(shown), ended.stdout + ended.stderr
    assert shown in ended.stdout
    assert ("gather/" in ended.stdout) is bool(shown)
