"""What the findings of a case say to a campaign: something new, what is known, or a symptom of what was found."""

from collections.abc import Collection, Iterator, Sequence

from indexfuzz.campaign.events import Explained, Known, Seen
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.oracles.mistakes import Mistakes


class Judge:
    """Turns outcomes into events, in the order in which the cases were drawn.

    Each signature that is not known before is told once as Seen or as Explained, and as Explained again where its cause
    comes later, with the case that showed it first. So no signature goes without a case, whichever comes first.
    """

    def __init__(self, known: Collection[Signature] = ()) -> None:
        self._mistakes = Mistakes(known)
        self._seen: dict[Signature, Seen] = {}

    def judge(self, outcome: Outcome) -> Iterator[Seen | Known | Explained]:
        """What a case says: first what stands for itself in it, then what follows from that in the same launch."""
        for finding in outcome.findings:
            yield from self._judge(finding, outcome.case, outcome.findings)
        for finding in outcome.consequences:
            if finding.signature not in self._mistakes:
                yield Explained(finding, outcome.case, self._mistakes.put_down(finding, outcome.findings))

    def rename(self, seen_as: Signature, finding: Finding, case: Case) -> None:
        """Take note that what was seen under one signature is a finding of another."""
        self._seen.pop(seen_as, None)
        self._mistakes.add(finding)
        self._seen[finding.signature] = Seen(finding, case)

    def symptoms_of(self, signature: Signature) -> list[Signature]:
        """The other signatures under which a mistake was seen, in the order in which they were."""
        return self._mistakes.symptoms_of(signature)

    def _judge(self, finding: Finding, case: Case, beside: Sequence[Finding]) -> Iterator[Seen | Known | Explained]:
        """Take a finding for new, or for one more sight of a mistake that is known."""
        signature, is_first = finding.signature, finding.signature not in self._mistakes
        mistake = self._mistakes.explain(finding, beside)
        if mistake is None:
            self._seen[signature] = Seen(finding, case)
            yield self._seen[signature]
        elif is_first and mistake != signature:
            yield Explained(finding, case, mistake)
        else:
            yield Known(finding, case, mistake)
        for symptom in self._mistakes.add(finding):
            if (first := self._seen.pop(symptom, None)) is not None:
                yield Explained(first.finding, first.case, mistake or signature)
