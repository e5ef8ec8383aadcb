"""Outcomes and facts as JSON data, and back."""

from dataclasses import asdict
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.subjects.subject import Facts


def from_outcome(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome but what it reached, which nobody looks at in a process of its own."""
    data = asdict(outcome) | {"case": outcome.case.model_dump(mode="json")}
    del data["reached"]
    return data


def to_outcome(data: dict[str, Any]) -> Outcome:
    """The outcome again.

    Raises CaseError, KeyError, TypeError or ValueError when it is none.
    """
    findings, consequences = (
        [Finding(**finding | {"index": tuple(finding["index"])}) for finding in data[name]]
        for name in ("findings", "consequences")
    )
    comparisons = [Comparison(**comparison) for comparison in data["comparisons"]]
    parts = {"case": Case.parse(data["case"]), "findings": findings, "comparisons": comparisons}
    parts["consequences"] = consequences
    return Outcome(**data | parts)


def from_facts(facts: Facts) -> dict[str, Any]:
    """All facts."""
    return asdict(facts)


def to_facts(data: dict[str, Any]) -> Facts:
    """The facts again."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    return Facts(**fields)
