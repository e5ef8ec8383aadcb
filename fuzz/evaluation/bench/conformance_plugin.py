"""The pytest plugin with which a suite of Triton's tests runs in lockstep or in Triton's interpreter, item by item.

Both sides take the same items, those marked `interpreter`, and the same path through them: tests ask the environment
whether kernels are interpreted. In lockstep that is a fib, told after Triton has read the environment; only where a
test expects an error of the interpreter's own class, it has to be what the compiler raises.
"""

import linecache
import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from triton import knobs

from indexfuzz.evaluation.bench.item_limit import limited
from indexfuzz.evaluation.bench.outcomes import OutcomeWriter
from indexfuzz.lockstep.triton_api.driver import CAPABILITY, stand_in_driver
from indexfuzz.lockstep.triton_api.errors import CompilationError

SIDES: Final = ("lockstep", "interpreter")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the bench says to its children."""
    parser.addoption("--conformance-results", required=True)
    parser.addoption("--conformance-side", required=True, choices=SIDES)
    parser.addoption("--conformance-every", type=int, default=1)
    parser.addoption("--conformance-first", type=int, default=0)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let the tests believe that kernels are interpreted, and find the GPU that some modules ask for on import."""
    knobs.runtime.interpret = _in_lockstep(config) is False
    os.environ["TRITON_INTERPRET"] = "1"
    torch.cuda.get_device_capability = lambda device=None: CAPABILITY  # noqa: ARG005 - the name is torch's
    stack = ExitStack()
    stack.enter_context(stand_in_driver())
    config.add_cleanup(stack.close)
    config.pluginmanager.register(OutcomeWriter(Path(config.getoption("--conformance-results"))))


def _in_lockstep(config: pytest.Config) -> bool:
    return bool(config.getoption("--conformance-side") == "lockstep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every nth of the items that are marked for interpreters, from the one that is named."""
    marked = [item for item in items if item.get_closest_marker("interpreter")]
    items[:] = marked[config.getoption("--conformance-first") :: config.getoption("--conformance-every")]
    if _in_lockstep(config):
        for item in items:
            if isinstance(item, pytest.Function):
                setattr(item.module, "exec", _execute)  # noqa: B010 - the name is Python's
                if hasattr(item.module, "InterpreterError"):
                    item.module.InterpreterError = CompilationError


def _execute(source: str, *scopes: Any) -> None:
    """What `exec` does, with the source kept where a jit function made by it can be read again."""
    name = f"<conformance {len(linecache.cache)}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(compile(source, name, "exec"), *scopes)  # noqa: S102


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Give an item its time."""
    with limited():
        return (yield)
