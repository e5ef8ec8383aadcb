"""Triton's interpreter in a process of its own, beside the process that measures lockstep.

Triton reads TRITON_INTERPRET when it is imported, and the interpreter of older releases cannot run a loop over tensors
with numpy 2.4 or newer. Where it cannot, the process gets an older numpy from a cache folder that nothing else uses.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NUMPY = "numpy<2.4"
CHILD = "indexfuzz.evaluation.bench.interpreter_child"


class InterpreterError(Exception):
    """The interpreter cannot run, or cannot run a kernel. One sentence."""


class Interpreter:
    """A process that launches workloads under Triton's interpreter and says how long they took."""

    def __init__(self, process: "subprocess.Popen[str]", environment: dict[str, str]) -> None:
        self._process = process
        self.versions = self._answer()
        """numpy and triton, as the process sees them."""
        self.environment = environment
        """What the process has been given besides this one's environment, for others like it."""

    def seconds(self, implementation: str, stage: str, size: tuple[int, ...]) -> float:
        """Launch a workload once; the CPU time of the process.

        Raises InterpreterError when the interpreter cannot run it.
        """
        if self._process.stdin is not None:
            question = {"implementation": implementation, "stage": stage, "size": size}
            with suppress(BrokenPipeError):  # the answer will say that it ended
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        _stop(self._process)

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise InterpreterError(f"the interpreter's process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InterpreterError(answer["error"])
        return answer


@contextmanager
def interpreter(cache: Path | None = None) -> Iterator[Interpreter]:
    """The interpreter, with the numpy of this process where that works, else with an older one from `cache`.

    Raises InterpreterError when neither works.
    """
    try:
        child = _start({})
    except InterpreterError as first:
        folder = _older_numpy(cache or _default_cache(), first)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            child = _start({"PYTHONPATH": os.pathsep.join(paths)})
        except InterpreterError as second:
            raise InterpreterError(f"Triton's interpreter does not work here: {second}; before: {first}") from second
    try:
        yield child
    finally:
        child.close()


def _start(environment: dict[str, str]) -> Interpreter:
    given = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | given,
    )
    try:
        return Interpreter(process, given)
    except BaseException:
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "indexfuzz"


def _older_numpy(cache: Path, reason: InterpreterError) -> Path:
    """A folder with a numpy that the interpreter can run on, installed there the first time."""
    folder = cache / f"numpy-before-2.4-{sys.implementation.cache_tag}"
    if (folder / "numpy").is_dir():
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(  # noqa: S603
        [*command, "--target", str(folder), NUMPY], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InterpreterError(
            f"Triton's interpreter does not work with this numpy ({reason}), and an older one could not be installed "
            f"into {folder} ({last}); run the benchmark where pip can install {NUMPY}, or install that yourself"
        )
    return folder
