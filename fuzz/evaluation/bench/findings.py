"""What a finding hands to people, for every planted bug: a script, a picture, a line of the kernel, an explanation.

A campaign finds each bug and makes its case minimal. Then the script must fail on the kernels with the bug and pass on
those without, a picture must show a difference, a line of a kernel must be named (or that none did it), and a change of
the case must be known that makes it pass. Written to docs/findings-for-people.md once every bug has a result.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.forked import cpu_seconds
from indexfuzz.core.setup import Setup
from indexfuzz.devices import open_device
from indexfuzz.evaluation.bench.detection import campaign_sight
from indexfuzz.evaluation.bench.shrinking import Size, measure_both
from indexfuzz.evaluation.bench.shrinking import tell as tell_shrinking
from indexfuzz.evaluation.kept import Kept, keep_page, measure_all
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.implementations.faults import load_faults
from indexfuzz.report.pictures.draw import draw
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest, put_under_test
from indexfuzz.triage.explain import explain
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.minimize import NotFailingError
from indexfuzz.triage.prove import Proof, run_script
from indexfuzz.triage.repro import script

SECONDS = 60.0
EXPLAIN_SECONDS = 20.0
"""Each of a core's time."""

MOST_CHARACTERS = 200
"""Of what is missing of a finding."""

ROOT = Path(__file__).parents[3]
PAGE = Path("docs/findings-for-people.md")

HEAD = """# What a finding hands to people

Made by `indexfuzz bench findings`; do not edit. A campaign finds each planted bug (seed 0) and makes its case minimal.
"script": "tells" where the standalone script fails with the bug and passes without it. "picture": what is drawn, where
it shows a difference, or that no kernel ran. "line": the line of the kernel that the values are told of, or of Python
that raised or returned it; "caller" where no kernel's store is to blame. "passes with": the first change of the case
that makes it pass, or that it shows whatever is changed, and how many changed cases show it.
"""

WITNESSES: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "gather-64-pages-above-4096": {"batch": {"prefill": ({"length": 4097, "new": 1},)}},
    "pool-four-drafts": {
        "batch": {"max_model_len": 16},
        "session": {
            "node": "pool",
            "ratio": 4,
            "steps": (
                {"turns": ({"request": 0, "new": 3, "drafts": 5},)},
                {"turns": ({"request": 0, "new": 4},)},
            ),
        },
    },
    "topk-one-short-at-2048": {"model": {"index_topk": 2048}, "batch": {"prefill": ({"length": 2049, "new": 1},)}},
    "ue8m0-zero-exponent-is-zero": {
        "model": {"scale_fmt": "ue8m0"},
        "cache": {"scales": "ue8m0"},
        "values": {"cache": "wide", "weights": "large"},
        "batch": {"prefill": ({"length": 64, "new": 1},)},
    },
}
"""What of a case shows a fault that takes a campaign longer than SECONDS to meet; all else is at its default."""


@dataclass(frozen=True)
class Handed:
    """What there is to hand over about one fault; empty where something is not to be had, and `misses` says why."""

    fault: str
    signature: str = ""
    tokens: int = 0
    shrunk: dict[str, Any] = field(default_factory=dict)
    """What it took to make the case small, as `shrinking.measure_both` says it."""
    script: str = ""
    picture: str = ""
    line: str = ""
    passes_with: str = ""
    everywhere: int = 0
    """Changed cases that show it, where no change makes it pass."""
    is_given: bool = False
    """Whether no campaign found it in time, and the case is a witness."""
    misses: tuple[str, ...] = ()


def measure(fault: str) -> dict[str, Any]:
    """All about the fault of an id, in this process: fields of Handed."""
    torch.set_num_threads(1)
    return asdict(_measure(fault))


def _measure(fault: str) -> Handed:
    target = put_under_test(Setup(faults=(fault,)))
    sight = campaign_sight(target.subject.implementation, target.subject.device, 0, seconds=SECONDS, clock=cpu_seconds)
    shown = (sight.case, sight.finding) if sight else witness(fault, target.subject)
    if shown is None:
        return Handed(fault, misses=(f"not found in {SECONDS:g} s of CPU time",))
    try:
        case, finding, shrunk = measure_both(shown[0], target.subject, shown[1].signature)
    except NotFailingError:  # it took a launch of an earlier case, which a campaign says of such a finding
        return Handed(fault, str(shown[1].signature), misses=("the case that showed it does not by itself",))
    found = hand_over(fault, target, case, finding)
    return replace(found, shrunk=shrunk, is_given=sight is None)


def witness(fault: str, subject: InProcess) -> tuple[Case, Finding] | None:
    """The case that is known to show a fault, and its first finding; None where none is known."""
    if fault not in WITNESSES:
        return None
    case = Case().replace(**{part: dict(fields) for part, fields in WITNESSES[fault].items()})
    findings = subject.run(case).findings
    return (case, findings[0]) if findings else None


def hand_over(
    fault: str,
    target: UnderTest[InProcess],
    case: Case,
    finding: Finding,
    *,
    prove: Callable[[str], Proof] = run_script,
) -> Handed:
    """What there is to hand over about a finding that a fault shows on a case."""
    misses: list[str] = []
    told = explain(case, finding.signature, target.subject, seconds=EXPLAIN_SECONDS, clock=time.process_time)
    if not told.remedies and not told.is_everywhere:
        misses.append("nobody knows what makes it pass" if told.complete else "no change found in the time there was")
    picture, line = _look(case, finding, target.subject)
    if not picture:
        misses.append("no picture")
    if not line:
        misses.append("no line")
    proof = _prove(fault, case, finding, target, prove)
    if proof != PROVED:
        misses.append(f"script: {proof}")
    return Handed(
        fault,
        str(finding.signature),
        Size.of(case).tokens,
        script=proof,
        picture=picture,
        line=line,
        passes_with=str(told.remedies[0]) if told.remedies else "",
        everywhere=told.showing if told.is_everywhere else 0,
        misses=tuple(misses),
    )


PROVED = "fails with it, passes without"
NOTHING_RAN = "none: no kernel ran"


def _prove(
    fault: str, case: Case, finding: Finding, target: UnderTest[InProcess], prove: Callable[[str], Proof]
) -> str:
    """Whether one and the same script tells the kernels with the bug from those without."""
    try:
        faulty = script(target.entry(case, finding), target)
    except (ReproError, ImplementationError) as error:
        return str(error)
    right = faulty.replace(f"plant(({fault!r},))", "plant(())")
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
    picture = " and ".join(titles) or ("" if look.recorder.launches else NOTHING_RAN)
    return picture, Path(look.place()).name or ("caller" if look.sentences() else "")


def as_markdown(found: Sequence[dict[str, Any]], *, of: int) -> str:
    """The table, fields of Handed, and above it how many have what, and how many of so many faults were looked at."""
    seen = [each for each in found if each["signature"]]
    count = len(found)
    given = sum(each["is_given"] for each in seen)
    lines = [HEAD.rstrip(), ""]
    lines.append(f"- {count} of {of} planted bugs were looked at, {len(seen) - given} of them found in time.")
    if given:
        words = "bug takes" if given == 1 else "bugs take"
        lines.append(
            f"- {given} {words} a campaign longer than {SECONDS:g} s; a case that shows it was given, marked *."
        )
    lines.append(
        f"- {sum(each['script'] == PROVED for each in found)} of {count} scripts tell the bug from its absence."
    )
    nothing = sum(each["picture"] == NOTHING_RAN for each in found)
    drawn = sum(bool(each["picture"]) for each in found) - nothing
    and_none = f"; of {nothing} there is nothing to draw, as no kernel ran" if nothing else ""
    lines.append(f"- {drawn} of {count} pictures show a difference{and_none}.")
    lines.append(f"- {sum(bool(each['line']) for each in found)} of {count} name a line, or that a caller did it.")
    always = sum(bool(each["everywhere"]) for each in found)
    and_always = f"; {always} show with every change that could be judged, which says as much" if always else ""
    named = sum(bool(each["passes_with"]) for each in found)
    lines.append(f"- {named} of {count} name a change that makes it pass{and_always}.")
    lines += [
        "",
        "| fault | signature | tokens | script | picture | line | passes with |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        signature = f"`{each['signature']}`" if each["signature"] else "not found"
        name = f"{each['fault']} *" if each["is_given"] else each["fault"]
        never = f"none: {each['everywhere']} changes show it, too" if each["everywhere"] else ""
        proof = "tells" if each["script"] == PROVED else "no" if each["script"] else ""
        cells = (name, signature, each["tokens"], proof, each["picture"], each["line"], each["passes_with"] or never)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    shrunk = [each["shrunk"] for each in seen if each["shrunk"]]
    small = [*tell_shrinking(shrunk), ""] if shrunk else []
    return "\n".join([*lines, "", *small, *_misses(found)]) + "\n"


def _misses(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "## What is missing"
    yield ""
    missing = [each for each in found if each["misses"]]
    yield from (f"- {each['fault']}: {shorten('; '.join(each['misses']), MOST_CHARACTERS)}." for each in missing)
    if not missing:
        yield "Nothing."


def main(*, as_json: bool, faults: Sequence[str] = ()) -> int:
    """Look at every fault without a result, or again at those of `faults`; print the table of all results.

    Results are kept in build/findings, so that a run that was stopped goes on where it was; once every fault has one,
    the table is written to docs/. Returns 1 where something is missing.
    """
    open_device("lockstep")
    known = [*load_faults()]
    found = measure_all(known, measure, Kept(ROOT / "build" / "findings"), again=faults, tell=_tell)
    text = as_markdown(found, of=len(known))
    whole = len(found) == len(known)
    keep_page(text, ROOT, PAGE, missing="" if whole else f"{len(found)} of {len(known)} have a result")
    print(json.dumps(found, indent=1) if as_json else text)  # noqa: T201
    return int(not whole or any(result["misses"] for result in found))


def _tell(fault: str, result: dict[str, Any]) -> None:
    print(f"{fault}: {', '.join(result['misses']) or 'complete'}", file=sys.stderr, flush=True)  # noqa: T201
