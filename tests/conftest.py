"""Shared by the tests: the reference as an implementation, and a device that runs plain PyTorch."""

import contextlib
import io
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from indexfuzz import __main__ as cli
from indexfuzz.core.contract import Clauses
from indexfuzz.core.forked import call_forked
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.devices.base import Session
from indexfuzz.devices.plain import PlainSession
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import CONTRACT
from indexfuzz.reference import rope as rope_reference
from indexfuzz.reference.arithmetic import PRESETS
from indexfuzz.stages.table import STAGES
from indexfuzz.triage.prove import Proof


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests find is none of the findings of the job that runs them."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture
def indexfuzz(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder of its own, where the toys beside this file can be imported.

    -> (exit code, standard output, standard error).
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["indexfuzz", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def _lazy_memory() -> Iterator[None]:
    """A test that leaves torch filling what it allocates has all that follow touch gigabytes that are never used."""
    yield
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)  # which imports half of torch.compile, 1.5 s, whatever it is told
        pytest.fail("a test has left torch's deterministic algorithms on")


class PyTorchDevice:
    name = "pytorch"
    torch_device = "cpu"
    home = "cpu"
    forks = True
    rehearses = False
    formats = ("e4m3fn", "e4m3fnuz")
    values_per_shape = 1
    repeats = 3
    unsupported: tuple[type[Exception], ...] = ()
    broken: tuple[type[Exception], ...] = ()

    def probe(self) -> None:
        pass

    def lacks_memory(self, error: Exception) -> bool:
        return False

    @contextmanager
    def session(self) -> Iterator[Session]:
        yield PlainSession(self.guarantees)

    def guarantees(self, promises: Promises) -> Guarantees:
        return Guarantees(promises, PRESETS["ieee"])


def _rope(q, k, positions, cos_sin_cache, *, rope_dim, style, placement, mode):
    rotated = rope_reference.rope(q, k, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement)
    if mode == "inplace":
        q.copy_(rotated[0])
        k.copy_(rotated[1])
        return q, k
    return rotated


@pytest.fixture(scope="session")
def pytorch_device():
    return PyTorchDevice()


@pytest.fixture(scope="session")
def reference_with():
    """The reference as an implementation, some of its stages replaced: `reference_with(gather=broken)`."""

    def make(**replaced):
        stages = {stage.name: stage.reference for stage in STAGES} | {"rope": _rope} | replaced
        return Implementation("reference", stages, Clauses(CONTRACT.clauses))

    return make


@pytest.fixture
def run_copied() -> Callable[[str], Proof]:
    """Run a script as `run_script` does, in a copy of this process: a new one takes seconds to import what it needs."""

    def run(text: str) -> Proof:
        proof = call_forked(lambda: _run_as_main(text), 300)
        assert proof is not None, "the script killed its process"
        return proof

    return run


def _run_as_main(text: str) -> Proof:
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    linecache.cache["<stdin>"] = (len(text), None, text.splitlines(keepends=True), "<stdin>")
    shows, out = False, io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(text, "<stdin>", "exec"), main.__dict__)
        except SystemExit as end:
            shows = end.code not in (None, 0)
            out.write(end.code if isinstance(end.code, str) else "")
        except Exception as error:  # noqa: BLE001 - as the interpreter would
            shows = True
            out.write("".join(traceback.format_exception_only(error)))
    lines = out.getvalue().strip().splitlines()
    return Proof(shows, lines[-1] if lines else "")
