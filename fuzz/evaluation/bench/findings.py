"""What a finding hands to people, for every planted bug: a script, a picture, a line of the kernel, an explanation.

A campaign finds each bug and makes its case minimal. Then the script must fail on the kernels with the bug and pass on
those without, a picture must show a difference, a line of a kernel must be named (or that none did it), and a change of
the case must be known that makes it pass. Written to docs/findings-for-people.md.
"""

import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.devices import open_device
from indexfuzz.evaluation.bench.detection import campaign_sight
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.implementations.faults import load_faults
from indexfuzz.report.pictures.draw import draw
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest, put_under_test
from indexfuzz.triage.explain import explain
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.look import look_at
from indexfuzz.triage.minimize import minimise
from indexfuzz.triage.prove import Proof, run_script
from indexfuzz.triage.repro import script

SECONDS = 60.0
MINIMISE_SECONDS = 10.0
EXPLAIN_SECONDS = 20.0

HEAD = """# What a finding hands to people

Made by `indexfuzz bench findings`; do not edit. A campaign finds each planted bug (seed 0) and makes its case minimal.
"script": whether the standalone script fails with the bug and passes without it. "picture": what is drawn, where it
shows a difference. "line": the line of the kernel that the values are told of; "caller" where no kernel's store is to
blame. "passes with": the first change of the case that makes it pass.
"""


@dataclass(frozen=True)
class Handed:
    """What there is to hand over about one fault; empty where something is not to be had, and `misses` says why."""

    fault: str
    signature: str = ""
    tokens_found: int = 0
    tokens: int = 0
    script: str = ""
    picture: str = ""
    line: str = ""
    passes_with: str = ""
    misses: tuple[str, ...] = ()


def measure(fault: str) -> Handed:
    """All about the fault of an id, in this process."""
    torch.set_num_threads(1)
    target = put_under_test(Setup(faults=(fault,)))
    sight = campaign_sight(target.subject.implementation, target.subject.device, 0, seconds=SECONDS)
    if sight is None:
        return Handed(fault, misses=(f"not found in {SECONDS:g} s",))
    signature = sight.finding.signature
    case, finding = minimise(sight.case, target.subject, signature, seconds=MINIMISE_SECONDS)
    return hand_over(fault, target, case, finding, tokens_found=sight.case.batch.tokens)


def hand_over(
    fault: str,
    target: UnderTest[InProcess],
    case: Case,
    finding: Finding,
    *,
    tokens_found: int,
    prove: Callable[[str], Proof] = run_script,
) -> Handed:
    """What there is to hand over about a finding that a fault shows on a case."""
    misses: list[str] = []
    told = explain(case, finding.signature, target.subject, seconds=EXPLAIN_SECONDS)
    if not told.remedies:
        misses.append(
            "no single change makes it pass" if told.complete else "no change found in the time that there was"
        )
    picture, line = _look(case, finding, target.subject)
    if not picture:
        misses.append("no picture")
    if not line:
        misses.append("no line")
    proof = _prove(case, finding, target, prove)
    if proof != PROVED:
        misses.append(f"script: {proof}")
    return Handed(
        fault,
        str(finding.signature),
        tokens_found,
        case.batch.tokens,
        proof,
        picture,
        line,
        str(told.remedies[0]) if told.remedies else "",
        tuple(misses),
    )


PROVED = "fails with it, passes without"


def _prove(case: Case, finding: Finding, target: UnderTest[InProcess], prove: Callable[[str], Proof]) -> str:
    """Whether the script tells the kernels with the bug from those without."""
    clean = put_under_test(Setup())
    try:
        faulty, right = (script(each.entry(case, finding), each) for each in (target, clean))
    except (ReproError, ImplementationError) as error:
        return str(error)
    if not (proof := prove(faulty)).shows:
        return f"passes with the bug: {proof.last_line}"
    if (proof := prove(right)).shows:
        return f"fails without the bug: {proof.last_line}"
    return PROVED


def _look(case: Case, finding: Finding, subject: InProcess) -> tuple[str, str]:
    """What pictures show a difference, and which line the values are told of."""
    look = look_at(case, finding.signature, subject)
    if look is None:
        return "", ""
    titles = [picture.title.partition(":")[0] for picture in draw(look) if picture.mark]
    trace = look.trace()
    if trace:
        blamed = trace.lines[0]
        return " and ".join(titles), f"{Path(blamed.file).name}:{blamed.line}"
    return " and ".join(titles), "caller" if look.sentences() else ""


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, fields of Handed, and above it how many have what."""
    seen = [each for each in found if each["signature"]]
    count, sizes = len(found), [each["tokens"] for each in seen]
    lines = [HEAD.rstrip(), ""]
    lines.append(
        f"- {sum(each['script'] == PROVED for each in found)} of {count} scripts tell the bug from its absence."
    )
    for field, words in (("picture", "pictures show a difference"), ("line", "name a line, or that a caller did it")):
        lines.append(f"- {sum(bool(each[field]) for each in found)} of {count} {words}.")
    lines.append(f"- {sum(bool(each['passes_with']) for each in found)} of {count} name a change that makes it pass.")
    if seen:
        before = statistics.median(each["tokens_found"] for each in seen)
        lines.append(f"- The median case has {before:g} tokens as it was found, {statistics.median(sizes):g} minimal.")
    lines += [
        "",
        "| fault | signature | tokens | picture | line | passes with |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        cells = (each["fault"], f"`{each['signature']}`", each["tokens"], each["picture"], each["line"])
        lines.append(f"| {' | '.join(map(str, cells))} | {each['passes_with']} |")
    return "\n".join([*lines, "", *_misses(found)]) + "\n"


def _misses(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "## What is missing"
    yield ""
    missing = [each for each in found if each["misses"]]
    yield from (f"- {each['fault']}: {'; '.join(each['misses'])}." for each in missing)
    if not missing:
        yield "Nothing."


def main(*, as_json: bool) -> int:
    """Look at every fault, print the table and write it to docs/; 1 where something is missing."""
    open_device("lockstep")
    results, processes = [], max(1, (os.cpu_count() or 1) // 2)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(measure, load_faults()):
            results.append(result)
            print(f"{result.fault}: {', '.join(result.misses) or 'complete'}", file=sys.stderr, flush=True)  # noqa: T201
    found = [asdict(result) for result in results]
    text = as_markdown(found)
    (Path(__file__).parents[3] / "docs" / "findings-for-people.md").write_text(text, encoding="utf-8")
    print(json.dumps(found, indent=1) if as_json else text)  # noqa: T201
    return int(any(result.misses for result in results))
