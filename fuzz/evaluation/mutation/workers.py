"""Examine many mutants in processes of their own: a mutant may hang, or take its process with it."""

import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from indexfuzz.evaluation.mutation.examine import Budget, Examiner, Result
from indexfuzz.evaluation.mutation.mutants import Mutant

GRACE = 30.0
"""CPU seconds beyond the budget of a mutant, for one slow case and for what is imported late."""

PATIENCE = 20
"""Wall seconds for each of those: a machine that has other things to do is not taken for a mutant that hangs."""


Serve = Callable[[Connection, Budget], None]


def _serve(connection: Connection, budget: Budget) -> None:
    """The child: answer mutants with results until there are no more."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    examiner = Examiner(budget)
    while (mutant := connection.recv()) is not None:
        # A mutant that spins ends the process: the signal has no handler.
        signal.setitimer(signal.ITIMER_PROF, budget.seconds + GRACE)
        try:
            answer: Result | str = examiner.examine(mutant)
        except Exception:  # noqa: BLE001 - an error of ours, to be raised in the parent
            answer = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(answer)


class ExaminationError(Exception):
    """Examining a mutant failed, which says nothing about the mutant."""


class Worker:
    """One child process, replaced when it hangs or dies; `serve` is what it does, `method` how it is started."""

    def __init__(self, budget: Budget, *, serve: Serve = _serve, method: str = "spawn") -> None:
        self._budget = budget
        self._serve = serve
        self._context = multiprocessing.get_context(method)
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        # Contexts of every method have Process, but the type of all of them does not say so.
        self._process = self._context.Process(  # type: ignore[attr-defined]
            target=self._serve, args=(theirs, self._budget), daemon=True
        )
        self._process.start()
        theirs.close()

    def examine(self, mutant: Mutant) -> Result:
        """The fate of a mutant; `hang` when it takes more CPU time than the budget and GRACE, or kills its process.

        Raises ExaminationError when it is the examination that fails.
        """
        self._connection.send(mutant)
        why = "no answer in time"
        try:
            if self._connection.poll((self._budget.seconds + GRACE) * PATIENCE):
                answer = self._connection.recv()
                if isinstance(answer, Result):
                    return answer
                raise ExaminationError(f"{mutant.id}: {answer}")
        except EOFError:
            self._process.join()
            if (self._process.exitcode or 0) >= 0:
                raise ExaminationError(f"{mutant.id}: the process ended") from None
            why = f"the process died of signal {-(self._process.exitcode or 0)}"
        self._process.kill()
        self._process.join()
        self._start()
        return Result(mutant, "hang", seconds=self._budget.seconds + GRACE, signature="hang", detail=why)

    def stop(self) -> None:
        """End the child."""
        self._connection.send(None)
        self._process.join(GRACE)
        self._process.kill()


def run_mutants(
    mutants: Sequence[Mutant],
    budget: Budget,
    *,
    workers: int = 1,
    on_result: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    """Examine mutants in that many processes; the results in the order of the mutants."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    results: dict[str, Result] = {}
    lock = threading.Lock()

    def work() -> None:
        worker = Worker(budget)
        try:
            while True:
                result = worker.examine(waiting.get_nowait())
                with lock:
                    results[result.mutant.id] = result
                    on_result(result)
        except queue.Empty:
            pass
        finally:
            worker.stop()

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for finished in [pool.submit(work) for _ in range(workers)]:
            finished.result()
    return [results[mutant.id] for mutant in mutants]
