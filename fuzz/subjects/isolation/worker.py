"""The worker: answers questions about cases until it is killed, or dies of what it runs.

It leaves behind which stage function ran last, what was printed, and where: the parent reads that when it is dead.
"""

import ctypes
import faulthandler
import functools
import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.contract import beyond
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import StageFunction
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.isolation import frames
from indexfuzz.subjects.isolation.errors import TYPES
from indexfuzz.subjects.isolation.lifeline import die_with
from indexfuzz.subjects.isolation.messages import from_facts, from_outcome
from indexfuzz.subjects.under_test import put_under_test

WHERE_SIGNAL = signal.SIGUSR1
"""Makes the worker write to standard error what it is doing."""

STAGE_BYTES = 1 << 10
MOST_QUOTED = 200


class Posts(NamedTuple):
    """Descriptors that connect a worker with the parent: two pipes, and files for what outlives the worker."""

    questions: int
    answers: int
    output: int
    errors: int
    stage: int


def explain(error: Exception) -> frames.Message:
    """An exception as a message, which the parent turns into the same."""
    for key, kind in TYPES.items():
        if isinstance(error, kind):
            return {key: str(error)}
    text = "".join(traceback.format_exception(error))
    return {"internal": f"{type(error).__name__}: {error}", "traceback": text}


def work(posts: Posts, parent: int, setup: Setup, loaded: InProcess | None) -> NoReturn:
    """Detach from the zygote, then answer questions."""
    os.setsid()
    die_with(parent)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (posts.output, 1), (posts.errors, 2)):
        os.dup2(source, target)
    faulthandler.enable(file=2, all_threads=False)
    faulthandler.register(WHERE_SIGNAL, file=2, all_threads=False)
    try:
        subject = loaded or put_under_test(setup).subject
        if not loaded:
            torch.zeros(1, device=subject.device.torch_device)  # opens the context, which takes seconds
    except Exception as error:  # noqa: BLE001 - the parent raises it
        frames.send(posts.answers, {"number": 0, **explain(error)})
        os._exit(1)
    Worker(posts, subject).serve()


class Worker:
    """Asks an implementation whose stage functions are watched."""

    def __init__(self, posts: Posts, subject: InProcess) -> None:
        self._posts = posts
        self._pid = os.getpid()
        self._flush_c = ctypes.CDLL(None).fflush
        self._printed: dict[str, Finding] = {}
        self._case = Case()
        stages = {name: self._watch(name, function) for name, function in subject.implementation.stages.items()}
        self._subject = replace(subject, implementation=replace(subject.implementation, stages=stages))

    def serve(self) -> NoReturn:
        """Answer until there are no more questions."""
        self._take_output()
        frames.send(self._posts.answers, {"number": 0, "facts": from_facts(self._subject.facts)})
        while (question := frames.receive(self._posts.questions)) is not None:
            self._announce("", "")
            self._printed.clear()
            answer = self._answer(question)
            if os.getpid() != self._pid:  # a stage has forked, and came back twice
                os._exit(0)
            frames.send(self._posts.answers, {"number": question["number"], **answer})
            if "poisoned" in answer:
                os._exit(0)
        os._exit(0)

    def _answer(self, question: frames.Message) -> frames.Message:
        try:
            case = self._case = Case.parse(question["case"])
            if question["do"] == "narrow":
                return {"case": self._subject.narrow(case).model_dump(mode="json")}
            if question["do"] == "run":
                outcome = self._subject.run(case, frozenset(question["only"]))
            else:
                signature = Signature.parse(question["signature"])
                outcome = self._subject.ask(case, signature, frozenset(question["only"]))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            why = error_of(self._subject.device)
            return {"poisoned": why} if why else explain(error)
        outcome.findings += self._printed.values()
        if outcome.findings and (why := error_of(self._subject.device)):
            return {"poisoned": why}
        return {"outcome": from_outcome(outcome)}

    def _watch(self, stage: str, function: StageFunction) -> StageFunction:
        """A stage function that says when it runs, and does not print."""

        @functools.wraps(function)
        def watched(**arguments: Any) -> Any:
            broken = beyond(self._subject.implementation.contract, stage, self._case)
            self._announce(f"+{stage}", broken)
            try:
                return function(**arguments)
            except SystemExit as end:
                self._exit(end)
            finally:
                self._announce(f"-{stage}", broken)
                printed = self._take_output()
                if printed:
                    self._printed.setdefault(stage, replace(stray(stage, printed), beyond=broken))

        return watched

    def _exit(self, end: SystemExit) -> NoReturn:
        """End the process as Python would have; not as an exception, which oracles might hold."""
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr, flush=True)  # noqa: T201 - as Python does
        os._exit(1 if isinstance(code, str) else code & 0xFF)

    def _announce(self, stage: str, broken: str) -> None:
        """Leave a note of which stage runs, + or has run, -, and which clause of its contract the case breaks."""
        text = f"{stage}\n{broken}".encode()
        os.pwrite(self._posts.stage, text[:STAGE_BYTES].ljust(STAGE_BYTES), 0)

    def _take_output(self) -> bytes:
        """What standard output got since the last time, its first kilobytes."""
        sys.stdout.flush()
        self._flush_c(None)
        size = os.fstat(self._posts.output).st_size
        if not size:
            return b""
        printed = os.pread(self._posts.output, 1 << 12, 0)
        os.ftruncate(self._posts.output, 0)
        os.lseek(self._posts.output, 0, os.SEEK_SET)
        return printed


def stray(stage: str, printed: bytes) -> Finding:
    """The finding of a stage that printed something."""
    lines = printed.decode(errors="replace").splitlines() or [""]
    more = f" and {len(lines) - 1} more lines" if len(lines) > 1 else ""
    detail = f"printed to standard output: {lines[0][:MOST_QUOTED]!r}{more}"
    return Finding(stage, "stray-output", "stdout", detail)


def error_of(device: Device) -> str:
    """The error that a device keeps giving once a kernel has left it unusable, its first line; empty for none."""
    try:
        device.probe()
    except Exception as error:  # noqa: BLE001 - a CUDA error has no type of its own
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""
