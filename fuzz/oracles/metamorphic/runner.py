"""Try metamorphic relations on one case: launch every stage and its twins, and compare."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.tracebacks import location_of
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.launching import describe_error, launch, launch_in, name_of
from indexfuzz.oracles.metamorphic.catalogue import relations_for
from indexfuzz.oracles.metamorphic.relation import Relation, Twin
from indexfuzz.oracles.walk import function_for, launches
from indexfuzz.stages.base import Agreement, Call, Stage, Tensors
from indexfuzz.stages.table import find


def run(
    case: Case,
    implementation: Implementation,
    device: Device,
    only: frozenset[str] = frozenset(),
    relations: Sequence[Relation] = (),
) -> Outcome:
    """Relations, all that hold for the case if none are named, on every stage; inputs come from the reference.

    A stage that fails by itself is skipped: `differential.run` reports it. Raises UnsupportedKernelError when the
    device cannot execute a kernel or has not the FP8 format.
    """
    outcome = Outcome(case)
    relations = relations or relations_for(case)
    for stage, step, call in launches(case, device):
        function = function_for(stage.name, case, implementation, only)
        wanted = [relation for relation in relations if stage.name in relation.twins]
        if function is None or not wanted:
            continue
        first = launch_in(step, stage.name, call, function, device)
        if first.error:
            continue
        outcome.stages.append(stage.name)
        trial = Trial(case, stage, call, first.outputs, implementation, device)
        outcome.findings += [finding for relation in wanted for finding in trial.of(relation)]
    return outcome


class Trial:
    """One launch, and the relations that are tried on it."""

    def __init__(
        self, case: Case, stage: Stage, call: Call, first: Tensors, implementation: Implementation, device: Device
    ) -> None:
        self._case = case
        self._stage = stage
        self._call = call
        self._first = first
        self._implementation = implementation
        self._device = device
        self._guarantees: Guarantees = device.guarantees(implementation.promises)
        self._masks = stage.determined(call, implementation.promises)

    def of(self, relation: Relation) -> Iterable[Finding]:
        """The findings of one relation, at most one for each output."""
        found: dict[str, Finding] = {}
        for twin in relation.twins[self._stage.name](self._case, self._call):
            function = function_for(twin.stage or self._stage.name, twin.case, self._implementation)
            if function is not None:
                for finding in self._compare(relation, twin, function):
                    found.setdefault(finding.output, finding)
        return found.values()

    def _compare(self, relation: Relation, twin: Twin, function: StageFunction) -> Iterable[Finding]:
        kind = relation.kind
        given = [call.copy() for call in twin.calls]
        others = []
        for call in twin.calls:
            launched = launch(twin.stage or self._stage.name, call, function, self._device)
            if launched.error and not twin.stage:  # else it is about another stage, on which it is reported
                words = f"{relation.change}: {describe_error(launched.error)}"
                location = location_of(launched.error)
                yield Finding(self._stage.name, kind, name_of(launched.error), words, location=location)
            if launched.error:
                return
            others.append(launched.copies())
        for output, (want, got) in twin.pairs(self._first, others).items():
            wrong = self._differs(self._agreement(relation), output, got, want)
            if bool(wrong.any()) and not (twin.stage and self._is_wrong(twin, given, others)):
                yield self._finding(kind, relation.change, output, got, want, wrong)

    def _is_wrong(self, twin: Twin, given: Sequence[Call], got: Sequence[Tensors]) -> bool:
        """Whether another stage that is to confirm this one is wrong itself."""
        judge = find(twin.stage).judge
        verdicts = [judge(twin.case, call, out, self._guarantees) for call, out in zip(given, got, strict=True)]
        return any(verdict.findings for verdict in verdicts)

    def _finding(self, kind: str, change: str, output: str, got: Tensor, want: Tensor, wrong: Tensor) -> Finding:
        index = describe.first(wrong)
        axes = self._stage.axes.get(output, describe.default_axes(got))
        seen, other = describe.text(got[index]), describe.text(want[index])
        words = describe.summary(got.float(), want.float(), wrong, axes)
        detail = f"{describe.place(index, axes)} is {seen}, but {other} {change}; {words}"
        return Finding(self._stage.name, kind, output, detail, index=index, got=seen, want=other, hint=words.hint)

    def _agreement(self, relation: Relation) -> Agreement:
        """What the relation asks, but the bits of a matrix product only from those who promise them."""
        free = relation.agreement == "bits" and not self._guarantees.promises.batch_invariant
        return "bounds" if free else relation.agreement

    def _differs(self, agreement: Agreement, output: str, got: Tensor, want: Tensor) -> Tensor:
        """Which elements, bool, differ more than they may."""
        wrong = describe.bits(got) != describe.bits(want)
        if output in self._masks:
            wrong &= self._masks[output][..., : got.shape[-1]] if got.dim() > 1 else self._masks[output]
        if not bool(wrong.any()):
            return wrong
        if agreement == self._stage.agreement != "bits":
            return wrong & ~self._stage.are_both_legal(self._call, output, got, want, self._guarantees)
        return wrong
