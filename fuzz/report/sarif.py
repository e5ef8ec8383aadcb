"""Findings as SARIF 2.1.0, which code scanning reads: a rule for each kind, a result for each signature.

Section numbers are those of the OASIS standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from indexfuzz import __version__
from indexfuzz.core.kinds import meaning_of
from indexfuzz.core.signature import Signature
from indexfuzz.report.evidence import Evidence
from indexfuzz.report.places import find_checkout, name_in_checkout, place_in_checkout
from indexfuzz.report.story import Story
from indexfuzz.triage.replay import FAILING

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
CHECKOUT = "%SRCROOT%"
"""The name of the folder that addresses are relative to (3.14.14)."""


def as_sarif(evidence: Iterable[Evidence], story: Story | None = None) -> dict[str, Any]:
    """A log with one run, as plain JSON data.

    Of each signature there is one result, at the line of the kernel where that lies in the checkout, else at the kept
    case. What passes now is no result, nor what was not tried, is not kept as open and is not of the run.
    """
    told: dict[str, list[Evidence]] = {}
    for each in evidence:
        is_of_run = story is not None and each.signature in story.found
        if each.now in FAILING if each.now else is_of_run or each.status in ("open", "unconfirmed"):
            told.setdefault(each.signature, []).append(each)
    kinds = sorted({Signature.parse(signature).kind for signature in told})
    driver = {"name": "IndexFuzz", "semanticVersion": __version__, "rules": [_rule(kind) for kind in kinds]}
    about = f"{story.start.implementation.replace('/', '-')}/" if story else ""
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"indexfuzz/{about}"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, kinds) for each in told.values()],
    }
    if story:
        run["invocations"] = [_invocation(story)]
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(kind: str) -> dict[str, Any]:
    """A kind of finding (3.49); what is in it beyond the id, GitHub asks for."""
    meaning = f"A stage {meaning_of(kind)}."
    return {
        "id": kind,
        "shortDescription": {"text": meaning},
        "fullDescription": {"text": meaning},
        "help": {"text": "`indexfuzz show FILE` tells what the kept case is made of and what came out."},
        "properties": {"tags": ["correctness"], "problem.severity": "error"},
    }


def _result(told: Sequence[Evidence], kinds: Sequence[str]) -> dict[str, Any]:
    """A signature, from the cases that show it (3.27)."""
    first = told[0]
    kind = Signature.parse(first.signature).kind
    cases = [_location(*_case_place(each)) for each in told]
    file, line = next(filter(all, (place_in_checkout(each.location) for each in told)), ("", 0))
    result: dict[str, Any] = {
        "ruleId": kind,
        "ruleIndex": kinds.index(kind),
        "level": "error" if any(each.now or each.status != "unconfirmed" for each in told) else "warning",
        "message": {"text": f"{first.signature}: {first.detail} ({first.promise}). Again: indexfuzz show {first.file}"},
        "locations": [_location(quote(file), line, is_in_checkout=True)] if file else cases[:1],
        "relatedLocations": cases,
        "fingerprints": {"signature/v1": first.signature},
        # GitHub tells alerts apart by this one alone; made from the line, it would change as the file does.
        "partialFingerprints": {"primaryLocationLineHash": hashlib.sha256(first.signature.encode()).hexdigest()[:16]},
    }
    if links := sorted({each.link for each in told if each.link}):
        result["workItemUris"] = links
    return result


def _case_place(told: Evidence) -> tuple[str, int, bool]:
    """Address and first line of the file of a kept case, and whether it is one in the checkout."""
    file = Path(told.file).absolute()
    name = name_in_checkout(file, find_checkout())
    return (quote(name), 1, True) if name else (file.as_uri(), 1, False)


def _location(address: str, line: int, is_in_checkout: bool) -> dict[str, Any]:  # noqa: FBT001 - see _case_place
    artifact = {"uri": address} | ({"uriBaseId": CHECKOUT} if is_in_checkout else {})
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line}}}


def _invocation(story: Story) -> dict[str, Any]:
    """What there is to say of the run as a whole: whether it came to its end, and what could not be run (3.20)."""
    notifications = [{"level": "warning", "message": {"text": text}} for text in story.messages]
    return {"executionSuccessful": story.end is not None, "toolExecutionNotifications": notifications}
