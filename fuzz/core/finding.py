"""Finding: one violation, its signature, and one exception type per signature.

Two findings with the same signature are the same bug. Hypothesis tells failures apart by exception type and place, so
each signature raises a type of its own; with a single type it would report one bug of several.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

KINDS = frozenset(
    {
        "crash",
        "hang",
        "rejected",
        "not-rejected",
        "guard-write",
        "out-of-bounds",
        "misaligned",
        "race",
        "overflow",
        "promise",
        "uninitialised",
        "input-mutated",
        "unwritten",
        "shape",
        "code-mismatch",
        "layout-mismatch",
        "bound-exceeded",
        "mask-mismatch",
        "illegal-topk",
        "nondeterministic",
        "state-kept",
        "not-in-place",
        "stray-output",
    }
)
"""Every way to be wrong, besides metamorphic/<relation>."""

BEYOND = "beyond-contract"
"""Last feature of a signature where the case breaks the contract: such a finding never hides one within it."""


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

    def __post_init__(self) -> None:
        if self.kind not in KINDS and not self.kind.startswith("metamorphic/"):
            raise ValueError(f"{self.kind!r} is no kind of finding")

    @property
    def signature(self) -> str:
        """stage/kind/output, a discriminating feature where there is one, and BEYOND where no contract covers it."""
        features = (self.feature, BEYOND if self.beyond else "")
        return "/".join(part for part in (self.stage, self.kind, self.output, *features) if part)

    def at(self, stage: str) -> "Finding":
        """The finding as one of a stage."""
        return replace(self, stage=stage)

    @property
    def promise(self) -> str:
        """Whether the implementation promises to handle the case, and if not, what its project says."""
        return promise(self.beyond)

    def as_json(self) -> dict[str, Any]:
        """The finding as plain JSON data, empty fields left out."""
        data = {name: value for name, value in asdict(self).items() if value not in ("", ())}
        return {"signature": self.signature, "contract": "beyond" if self.beyond else "within"} | data


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
) -> Finding:
    """What is wrong with one output, said by who does not know of which stage it is."""
    return Finding("", kind, output, detail, feature, index, got, want, tier, location)


class FindingError(AssertionError):
    """Raised for a new finding; every signature has a subclass of its own."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(f"{finding.signature}: {finding.detail} ({finding.promise})")
        self.finding = finding


@cache
def _error_type(signature: str) -> type[FindingError]:
    name = "".join(word.capitalize() for word in signature.replace("_", "-").replace("/", "-").split("-"))
    return type(name, (FindingError,), {"__doc__": signature, "__module__": __name__})


def error_for(finding: Finding) -> FindingError:
    """The exception to raise for a finding."""
    return _error_type(finding.signature)(finding)


def summary_line(finding: Finding) -> str:
    """A finding as one line: signature, detail, and whether the contract covers it."""
    return f"{finding.signature}: {finding.detail} ({finding.promise})"
