"""A script for two launches on two streams: each beside the other, and alone."""

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import split_step
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles import replay
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.gpu_repro import assemble_for_gpu
from indexfuzz.triage.launches import ReproError, describe_launch
from indexfuzz.triage.repro_element import find_element
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import assign_inputs, write_call

BESIDE = '''
def launch({tensors}):
    """A launch; what is looked at of it."""
    {call}
    return {name}


def look_at({name}):
    """The element that a finding is about."""
    return {reading}.flatten().tolist()


alone = [look_at(launch(*map(like, given))) for given in (one, other)]

# Two streams that begin together once both launches have been made; held back for longer where making them took longer.
for cycles in (4_000_000, 64_000_000, 1_000_000_000):
    copies = [[*map(like, given)] for given in (one, other)]
    torch.cuda.synchronize()
    torch.cuda._sleep(cycles)
    begin = torch.cuda.current_stream().record_event()
    made = []
    for given in copies:
        stream = torch.cuda.Stream()
        stream.wait_event(begin)
        with torch.cuda.stream(stream):
            made.append(launch(*given))
    were_held = not begin.query()
    torch.cuda.synchronize()
    if were_held:
        break
beside = [*map(look_at, made)]
print(f"{what} is {{beside}} in launches beside each other, {{alone}} in launches alone")
raise SystemExit(repr(beside) != repr(alone))
'''


def streams_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where an element of either launch is another beside the other one.

    Raises ReproError where the case has no two such launches, the finding names no element, or an input is too large.
    """
    subject, stage = target.subject, finding.signature.stage
    step, _ = split_step(finding.detail)
    pair = replay.pair_of(case, stage, subject.implementation, subject.device, step)
    if pair is None:
        raise ReproError(f"the case has no two launches of {stage} of one form")
    one, other = (describe_launch(pair.stage, call) for call in (pair.captured, pair.call))
    element = find_element(pair.stage, finding, one)
    if element is None:
        raise ReproError(f"no element of a result shows {finding.signature}; `indexfuzz replay` does")
    names = ", ".join(name for name, value in one.given.items() if isinstance(value, Tensor))
    output = finding.signature.output
    body = f"{assign_inputs(one, {})}\none = ({names},)\n\n{assign_inputs(other, {})}\nother = ({names},)\n"
    body += BESIDE.format(
        tensors=names,
        call=write_call(one),
        name=output if output in one.names else one.names[0],
        reading=element.reading,
        what=element.name,
    )
    source = kernel_source(target, stage, case)
    return assemble_for_gpu(subject.facts.name, stage, finding, source, body, "runs beside anything else")
