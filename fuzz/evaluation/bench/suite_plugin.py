"""The pytest plugin with which a project's tests run in lockstep or in Triton's interpreter, every launch timed.

It writes launches.jsonl and items.jsonl into the folder of `--suite-results`.
Both sides see the same GPU that is a CPU, and of an autotuned kernel the same configuration.
"""

import gc
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from indexfuzz.evaluation.bench.item_limit import limited
from indexfuzz.evaluation.bench.outcomes import OutcomeWriter
from indexfuzz.lockstep.programs.cuda import imitate_cuda
from indexfuzz.lockstep.programs.machine import RecordingLockstep
from indexfuzz.lockstep.programs.record import describe_arguments
from indexfuzz.lockstep.triton_api.driver import is_interpreting, stand_in_driver
from indexfuzz.lockstep.triton_api.routing import route_launches


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the bench says to its children."""
    parser.addoption("--suite-results", required=True)
    parser.addoption("--suite-every", type=int, default=1)
    parser.addoption("--suite-first", type=int, default=0)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Time what runs kernels on this side."""
    torch.set_num_threads(1)
    folder = Path(config.getoption("--suite-results"))
    launches = Launches(folder / "launches.jsonl")
    config.pluginmanager.register(OutcomeWriter(folder / "items.jsonl"))
    stack = ExitStack()
    config.add_cleanup(stack.close)
    stack.enter_context(_timing_interpreter(launches) if is_interpreting() else _timing_lockstep(launches))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every nth item, from the one that is named."""
    items[:] = items[config.getoption("--suite-first") :: config.getoption("--suite-every")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Give an item its time."""
    with limited():
        return (yield)


class Launches:
    """Appends the CPU time of every launch to a file, as a line of JSON."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextmanager
    def timed(self, function: Any, names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Time the block, which launches a kernel; Python collects its garbage at other times."""
        gc.disable()
        finished, started = False, time.process_time()
        try:
            yield
            finished = True
        finally:
            seconds = time.process_time() - started
            gc.enable()
            line = {
                "kernel": f"{function.__module__}.{function.__qualname__}",
                "arguments": describe_arguments(names, args, kwargs),
                "seconds": seconds,
                "finished": finished,
            }
            with self._file.open("a", encoding="utf-8") as results:
                results.write(json.dumps(line) + "\n")


@contextmanager
def _timing_lockstep(launches: Launches) -> Iterator[None]:
    launch = RecordingLockstep._record  # noqa: SLF001 - what is timed is the whole of a launch

    def launch_timed(self: Any, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with launches.timed(kernel.fn, kernel.arg_names, args, kwargs):
            launch(self, kernel, grid, args, kwargs)

    with _replaced(RecordingLockstep, "_record", launch_timed):
        yield


@contextmanager
def _timing_interpreter(launches: Launches) -> Iterator[None]:
    """Let tuners take the first configuration, as lockstep does."""
    with ExitStack() as stack:
        placement = stack.enter_context(imitate_cuda())
        stack.enter_context(stand_in_driver())
        stack.enter_context(route_launches(_refuse))
        run = interpreter.GridExecutor.__call__

        def run_timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            with placement.paused(), launches.timed(self.fn, self.arg_names, args, kwargs):
                return run(self, *args, **kwargs)

        stack.enter_context(_replaced(interpreter.GridExecutor, "__call__", run_timed))
        yield


def _refuse(kernel: Any, *_: Any) -> Any:
    raise RuntimeError(f"{kernel.fn.__name__} is compiled although kernels are interpreted")


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)
