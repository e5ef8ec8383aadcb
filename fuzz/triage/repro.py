"""Turn a corpus entry into a standalone script that shows the bug without the fuzzer.

The script holds the inputs of the failing stage as the stages before it (the reference's) leave them, calls the kernel
and compares with what the reference makes of them. It runs on a GPU with nothing but torch, triton and the kernel, or
else in lockstep.
"""

import textwrap

from indexfuzz.core.case import Case
from indexfuzz.core.session_words import tell_step
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.oracles import composition
from indexfuzz.stages.base import Stage
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.composition_repro import composition_script
from indexfuzz.triage.launches import Launch, ReproError, find_reached, launch_in_step, launches_in_session
from indexfuzz.triage.literals import expression, helpers_for
from indexfuzz.triage.look import Look, look_at
from indexfuzz.triage.repro_check import RAISED, SEEN_BY_LOCKSTEP, Claim, write_check
from indexfuzz.triage.repro_source import kernel_source

STATE = "state"
"""What a stateful operation keeps."""

NEED_MORE = ("nondeterministic", "state-kept", "stray-output")
"""Kinds that one launch and a look at its outputs do not show."""
RUN = '''

def run(**arguments):
    """The kernel on a GPU; without one in IndexFuzz's lockstep, which also sees what no value shows."""
    if DEVICE == "cuda":
        return kernel(**arguments)
    from indexfuzz.lockstep import Lockstep

    with Lockstep() as machine:
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                machine.declare(name, value, WRITTEN.get(name, True))
        result = kernel(**arguments)
    if machine.violations:
        raise SystemExit("\\n".join(map(str, machine.violations)))
    return result
'''


def script(entry: Entry, target: UnderTest[InProcess]) -> str:
    """The text of the script.

    Raises ReproError when the entry has no finding, its inputs are too large, or the kernel cannot be had alone.
    """
    if entry.finding is None:
        raise ReproError("this case never showed a finding")
    signature = entry.finding.signature
    if signature.kind == composition.KIND:
        return composition_script(entry.case, entry.finding, target)
    if signature.relation or signature.kind in NEED_MORE:
        raise ReproError(f"one launch does not show {signature}; `indexfuzz replay` does")
    stage = find_reached(signature.stage, signature.output, entry.case)
    source = kernel_source(target, stage.name, entry.case)
    before, launch = _before(stage, entry.case, target.subject)
    inputs = before + _inputs(launch, known=before)
    call = _call(launch)
    finding = _see_again(entry.case, entry.finding, target.subject)
    body = f"{_written(launch)}{inputs}\n\n{write_check(Claim(stage, finding, launch, call))}"
    helpers = RUN + helpers_for(body)
    story = textwrap.fill(f"{entry.finding.signature}: {entry.finding.detail}", 110)
    return (
        f'"""{target.subject.facts.name}, stage {stage.name}.\n\n{_quotable(story)}\n\n'
        f"Needs torch, triton and {source.needs}. Without a GPU it runs in indexfuzz's lockstep.\n"
        f'"""\n\n{_imports(body + source.code)}\n'
        f"{_device(finding)}"
        f"{source.code}{helpers}\n\n{body}"
    )


def _see_again(case: Case, finding: Record, subject: InProcess) -> Record:
    """The finding as the script's own inputs show it: a stage before may have made others, which are right as well."""
    kind = finding.signature.kind
    if case.session.steps or kind in RAISED or kind in SEEN_BY_LOCKSTEP:
        return finding
    look = look_at(case, finding.signature, subject)
    if not isinstance(look, Look) or (look.finding.kind, look.finding.output) != (kind, finding.signature.output):
        return finding
    return Record.of(look.finding)


def _device(finding: Record) -> str:
    if finding.signature.kind in SEEN_BY_LOCKSTEP:
        return 'DEVICE = "cpu"  # on a GPU nothing shows this for certain\n'
    return 'DEVICE = "cuda" if torch.cuda.is_available() else "cpu"\n'


def _written(launch: Launch) -> str:
    """Which bytes of what a launch is given hold something, where not all of them do, and what torch.empty gives."""
    flags = ", ".join(f"{name!r}: {expression(flag)}" for name, flag in (launch.written or {}).items())
    return (
        "# What torch.empty gives is NaN, or no index.\ntorch.use_deterministic_algorithms(True, warn_only=True)\n"
        f"# Bytes that hold something, where not all do.\nWRITTEN = {{{flags}}}\n\n"
    )


def _before(stage: Stage, case: Case, subject: InProcess) -> tuple[str, Launch]:
    """The launch that shows a finding, and the lines that go before it.

    Of an operation that keeps something from step to step, these are its launches in the steps before, on the same
    state.
    """
    if not case.session.steps:
        return "", launch_in_step(stage, case, subject.device)
    *earlier, last = launches_in_session(stage.name, case, subject)
    if stage.name not in STATEFUL:
        return "", last
    text = ""
    for launch in earlier:
        text += f"{_story(case, launch)}{_inputs(launch, known=text)}\n{_call(launch)}\n\n"
    return text + _story(case, last), last


def _story(case: Case, launch: Launch) -> str:
    """What happens in a step, as comments, and what an engine does to the state before it: a fork copies a ring."""
    lines = [f"# step {launch.step}: {words}\n" for words in tell_step(case.session, launch.step)]
    forks = case.session.steps[launch.step].forks
    return "".join(lines) + "".join(f"state[{fork.child}] = state[{fork.parent}]\n" for fork in forks)


def _inputs(launch: Launch, known: str) -> str:
    """Assignments of what a launch is given, but for a state that earlier launches have made."""
    kept = STATE if f"\n{STATE} = " in f"\n{known}" else ""
    return "\n".join(f"{name} = {expression(value)}" for name, value in launch.given.items() if name != kept)


def _call(launch: Launch) -> str:
    assign = f"{', '.join(launch.names)} = " if launch.returns else ""
    return f"{assign}run({', '.join(f'{name}={name}' for name in launch.given)})"


def _quotable(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")


def _imports(body: str) -> str:
    standard = [name for name in ("ast", "base64", "linecache", "types", "zipfile", "zlib") if f"{name}." in body]
    lines = [f"import {name}" for name in sorted([*(["base64", "zlib"] if "unpack(" in body else []), *standard])]
    if "inf" in body or "nan" in body:
        lines.append("from math import inf, nan")
    return "\n".join([*dict.fromkeys(lines), "", "import torch", ""])
