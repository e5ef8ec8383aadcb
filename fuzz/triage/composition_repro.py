"""A script for the whole indexer that does something else than its stages one by one, alone or behind another step.

The script makes the step of the case, calls the whole, and has what its stages make of the same step in plain sight.
"""

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.case_words import describe_case
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles import composition, next_step
from indexfuzz.samples.step import Step
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.literals import MAX_PACKED, expression, helpers_for, raw
from indexfuzz.triage.repro_text import tell_finding
from indexfuzz.triage.whole import seen_logits

HEAD = """import base64
import zlib

import torch

from indexfuzz.core.case import Case
from indexfuzz.samples.materialise import materialise
"""

DEVICE = '\nDEVICE = "cuda" if torch.cuda.is_available() else "cpu"\n'
LOCKSTEP = '\nDEVICE = "cpu"  # on a GPU nothing shows this for certain\n'

RUN = '''

def run(step):
    """The whole indexer on a GPU, or else in IndexFuzz's lockstep."""
    if DEVICE == "cuda":
        return forward(step)
    from indexfuzz.lockstep import Lockstep

    with Lockstep() as machine:
        selected = forward(step)
    if machine.violations:
        raise SystemExit("\\n".join(dict.fromkeys(map(str, machine.violations))))
    return selected
'''


def composition_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where the whole does something else than the stages.

    Raises ReproError where a stage does not come to its end, or the step is too large.
    """
    subject = target.subject
    stepwise = composition.run_stages(case, subject.implementation, subject.device)
    if stepwise is None:
        raise ReproError("a stage raises before there is anything to compare the whole indexer with")
    check = _check(finding, stepwise)
    body = f"CASE = {_literal(case)}\n\nstep = materialise(Case.parse(CASE), DEVICE)\n{check}"
    packed = "import base64\nimport zlib\n\n" if "unpack(" in body else ""
    device = LOCKSTEP if finding.location and not finding.index else DEVICE
    story = tell_finding(finding)
    lines = "\n".join(f"  {part:<8} {name:<12} {words}" for part, name, words in describe_case(case))
    return (
        f'"""{subject.facts.name}, the whole indexer against its stages.\n\n{story}\n\nThe step:\n{lines}\n\n'
        f'Needs torch, triton and indexfuzz. Without a GPU it runs in indexfuzz\'s lockstep.\n"""\n\n'
        f"{packed}{HEAD}{_source(target)}{_behind(finding)}{device}{RUN}{helpers_for(body)}\n\n{body}"
    )


def _source(target: UnderTest[InProcess]) -> str:
    faults = target.setup.faults
    if faults:
        return f"from indexfuzz.implementations.faults import plant\n\nforward = plant({faults!r}).forward\n"
    return f"from indexfuzz.implementations import load\n\nforward = load({target.setup.spec!r}).forward\n"


def _behind(finding: Record) -> str:
    """What has the whole serve another step first, from the same tensors."""
    if finding.signature.kind != next_step.KIND:
        return ""
    return "\n\nfrom indexfuzz.oracles.next_step import after_another\n\nforward = after_another(forward)\n"


def _literal(case: Case) -> str:
    """What of the case is not at its default, as Python. Younger fields are told where they are not, and only there."""
    told = case.model_dump(mode="json")
    plain = Case().model_dump(mode="json")
    return repr(
        {
            part: {name: value for name, value in fields.items() if value != plain.get(part, {}).get(name)}
            for part, fields in told.items()
            if fields != plain.get(part)
        }
    )


def _check(finding: Record, stepwise: Step) -> str:
    output, index = finding.signature.output, finding.index
    if output != "selected":
        return _compare_left_behind(output, stepwise.tensors[output])
    if len(index) != 2:
        return "run(step)\nprint('no error')\n"
    return _compare_row(index[0], seen_logits(stepwise, index[0]), stepwise.case.model.index_topk)


def _compare_left_behind(name: str, want: Tensor) -> str:
    return (
        f"run(step)\ngot, want = raw(step.tensors[{name!r}]), {expression(raw(want))}  # what the stages leave\n"
        "wrong = (got != want).nonzero().tolist()\nif wrong:\n    at = tuple(wrong[0])\n"
        f'    print(f"byte {{list(at)}} of {name} is {{got[at]:#04x}} after the whole, {{want[at]:#04x}} after its '
        'stages; "\n          f"{len(wrong)} differ")\n'
        "raise SystemExit(bool(wrong))\n"
    )


def _compare_row(row: int, logits: dict[int, float], topk: int) -> str:
    """Any of equal logits may be taken, in any order."""
    told = repr(logits)
    if len(told) > MAX_PACKED:
        raise ReproError(f"row {row} sees {len(logits)} keys, too many for a script; minimise the case first")
    best = torch.tensor(sorted(logits.values(), reverse=True)[:topk]).tolist()
    return (
        f"selected = run(step)\n# The logits of row {row} by position, as the stages make them.\nlogits = {told}\n"
        f"entries = selected[{row}].tolist()\nchosen = [position for position in entries if position in logits]\n"
        f"got, want = sorted((logits[position] for position in chosen), reverse=True), {best}\n"
        "told = entries[: max((n + 1 for n, entry in enumerate(entries) if entry != -1), default=0)]\n"
        f'print(f"row {row} selects {{told}}, of which it sees {{chosen}} with the logits {{got}}; '
        'the largest are {want}")\n'
        f"is_packed = entries == chosen + [-1] * ({topk} - len(chosen))\n"
        "raise SystemExit(got != want or len(set(chosen)) < len(chosen) or not is_packed)\n"
    )
