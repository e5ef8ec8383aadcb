"""The mistakes that a campaign has come across: of each further finding, which of them it shows, or that it is new."""

from collections.abc import Collection, Iterable, Sequence

from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.oracles.causes import cause_among


class Mistakes:
    """Remembers what was found. `known` are the signatures that were known before.

    A signature that was known before hides nothing but itself, and broken relations of a stage that is known to be
    wrong: an open shallow bug must not hide a deep one. What was found since also takes with it what `cause_among` puts
    down to it or to a symptom of it, and what showed beside it, in the same stage of the same case.
    """

    def __init__(self, known: Collection[Signature] = ()) -> None:
        self._known = frozenset(known)
        self._found: dict[Signature, Finding] = {}
        self._causes: dict[Signature, Signature] = {}
        self._met = set(self._known)

    def __contains__(self, signature: Signature) -> bool:
        """Whether a signature was known before, or has been met since."""
        return signature in self._met

    def explain(self, finding: Finding, beside: Iterable[Finding] = ()) -> Signature | None:
        """The signature of the mistake that a finding shows, its own where that is known; None where it is new.

        `beside` are all findings of its case.
        """
        signature = finding.signature
        if (known := self._known_before(signature)) is not None:
            return known
        if signature not in self._found and signature not in self._causes:
            cause = cause_among(finding, self._found.values()) or next(
                (f for f in beside if f.signature in self._found and _share_a_launch(f, finding)), None
            )
            if cause is None:
                return None
            self._causes[signature] = self._mistake_of(cause.signature)
        return self._mistake_of(signature)

    def add(self, finding: Finding) -> list[Signature]:
        """Remember a finding; the mistakes found before that turn out to be symptoms of the one that it shows."""
        self._met.add(finding.signature)
        if self._known_before(finding.signature) is not None:
            return []
        mistake = self._mistake_of(finding.signature)
        self._found[finding.signature] = finding
        symptoms = [s for s, found in self._found.items() if s not in self._causes and cause_among(found, [finding])]
        symptoms = [s for s in symptoms if s != mistake]
        self._causes |= dict.fromkeys(symptoms, mistake)
        return symptoms

    def put_down(self, finding: Finding, beside: Sequence[Finding]) -> Signature:
        """Take note that a finding follows from one beside it, in one launch; the mistake that this one shows.

        Where that was known before, it hides the finding nowhere else. Raises ValueError where nothing explains it.
        """
        cause = cause_among(finding, beside)
        if cause is None:
            raise ValueError(f"nothing beside {finding.signature} explains it")
        self._met.add(finding.signature)
        if (known := self._known_before(cause.signature)) is not None:
            return known
        mistake = self._mistake_of(cause.signature)
        self._causes.setdefault(finding.signature, mistake)
        return mistake

    def symptoms_of(self, signature: Signature) -> list[Signature]:
        """The other signatures under which a mistake was seen, in the order in which they were."""
        return [symptom for symptom in self._causes if self._mistake_of(symptom) == signature]

    def _known_before(self, signature: Signature) -> Signature | None:
        if signature in self._known:
            return signature
        if not signature.relation:
            return None
        return min((known for known in self._known if _is_caught(signature.stage, known)), default=None)

    def _mistake_of(self, signature: Signature) -> Signature:
        while signature in self._causes:
            signature = self._causes[signature]
        return signature


def _share_a_launch(one: Finding, other: Finding) -> bool:
    return one.stage == other.stage and one.beyond == other.beyond


def _is_caught(stage: str, signature: Signature) -> bool:
    """Whether a signature is about a stage that was compared with the reference."""
    return signature.stage == stage and not signature.relation
