"""Finding: one violation, its signature, and one exception type per signature.

Hypothesis tells failures apart by exception type and place, so each signature raises a type of its own; with a single
type it would report one bug of several.
"""

import re
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from indexfuzz.core.kinds import check_kind
from indexfuzz.core.signature import Signature
from indexfuzz.core.words import location_from_here

MOST_NAMED = 100
"""Characters of the name of an exception that are kept in a signature."""

_IN_STEP = re.compile(r"step (\d+) of the session: ")


def promise(beyond: str) -> str:
    """In words: within a contract, or beyond it, and then which clause is broken."""
    return f"beyond the contract: {beyond}" if beyond else "within the contract"


@dataclass(frozen=True)
class Finding:
    """One violation: where, what, and the first wrong element.

    `stage` is empty where a check or a device made it, which do not know what they look at; `at` says so later.
    """

    stage: str
    kind: str
    output: str
    detail: str
    feature: str = ""
    index: tuple[int, ...] = ()
    got: str = ""
    want: str = ""
    tier: str = ""
    location: str = field(default="", compare=False)
    beyond: str = ""
    """The clause of the implementation's contract that the case breaks, with its place; empty within the contract."""
    view: str = field(default="", compare=False)
    """file:line where the launcher made the view, by torch.as_strided, through which memory was misused."""
    tensor: str = field(default="", compare=False)
    """The argument of the stage whose memory was misused, where that is known."""
    layout: str = field(default="", compare=False)
    """The layout that the cache was taken for, where that explains all that is wrong."""
    hint: str = ""
    """What explains all that is wrong, where something does; `detail` says it, too."""

    def __post_init__(self) -> None:
        check_kind(self.kind)

    @property
    def signature(self) -> Signature:
        """What the finding is about. An exception may have any name: it is cut, and what breaks the text replaced."""
        output = re.sub(r"[/\x00-\x1f\x7f-\x9f]", "?", self.output[:MOST_NAMED])
        return Signature(self.stage, self.kind, output, self.feature, bool(self.beyond))

    def at(self, stage: str) -> "Finding":
        """The finding as one of a stage."""
        return replace(self, stage=stage)

    def with_hint_of(self, larger: "Finding") -> "Finding":
        """The finding with the hint of the same one in a larger case, where its own case is too small for any."""
        if self.hint or not larger.hint:
            return self
        return replace(self, detail=f"{self.detail}; in a larger case, {larger.hint}", hint=larger.hint)

    @property
    def promise(self) -> str:
        """Whether the implementation promises to handle the case, and if not, what its project says."""
        return promise(self.beyond)

    @property
    def place(self) -> str:
        """Where in the code it happened, as read from the current folder; empty where nothing is known of that."""
        view = f"through the view made at {location_from_here(self.view)}" if self.view else ""
        return ", ".join(part for part in (location_from_here(self.location), view) if part)

    def as_json(self) -> dict[str, Any]:
        """The finding as plain JSON data, empty fields left out."""
        data = {name: value for name, value in asdict(self).items() if value not in ("", ())}
        return {"signature": str(self.signature), "contract": "beyond" if self.beyond else "within"} | data


def complaint(
    kind: str,
    output: str,
    detail: str,
    index: tuple[int, ...] = (),
    got: str = "",
    want: str = "",
    *,
    feature: str = "",
    tier: str = "",
    location: str = "",
    view: str = "",
    tensor: str = "",
    hint: str = "",
) -> Finding:
    """What is wrong with one output, said by who does not know of which stage it is."""
    places = {"location": location, "view": view, "tensor": tensor}
    return Finding("", kind, output, detail, feature, index, got, want, tier, hint=hint, **places)


class FindingError(AssertionError):
    """Raised for a new finding; every signature has a subclass of its own."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(summary_line(finding))
        self.finding = finding


@cache
def _error_type(signature: Signature) -> type[FindingError]:
    return type(signature.type_name, (FindingError,), {"__doc__": str(signature), "__module__": __name__})


def error_for(finding: Finding) -> FindingError:
    """The exception to raise for a finding."""
    return _error_type(finding.signature)(finding)


def seen_once(finding: Finding) -> Finding:
    """What remains of a finding that its own case does not show again."""
    detail = f"seen once, and not again on the same case: {finding.detail}"
    return replace(finding, kind="nondeterministic", detail=detail)


def in_step(finding: Finding, number: int) -> Finding:
    """A finding of a step of a session, which says so."""
    return replace(finding, detail=f"step {number} of the session: {finding.detail}")


def split_step(detail: str) -> tuple[int, str]:
    """The step of a session that what is said of a finding begins with, 0 where it names none, and the rest of it."""
    found = _IN_STEP.match(detail)
    return (int(found[1]), detail[found.end() :]) if found else (0, detail)


def summary_line(finding: Finding) -> str:
    """A finding as one line: signature, detail, and whether the contract covers it."""
    return f"{finding.signature}: {finding.detail} ({finding.promise})"
