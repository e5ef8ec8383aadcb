"""A script for a launch that is captured in a CUDA graph and replayed with other contents: beside a fresh launch."""

from dataclasses import replace

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import split_step
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles import replay
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.gpu_repro import assemble_for_gpu
from indexfuzz.triage.launches import Launch, ReproError, describe_launch
from indexfuzz.triage.literals import expression
from indexfuzz.triage.repro_element import find_element
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import assign_inputs, write_call

CAPTURE = """# A first launch compiles what is captured.
stream = torch.cuda.Stream()
stream.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(stream):
    {call}
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    {call}

# Other contents in the same memory, and the graph once more.
{change}own = [like(tensor) for tensor in ({tensors},)]
graph.replay()
torch.cuda.synchronize()
replayed = {reading}

# The same contents in memory of their own, in a launch.
{tensors}, = own
{call}
torch.cuda.synchronize()
launched = {reading}
{tell}
raise SystemExit(replayed != launched)
"""

TELL_ELEMENT = """print(f"{name} is {{replayed}} where the launch was captured with other contents and replayed, "
      f"{{launched}} where it is launched")"""
TELL_BYTES = """differ = sum(one != other for one, other in zip(replayed, launched))
print(f"{{differ}} bytes of {name} are others where the launch was captured with other contents and replayed")"""


def replay_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where the replay makes something else than the launch.

    Raises ReproError where the two launches of the case are not of one form, or an input is too large.
    """
    subject, stage = target.subject, finding.signature.stage
    step, _ = split_step(finding.detail)
    pair = replay.pair_of(case, stage, subject.implementation, subject.device, step)
    if pair is None:
        raise ReproError(f"the case has no two launches of {stage} that one graph could be")
    launch = describe_launch(pair.stage, pair.call)
    captured = replace(launch, given=pair.captured.tensors | pair.captured.options)
    element, output = find_element(pair.stage, finding, launch), finding.signature.output
    name = output if output in launch.names else launch.names[0]
    reading, tell = f"raw({name}).flatten().tolist()", TELL_BYTES.format(name=name)
    if element:
        reading, tell = f"repr({element.reading}.item())", TELL_ELEMENT.format(name=element.name)
    body = f"# What is there when the launch is captured.\n{assign_inputs(captured, {})}\n\n" + CAPTURE.format(
        call=write_call(launch).replace("\n", "\n    "),
        change=_copies(launch, captured),
        tensors=", ".join(pair.call.tensors),
        reading=reading,
        tell=tell,
    )
    source = kernel_source(target, stage, case)
    return assemble_for_gpu(subject.facts.name, stage, finding, source, body, "is captured in a CUDA graph")


def _copies(launch: Launch, before: Launch) -> str:
    """Statements that put what a launch is given into the memory of its arguments: what it fills, and what differs."""
    return "".join(
        f"{name}.copy_({expression(value)})\n"
        for name, value in launch.given.items()
        if isinstance(value, Tensor) and (name in launch.fills or expression(value) != expression(before.given[name]))
    )
