"""Scripts for what one launch does not show: it is made again, with the same contents or right after others."""

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.corpus.entry import Record
from indexfuzz.devices.base import Device
from indexfuzz.oracles import history
from indexfuzz.stages.base import Stage
from indexfuzz.triage.launches import Launch, launch_in_step
from indexfuzz.triage.literals import expression
from indexfuzz.triage.repro_check import Claim, write_check
from indexfuzz.triage.repro_element import find_element
from indexfuzz.triage.repro_text import assign_inputs, run_of, tell_written, write_call, written_flags

TIMES = 20
"""Launches of what is to be the same each time: what depends on chance need not show in the second."""

COMPARE = """if first is None:
        first = got
    elif got != first:
        raise SystemExit(f"{what} is {{first}} in the first launch, {{got}} in launch {{number}}")
print("the same in all launches")
"""


def relaunch_body(stage: Stage, case: Case, finding: Record, device: Device) -> str:
    """What the script does once `run` is defined; it ends with 1 where a launch depends on more than its arguments.

    Raises ReproError where the case does not reach the stage, or an input is too large.
    """
    launch = launch_in_step(stage, case, device)
    if finding.signature.kind == history.KIND:
        return _launch_after_other(
            stage, finding, launch, launch_in_step(stage, history.with_other_contents(case), device)
        )
    return _launch_many_times(stage, finding, launch)


def _launch_after_other(stage: Stage, finding: Record, before: Launch, launch: Launch) -> str:
    """A launch, and another one with other contents in the same memory, which is then looked at."""
    changes = [
        f"{name}.copy_({expression(value)})\n"
        for name, value in launch.given.items()
        if isinstance(value, Tensor) and (name in launch.fills or expression(value) != expression(before.given[name]))
    ]
    return (
        f"{tell_written(before)}{assign_inputs(before, {})}\n{run_of(before)}\n\n"
        f"# Other contents in the same memory.\n{written_flags(launch)}{''.join(changes)}\n"
        f"{write_check(Claim(stage, finding, launch, write_call(launch)))}"
    )


def _launch_many_times(stage: Stage, finding: Record, launch: Launch) -> str:
    """The same launch again and again, from the same contents of what it fills."""
    element, output = find_element(stage, finding, launch), finding.signature.output
    name = output if output in launch.names else launch.names[0]
    what, got = f"raw({name})", f"raw({name}).flatten().tolist()"
    if element:
        what, got = element.name, f"repr({element.reading}.item())"
    tensors = [name for name, value in launch.given.items() if isinstance(value, Tensor)]
    held = ", ".join(f"{name!r}: {name}" for name in tensors)
    restore = "".join(f"    {name} = GIVEN[{name!r}].copy_(BEFORE[{name!r}])\n" for name in tensors)
    return (
        f"{tell_written(launch)}{assign_inputs(launch, {})}\n"
        f"GIVEN = {{{held}}}\nBEFORE = {{name: tensor.clone() for name, tensor in GIVEN.items()}}\n\nfirst = None\n"
        f"for number in range(1, {TIMES + 1}):\n{restore}    {write_call(launch)}\n    got = {got}\n"
        f"    {COMPARE.format(what=what)}"
    )
