"""How much of Triton's language lockstep has: Triton's own tests, each once in lockstep and once in its interpreter.

The tests are those of a checkout (python/test/unit/language), the items that Triton marks for its interpreter; a wheel
has none. Each side is a pytest process of its own, see conformance_plugin.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import triton

from indexfuzz.evaluation.bench.interpreter import InterpreterError, interpreter

SUITE: Final = Path("python/test/unit/language")
PLUGIN: Final = "indexfuzz.evaluation.bench.conformance_plugin"
OUTCOMES: Final = ("passed", "refused", "failed", "skipped")
_REFUSED: Final = "Skipped: lockstep: "
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_SHOWN: Final = 20
"""Reasons that are listed."""


class ConformanceError(Exception):
    """The suite cannot be run. One sentence."""


@dataclass(frozen=True)
class Item:
    """What became of one test item on one side; skipped: the test itself wants something else."""

    outcome: str
    reason: str


def main(*, as_json: bool, path: str, every: int = 1, workers: Sequence[int] = ()) -> int:
    """Run the suite of a checkout on both sides and print the table, or JSON.

    `workers` is empty, for one process, or holds how many share the items of a side. Returns 0 where lockstep passes or
    refuses by name what the interpreter passes, 1 where such an item fails, 2 where the suite cannot be run.
    """
    checkout, share = Path(path), max(workers, default=1)
    try:
        lockstep = run_suite(checkout, "lockstep", every, share)
        with interpreter() as beside:
            interpreted = run_suite(checkout, "interpreter", every, share, beside.environment)
    except (ConformanceError, InterpreterError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    missed = compare(lockstep, interpreted)
    if as_json:
        sides = {"lockstep": count(lockstep), "interpreter": count(interpreted)}
        data = {"triton": triton.__version__, "every": every, **sides, "missed": missed}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        sys.stdout.write(describe(lockstep, interpreted, missed) + "\n")
    return 1 if any(item["outcome"] == "failed" for item in missed) else 0


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
        return read_results(results.read_text(encoding="utf-8").splitlines())


def read_results(lines: Sequence[str]) -> dict[str, Item]:
    """What the plugin wrote, by item; an item that failed at any point has failed."""
    found: dict[str, Item] = {}
    for line in lines:
        data = json.loads(line)
        outcome = "refused" if str(data["reason"]).startswith(_REFUSED) else str(data["outcome"])
        if data["item"] not in found or outcome == "failed":
            found[data["item"]] = Item(outcome, str(data["reason"]).removeprefix(_REFUSED))
    return found


def count(items: dict[str, Item]) -> dict[str, int]:
    """How many items came to each outcome."""
    counted = Counter(item.outcome for item in items.values())
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def compare(lockstep: dict[str, Item], interpreter: dict[str, Item]) -> list[dict[str, Any]]:
    """The items that the interpreter passes and lockstep does not."""
    return [
        {"item": name, "outcome": item.outcome, "reason": item.reason}
        for name, item in lockstep.items()
        if item.outcome != "passed" and interpreter.get(name, item).outcome == "passed"
    ]


def describe(lockstep: dict[str, Item], interpreter: dict[str, Item], missed: list[dict[str, Any]]) -> str:
    """The table, what lockstep has of what the interpreter passes, and the reasons for the rest."""
    sides = {"lockstep": count(lockstep), "interpreter": count(interpreter)}
    lines = [f"{'':12}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
    lines += [f"{side:12}" + "".join(f"{n:9}" for n in counted.values()) for side, counted in sides.items()]
    passed = sides["interpreter"]["passed"]
    share = f" ({100 * (passed - len(missed)) / passed:.2f} %)" if passed else ""
    lines.append(
        f"\nOf {passed} items that Triton's interpreter passes, lockstep passes {passed - len(missed)}{share}; "
        f"Triton {triton.__version__}"
    )
    reasons = Counter((item["outcome"], _name(item["item"]), item["reason"]) for item in missed)
    lines += [
        f"{times:5} {outcome}: {name}: {reason}" for (outcome, name, reason), times in reasons.most_common(_SHOWN)
    ]
    if len(reasons) > _SHOWN:
        lines.append(f"      and {len(reasons) - _SHOWN} other reasons; --json has them all")
    return "\n".join(lines)


def _name(item: str) -> str:
    """A test without its parameters and folder."""
    return item.partition("[")[0].rpartition("/")[2]
