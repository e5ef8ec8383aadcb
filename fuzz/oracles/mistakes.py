"""The mistakes that a campaign has come across: of each further finding, which of them it shows, or that it is new."""

from collections.abc import Collection, Iterable

from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.oracles.causes import cause_among


class Mistakes:
    """Remembers what was found. `known` are the signatures that were known before.

    A signature that was known before hides nothing but itself, and broken relations of a stage that is known to be
    wrong: an open shallow bug must not hide a deep one. What was found since also takes with it what `cause_among` puts
    down to it, and what showed beside it, in the same stage of the same case.
    """

    def __init__(self, known: Collection[Signature] = ()) -> None:
        self._known = frozenset(known)
        self._found: dict[Signature, Finding] = {}
        self._symptoms: dict[Signature, Signature] = {}

    def explain(self, finding: Finding, beside: Iterable[Finding] = ()) -> Signature | None:
        """The signature of the mistake that a finding shows, its own where that is known; None where it is new.

        `beside` are all findings of its case.
        """
        signature = finding.signature
        if signature in self._known or signature in self._found:
            return signature
        if signature.relation:
            caught = next((known for known in self._known if _is_caught(finding.stage, known)), None)
            if caught is not None:
                return caught
        cause = cause_among(finding, self._found.values()) or next(
            (self._found[f.signature] for f in beside if f.signature in self._found and _share_a_launch(f, finding)),
            None,
        )
        if cause is not None:
            self._symptoms[signature] = cause.signature
        return self._symptoms.get(signature)

    def add(self, finding: Finding) -> list[Signature]:
        """Remember a new mistake; the signatures found before that turn out to be no more than symptoms of it."""
        symptoms = [s for s, found in self._found.items() if cause_among(found, [finding]) and s != finding.signature]
        for symptom in symptoms:
            del self._found[symptom]
            self._symptoms[symptom] = finding.signature
        self._found[finding.signature] = finding
        return symptoms

    def symptoms_of(self, signature: Signature) -> list[Signature]:
        """The other signatures under which a mistake was seen, in the order in which they were."""
        return [symptom for symptom, cause in self._symptoms.items() if cause == signature]


def _share_a_launch(one: Finding, other: Finding) -> bool:
    return one.stage == other.stage and one.beyond == other.beyond


def _is_caught(stage: str, signature: Signature) -> bool:
    """Whether a signature is about a stage that was compared with the reference."""
    return signature.stage == stage and not signature.relation
