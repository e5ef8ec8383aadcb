"""The parts of a standalone script: its head, what runs a kernel, and launches with their inputs in plain sight."""

import textwrap
from collections.abc import Callable, Sequence

from indexfuzz.core.case import Case
from indexfuzz.core.session_words import tell_step
from indexfuzz.corpus.entry import Record
from indexfuzz.implementations.base import KernelSource
from indexfuzz.triage.launches import STATE, Launch
from indexfuzz.triage.literals import expression, helpers_for
from indexfuzz.triage.repro_check import SEEN_BY_LOCKSTEP

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
        raise SystemExit("\\n".join(dict.fromkeys(map(str, machine.violations))))
    return result
'''


def assemble(name: str, stage: str, finding: Record, source: KernelSource, body: str) -> str:
    """A script about a finding of a stage of an implementation of that name."""
    return (
        f'"""{name}, stage {stage}.\n\n{tell_finding(finding)}\n\n'
        f"Needs torch, triton and {source.needs}. Without a GPU it runs in indexfuzz's lockstep.\n"
        f'"""\n\n{imports_for(body + source.code)}\n'
        f"{_device(finding)}{source.code}{RUN}{helpers_for(body)}\n\n{body}"
    )


def tell_finding(finding: Record) -> str:
    """What a finding says, in lines that a docstring can have."""
    story = textwrap.fill(f"{finding.signature}: {finding.detail}", 110)
    return story.replace("\\", "/").replace('"""', "'''")


def _device(finding: Record) -> str:
    if finding.signature.kind in SEEN_BY_LOCKSTEP:
        return 'DEVICE = "cpu"  # on a GPU nothing shows this for certain\n'
    return 'DEVICE = "cuda" if torch.cuda.is_available() else "cpu"\n'


FILLED = "# What torch.empty gives is NaN, or no index.\ntorch.use_deterministic_algorithms(True, warn_only=True)\n"


def tell_written(launch: Launch) -> str:
    """Which bytes of what a launch is given hold something, where not all of them do, and what torch.empty gives."""
    return f"{FILLED}{tell_flags(launch)}\n"


def tell_flags(launch: Launch) -> str:
    """Which bytes of what a launch is given hold something, where not all of them do."""
    return f"# Bytes that hold something, where not all do.\n{written_flags(launch)}"


def written_flags(launch: Launch) -> str:
    """The assignment that says so of what a launch is given; of a state, the bytes that it has been left with."""
    known = {name: expression(flag) for name, flag in (launch.written or {}).items()}
    if launch.written is not None and STATE in launch.given:
        known[STATE] = f"holding({STATE})"
    flags = ", ".join(f"{name!r}: {flag}" for name, flag in known.items())
    return f"WRITTEN = {{{flags}}}\n"


def tell_story(case: Case, launch: Launch) -> str:
    """What happens in a step, as comments, and what an engine does to the state before it: a fork has a copy."""
    lines = [f"# step {launch.step}: {words}\n" for words in tell_step(case.session, launch.step)]
    return "".join(lines) + "".join(f"state[{new}] = state[{old}]\n" for old, new in launch.copied)


def write_launches(
    case: Case,
    launches: Sequence[Launch],
    known: dict[str, str],
    after: Callable[[Launch], str] = lambda _launch: "",
) -> str:
    """Launches of a session on one state, and after each of them what is to be done with its results.

    `known` is what names hold before, and then after it.
    """
    text = ""
    for launch in launches:
        inputs = assign_inputs(launch, known)
        flags = "" if launch.written is None else written_flags(launch)
        text += f"{tell_story(case, launch)}{inputs}\n{flags}{write_call(launch)}\n{after(launch)}\n"
    return text


def assign_inputs(launch: Launch, known: dict[str, str]) -> str:
    """Assignments of what a launch is given, but for what the names hold, and a state that earlier launches have made.

    `known` is what names hold before, and then after it.
    """
    lines = []
    for name, value in launch.given.items():
        text = expression(value)
        if name not in known or (known[name] != text and name != STATE):
            lines.append(f"{name} = {text}")
        known[name] = "" if name in launch.fills else text
    return "\n".join(lines)


def write_call(launch: Launch) -> str:
    """The statement that makes a launch."""
    assign = f"{', '.join(launch.names)} = " if launch.returns else ""
    return f"{assign}{run_of(launch)}"


def run_of(launch: Launch) -> str:
    """The expression that makes a launch, by the names of its arguments."""
    return f"run({', '.join(f'{name}={name}' for name in launch.given)})"


def imports_for(body: str) -> str:
    """The imports that a script with such a body needs."""
    standard = [
        name for name in ("ast", "base64", "linecache", "pathlib", "types", "zipfile", "zlib") if f"{name}." in body
    ]
    lines = [f"import {name}" for name in sorted([*(["base64", "zlib"] if "unpack(" in body else []), *standard])]
    if "inf" in body or "nan" in body:
        lines.append("from math import inf, nan")
    return "\n".join([*dict.fromkeys(lines), "", "import torch", ""])
