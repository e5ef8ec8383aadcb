"""What kills or blocks the process becomes a finding of the right case and stage, and nothing is left behind."""

import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.devices import open_device
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.evaluation.bench.hostile import SIGNATURES, implementation
from indexfuzz.evaluation.bench.isolation import children
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.isolation.connection import Connection
from indexfuzz.subjects.isolation.deaths import Death
from indexfuzz.subjects.isolation.errors import ChildError, DiedError
from indexfuzz.subjects.isolation.isolated import Isolated
from indexfuzz.triage.minimize import minimise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SPEC = "module:indexfuzz.evaluation.bench.hostile"
HARMLESS = Case().replace(batch={"prefill": ({"length": 3, "new": 0},)})


def keys(number: int) -> Case:
    return Case().replace(batch={"prefill": ({"length": number, "new": 0},)})


@pytest.fixture(scope="module")
def hostile():
    before = children()
    with Isolated(Setup(SPEC), seconds=math.inf, memory=1 << 30) as subject:
        yield subject
    assert children() == before


@pytest.fixture
def impatient(hostile, monkeypatch):
    """Gives a case 2 seconds, by a clock that stands still until gather runs, and then goes on by 10 at every look."""
    looks = []

    def clock() -> float:
        worker = hostile._child._worker
        if worker is not None and worker.complete(Death("", "")).running:
            looks.append(worker)
        return 10.0 * len(looks)

    monkeypatch.setattr(hostile, "_seconds", 2.0)
    monkeypatch.setattr(hostile, "_was_late", False)
    monkeypatch.setattr(hostile._child, "_clock", clock)
    return hostile


def test_only_the_stages_that_are_asked_about_are_taken(hostile):
    signature = Signature("gather", "crash", "ValueError")
    for only, stages in ((frozenset(), ["gather"]), (frozenset({"gather"}), ["gather"]), (frozenset({"rope"}), [])):
        assert hostile.ask(HARMLESS, signature, only).stages == stages


def wait_for_end(*pids: int) -> None:
    """Wait until these processes have ended."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([process], [], [])
        os.close(process)


@pytest.mark.parametrize("number", [n for n, signature in SIGNATURES.items() if "hang" not in signature])
def test_a_death_is_a_finding_of_its_case_and_stage(hostile, number):
    outcome = hostile.run(keys(number))
    (finding,) = outcome.findings
    assert str(finding.signature) == SIGNATURES[number]
    assert outcome.stages == ["gather"]
    assert hostile.run(HARMLESS).findings == []
    assert hostile.unrepeated == []


def test_details_say_what_happened_and_where(hostile):
    (finding,) = hostile.run(keys(2)).findings
    assert finding.detail == "the process died of SIGSEGV (Segmentation fault) while gather ran"
    assert "bench/hostile.py:" in finding.location
    (finding,) = hostile.run(keys(16)).findings
    assert finding.detail == "printed to standard output: 'from C' and 1 more lines"


def test_a_hang_is_a_finding_and_gets_less_time_while_it_shrinks(impatient):
    (finding,) = impatient.run(keys(8)).findings
    assert str(finding.signature) == "gather/hang/timeout"
    assert finding.detail == "no answer within 2 s while gather ran"
    assert "bench/hostile.py:" in finding.location
    assert impatient._patience_with_hangs <= impatient._patience <= 2.0


def test_other_stages_are_judged_when_one_kills_the_process(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Isolated(Setup("module:two_stages"), seconds=math.inf) as subject:
        case = keys(3).replace(batch={"pad_tokens": 1})
        outcome = subject.run(case)
        assert sorted(str(f.signature) for f in outcome.findings) == ["gather/crash/exit-7", "rope/bound-exceeded/q"]
        assert set(outcome.stages) == {"gather", "rope"}
        with pytest.raises(ChildError, match="ValueError: nothing is narrow enough") as error:
            subject.narrow(case.replace(values={"seed": 1}))
        assert "two_stages.py" in error.value.__notes__[0]


def test_a_crash_is_made_smaller(hostile):
    big = keys(2).replace(model={"num_heads": 8}, batch={"pad_tokens": 3})
    small, finding = minimise(big, hostile, Signature.parse(SIGNATURES[2]), seconds=math.inf)
    assert str(finding.signature) == SIGNATURES[2]
    assert small.batch.keys == 2
    assert small.batch.pad_tokens == 0
    assert small.model.num_heads == 1


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """A subject whose process dies once, at the moment and of the signal that are written to `order`."""
    order = tmp_path_factory.mktemp("struck") / "order"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("INDEXFUZZ_ORDER", str(order))
        patch.setenv("OMP_NUM_THREADS", "1")
        with Isolated(Setup("module:struck"), seconds=math.inf) as subject:
            yield subject, order


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("contract", "before any stage had run"),
        ("stage", "while gather ran"),
        ("answer", "after gather had run"),
    ],
)
def test_innocent_cases_are_not_blamed_for_what_kills_them(struck, moment, told, by):
    """Somebody kills the worker: the case is judged all the same, and the death is told."""
    subject, order = struck
    order.write_text(f"{moment} {by.value}")
    outcome = subject.run(HARMLESS)
    assert not order.exists()
    assert (outcome.findings, outcome.stages) == ([], ["gather"])
    (death,) = subject.unrepeated
    assert death.startswith(f"case {HARMLESS.id}: the process died of {by.name} (")
    assert death.endswith(told)
    subject.unrepeated.clear()


def test_a_worker_that_dies_between_two_cases_is_replaced(struck):
    subject, _ = struck
    subject.run(HARMLESS)
    os.kill(subject.worker, signal.SIGKILL)
    wait_for_end(subject.worker)
    outcome = subject.run(HARMLESS)
    assert (outcome.findings, outcome.stages) == ([], ["gather"])
    subject.unrepeated.clear()


def test_a_lost_zygote_is_replaced(hostile):
    hostile.run(HARMLESS)
    zygote = hostile._child._connection._process
    zygote.kill()
    zygote.wait()
    assert hostile.run(HARMLESS).findings == []
    hostile.unrepeated.clear()


def test_isolated_or_not_the_cases_and_findings_are_the_same(hostile):
    found = []
    for subject in (hostile, InProcess(implementation, open_device("lockstep"))):
        outcomes = []
        wanted = Settings(subject, only=frozenset({"rope"}), cases=15, seed=3)
        run(wanted, lambda event, into=outcomes: into.append(event.outcome) if isinstance(event, CaseRun) else None)
        found.append(outcomes)
    assert found[0] == found[1]


def test_too_slow_in_our_own_code_is_no_hang(hostile):
    with pytest.raises(UnsupportedKernelError, match="too much for IndexFuzz itself"):
        hostile._blame(Death("timeout", "no answer", "gather", running=False), HARMLESS)
    with pytest.raises(ChildError, match="before any stage had run"):
        hostile._blame(Death("SIGSEGV", "the process died"), HARMLESS)


def test_a_kernel_that_counts_for_long_is_slow_and_one_that_never_ends_hangs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Isolated(Setup("module:slow_kernels"), seconds=math.inf) as subject:
        looks = []

        def clock() -> float:
            worker = subject._child._worker
            if worker is not None and os.fstat(worker._output.fileno()).st_size > 1 << 15:
                looks.append(worker)
            return 10.0 * len(looks)

        monkeypatch.setattr(subject, "_seconds", 2.0)
        monkeypatch.setattr(subject._child, "_clock", clock)
        with pytest.raises(UnsupportedKernelError, match="too much for IndexFuzz itself, no answer within 2 s while"):
            subject.run(keys(3))
        (finding,) = subject.run(keys(1)).findings
    assert str(finding.signature) == "gather/hang/timeout"
    assert "slow_kernels.py:" in finding.location


@pytest.mark.parametrize(("device", "times"), [("cuda", 1), ("cuda", 2), ("cpu", 1)])
def test_on_a_gpu_lateness_behind_a_stage_counts_once_it_has_happened_twice(hostile, monkeypatch, device, times):
    ask = hostile._child.answer
    late = [DiedError(Death("timeout", "no answer within 2 s", "gather", running=False)) for _ in range(times)]

    def answer(question, seconds):
        if late and question["do"] == "run":
            raise late.pop()
        return ask(question, seconds)

    monkeypatch.setattr(hostile, "_was_late", False)
    monkeypatch.setattr(hostile._child, "answer", answer)
    monkeypatch.setattr(hostile, "unrepeated", [])
    monkeypatch.setattr(hostile, "facts", replace(hostile.facts, torch_device=device))
    if device == "cpu":
        with pytest.raises(UnsupportedKernelError, match="too much for IndexFuzz itself"):
            hostile.run(HARMLESS)
    elif times == 1:
        assert hostile.run(HARMLESS).findings == []
        assert hostile.unrepeated == [f"case {HARMLESS.id}: no answer within 2 s after gather had run"]
    else:
        assert [str(finding.signature) for finding in hostile.run(HARMLESS).findings] == ["gather/hang/timeout"]


def test_what_cannot_be_loaded_is_one_sentence():
    before = children()
    with pytest.raises(SetupError, match="module:no_such_module cannot be imported"):
        Isolated(Setup("module:no_such_module"))
    assert children() == before


def test_a_module_that_hangs_when_it_is_imported_is_given_up(tmp_path, monkeypatch):
    begun, ask = tmp_path / "begun", Connection.next
    (tmp_path / "endless.py").write_text(f"from pathlib import Path\nPath({str(begun)!r}).touch()\nwhile True: pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    def ask_once_it_hangs(connection, seconds):
        while seconds == 0.5 and not begun.exists():
            time.sleep(0.01)
        return ask(connection, seconds)

    monkeypatch.setattr(Connection, "next", ask_once_it_hangs)
    before = children()
    with pytest.raises(SetupError) as error:
        Isolated(Setup("module:endless"), seconds=0.5)
    assert re.fullmatch(
        f"module:endless cannot be loaded by {sys.executable}: it took longer than 0.5 s, "
        rf"and is at {tmp_path}/endless.py:\d",
        str(error.value),
    )
    assert children() == before


PARENT = """
import signal
from indexfuzz.subjects.isolation.isolated import Isolated
from indexfuzz.core.setup import Setup
from indexfuzz.core.case import Case
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
subject = Isolated(Setup({spec!r}))
print(subject._child._worker.pid, subject._child._connection._process.pid, flush=True)
subject.run(Case().replace(batch={{"prefill": ({{"length": {keys}, "new": 0}},)}}))
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_orphans_when_the_parent_ends():
    command = [sys.executable, "-c", PARENT.format(spec=SPEC, keys=8)]
    ends = (signal.SIGKILL, signal.SIGINT)
    parents = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in ends]
    pids = [int(word) for parent in parents for word in parent.stdout.readline().split()]
    assert all(map(is_running, pids))
    for parent, end in zip(parents, ends, strict=True):
        parent.send_signal(end)
        parent.wait()
        parent.stdout.close()
    wait_for_end(*pids)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("failures", [1, 2])
def test_on_a_gpu_an_error_of_indexfuzz_itself_counts_once_it_has_happened_twice(
    hostile, monkeypatch, failures, device
):
    ask, errors = hostile._child.answer, [ChildError("IndexError: overwritten")] * failures

    def answer(question, seconds):
        if question["do"] == "run" and errors:
            raise errors.pop()
        return ask(question, seconds)

    monkeypatch.setattr(hostile._child, "answer", answer)
    monkeypatch.setattr(hostile, "unrepeated", [])
    monkeypatch.setattr(hostile, "facts", replace(hostile.facts, torch_device=device))
    if failures == 1 and device == "cuda":
        before = hostile.worker
        assert not hostile.run(HARMLESS).findings
        assert hostile.worker != before
        assert hostile.unrepeated == [f"case {HARMLESS.id}: IndexFuzz itself failed (IndexError: overwritten)"]
    else:
        with pytest.raises(ChildError, match="overwritten"):
            hostile.run(HARMLESS)
