"""All that an implementation launches of some cases, compiled: a process for each target.

A compiler may end its process: what it was compiling is a finding then, and another process goes on behind it.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from indexfuzz.compiling.examination import Examined, Wanted, examine, refused, unexamined
from indexfuzz.compiling.launches import Launch
from indexfuzz.compiling.specialisation import specialise
from indexfuzz.compiling.targets import Target
from indexfuzz.implementations.base import Implementation

FATAL = re.compile(r"LLVM ERROR: .*|.*Assertion .* failed.*")
"""What a compiler prints before it ends its process."""


def specialisations(launches: Iterable[Launch], implementation: Implementation, target: Target) -> list[Wanted]:
    """What has to be compiled for a target, each once.

    Raises what Triton does for a launch that no such target takes.
    """
    found: dict[Any, Wanted] = {}
    for stage, case, kernel, args, kwargs in launches:
        made = specialise(kernel, args, kwargs, target)
        may_widen = case.cache.scales in implementation.promises.wide_dots
        known = found.setdefault(made.key, Wanted(made, stage, may_widen))
        found[made.key] = replace(known, may_widen=known.may_widen and may_widen)
    return list(found.values())


def survey(wanted: Mapping[Target, Sequence[Wanted]]) -> Iterator[Examined]:
    """What comes of all that is wanted, as it comes."""
    running = {child.reads: child for child in (_Child(each) for each in wanted.values() if each)}
    try:
        while running:
            for reads in wait(list(running)):
                child = running.pop(reads)  # type: ignore[call-overload]
                yield child.receive()
                if child.left:
                    running[child.reads] = child
                else:
                    child.stop()
    finally:
        for child in running.values():
            child.stop()


class _Child:
    """A process that compiles what is left, and is replaced where it ends too early."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.left = list(wanted)
        self._start()

    def _start(self) -> None:
        context = get_context("fork")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.reads, writes = context.Pipe(duplex=False)
        self._process = context.Process(target=self._run, args=(writes,), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the copy has no use for
            self._process.start()
        writes.close()

    def _run(self, writes: Connection) -> None:
        os.dup2(self._errors.fileno(), 2)
        for each in self.left:
            writes.send(examine(each))

    def receive(self) -> Examined:
        """What came of the next one."""
        current = self.left.pop(0)
        try:
            examined: Examined = self.reads.recv()
        except EOFError:
            self._process.join()
            examined = refused(unexamined(current), self._last_words())
            self.stop()
            if self.left:
                self._start()
        return examined

    def _last_words(self) -> str:
        self._errors.seek(0)
        fatal = FATAL.search(self._errors.read().decode(errors="replace"))
        code = self._process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the compiler ended its process with {how}{f': {fatal[0]}' if fatal else ''}"

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()
        self.reads.close()
        self._errors.close()
