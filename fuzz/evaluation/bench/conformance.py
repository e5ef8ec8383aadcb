"""How much of Triton's language lockstep has: Triton's own tests, each once in lockstep and once in its interpreter.

The tests are those of a checkout (python/test/unit/language), the items that Triton marks for its interpreter; a wheel
has none. Each side is a pytest process of its own, see conformance_plugin.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Final

import triton

from indexfuzz.evaluation.bench.interpreter import InterpreterError, interpreter
from indexfuzz.evaluation.bench.outcomes import Item, as_data, describe_outcomes, find_missed, read_outcomes

SUITE: Final = Path("python/test/unit/language")
PLUGIN: Final = "indexfuzz.evaluation.bench.conformance_plugin"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class ConformanceError(Exception):
    """The suite cannot be run. One sentence."""


def main(*, as_json: bool, path: str, every: int = 1, workers: Sequence[int] = ()) -> int:
    """Run the suite of a checkout on both sides and print the table, or JSON.

    `workers` is empty, for one process, or holds how many share the items of a side. Returns 0 where lockstep passes or
    refuses by name what the interpreter passes, 1 where such an item fails or takes too long, 2 where the suite cannot
    be run.
    """
    checkout, share = Path(path), max(workers, default=1)
    try:
        lockstep = run_suite(checkout, "lockstep", every, share)
        with interpreter() as beside:
            interpreted = run_suite(checkout, "interpreter", every, share, beside.environment)
    except (ConformanceError, InterpreterError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if as_json:
        data = {"triton": triton.__version__, "every": every, **as_data(lockstep, interpreted)}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        sys.stdout.write(f"{describe_outcomes(lockstep, interpreted)}\nTriton {triton.__version__}\n")
    return int(any(miss.is_wrong for miss in find_missed(lockstep, interpreted)))


def run_suite(
    checkout: Path, side: str, every: int, workers: int = 1, environment: Mapping[str, str] = _NOTHING
) -> dict[str, Item]:
    """Every nth item of a checkout's suite on one side, by name; so many processes share them.

    environment is what the processes are given besides this one's.

    Raises ConformanceError.
    """
    if not (checkout / SUITE).is_dir():
        raise ConformanceError(f"{checkout} is no checkout of Triton: it has no {SUITE}")
    with ThreadPoolExecutor(workers) as pool:
        shares = [
            pool.submit(_run_share, checkout, side, every * n, every * workers, environment) for n in range(workers)
        ]
    return {name: item for share in shares for name, item in share.result().items()}


def _run_share(checkout: Path, side: str, first: int, every: int, given: Mapping[str, str]) -> dict[str, Item]:
    """The items of one process: every nth, from the first."""
    suite, root = checkout / SUITE, checkout / "python"
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        words = ["-q", "-p", PLUGIN, "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors"]
        words += [f"--rootdir={root}", f"--confcutdir={root}", "--device=cpu"]
        words += [f"--conformance-side={side}", f"--conformance-results={results}"]
        words += [f"--conformance-first={first}", f"--conformance-every={every}"]
        words += ["--lockstep"] if side == "lockstep" else []
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {"PYTHONSAFEPATH": "1", **given}
        if side == "interpreter":
            environment["TRITON_INTERPRET"] = "1"
        command = [sys.executable, "-m", "pytest", *words, str(suite.resolve())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)  # noqa: S603
        if not results.is_file():
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise ConformanceError(f"no item of {suite} could be run: {''.join(last)}")
        return read_outcomes(results.read_text(encoding="utf-8").splitlines())
