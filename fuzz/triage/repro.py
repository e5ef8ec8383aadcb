"""Turn a corpus entry into a standalone script that shows the bug without the fuzzer.

The script holds the inputs of the failing stage as the stages before it (the reference's) leave them, calls the kernel
and compares with what the reference makes of them. It runs on a GPU with nothing but torch, triton and the kernel, or
else in lockstep.
"""

import base64
import re
import textwrap
import zlib
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.session_words import tell_session
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.stages.base import Stage
from indexfuzz.stages.table import find
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import Launch, ReproError, launch_in_step, launches_in_session, offset_of
from indexfuzz.triage.repro_source import kernel_source

MAX_LITERAL = 160
"""Elements up to which a tensor is written out; larger ones are packed."""

MAX_PACKED = 200_000

INTERVAL = re.compile(r"in \[(\S+), (\S+)\]")
"""How a finding words what a bounded value must be."""

STATE = "state"
"""What a stateful operation keeps."""

NEED_MORE = ("nondeterministic", "state-kept", "not-in-place", "stray-output", "hang")
"""Kinds that one launch and a look at its outputs do not show."""

UNPACK = '''

def unpack(text, dtype, shape):
    """A tensor from its compressed bytes."""
    data = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
'''
RUN = '''

def run(**arguments):
    """The kernel on a GPU; without one in IndexFuzz's lockstep, which also sees what no value shows."""
    if DEVICE == "cuda":
        return kernel(**arguments)
    from indexfuzz.lockstep import Lockstep

    with Lockstep() as machine:
        result = kernel(**arguments)
    if machine.violations:
        raise SystemExit("\\n".join(map(str, machine.violations)))
    return result
'''
STRIDED = '''

def strided(tensor, stride, offset):
    """The tensor as a slice of something larger: with other strides, and not at the start of its storage."""
    span = offset + 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride))
    storage = torch.empty(max(span, 0), dtype=tensor.dtype, device=DEVICE)
    return storage.as_strided(tensor.shape, stride, offset).copy_(tensor)
'''

RAW = '''

def raw(tensor):
    """The bytes of a tensor, dense; its last dim times the size of an element."""
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)
'''


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a dense tensor of that shape, dims of size 1 included."""
    return torch.empty(tensor.shape, device="meta").stride()


def script(entry: Entry, target: UnderTest[InProcess]) -> str:
    """The text of the script.

    Raises ReproError when the entry has no finding, its inputs are too large, or the kernel cannot be had alone.
    """
    if entry.finding is None:
        raise ReproError("this case never showed a finding")
    signature = entry.finding.signature
    if signature.relation or signature.kind in NEED_MORE:
        raise ReproError(f"one launch does not show {signature}; `indexfuzz replay` does")
    stage = find(signature.stage, signature.output)
    source = kernel_source(target, stage.name, entry.case)
    before, launch = _before(stage, entry.case, target.subject)
    inputs = before + _inputs(launch, known=before)
    call = _call(launch)
    check = _mutation(launch, call) if signature.kind == "input-mutated" else _comparison(entry.finding, launch, call)
    body = f"{inputs}\n\n{check}"
    helpers = RUN + "".join(
        text for word, text in (("unpack(", UNPACK), ("strided(", STRIDED), ("raw(", RAW)) if word in body
    )
    story = textwrap.fill(f"{entry.finding.signature}: {entry.finding.detail}", 110)
    return (
        f'"""{target.subject.facts.name}, stage {stage.name}.\n\n{_quotable(story)}\n\n'
        f"Needs torch, triton and {source.needs}. Without a GPU it runs in indexfuzz's lockstep.\n"
        f'"""\n\n{_imports(body + source.code)}\n'
        'DEVICE = "cuda" if torch.cuda.is_available() else "cpu"\n'
        f"{source.code}{helpers}\n\n{body}"
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
    told, number = list(tell_session(case.session)), -1
    lines = []
    for step, words in told:
        number += bool(step)
        lines += [f"# step {number}: {words}\n"] if number == launch.step else []
    forks = case.session.steps[launch.step].forks
    return "".join(lines) + "".join(f"state[{fork.child}] = state[{fork.parent}]\n" for fork in forks)


def _inputs(launch: Launch, known: str) -> str:
    """Assignments of what a launch is given, but for a state that earlier launches have made."""
    kept = STATE if f"\n{STATE} = " in f"\n{known}" else ""
    return "\n".join(f"{name} = {_expression(value)}" for name, value in launch.given.items() if name != kept)


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


def _comparison(finding: Record, launch: Launch, call: str) -> str:
    """The call, and what tells a wrong result from a right one; the exit code of the script is 1 for a wrong one."""
    kind, output = finding.signature.kind, finding.signature.output
    if kind == "not-rejected":
        return (
            f"try:\n    {call}\nexcept ValueError as error:\n    print('rejected, as it must be:', error)\n"
            "else:\n    raise SystemExit('accepted, and must be rejected')\n"
        )
    if kind in ("crash", "rejected") or not launch.results:
        return f"{call}  # raises\nprint('no error')\n"
    name = output if output in launch.names else launch.names[0]
    want = launch.results[launch.names.index(name)]
    interval = INTERVAL.fullmatch(finding.want)
    if name == output and interval and len(finding.index) == want.dim():
        return (
            f"{call}\ngot = {name}[{finding.index}].float().item()\n"
            f'print(f"{name}{list(finding.index)} is {{got}}, must be {finding.want}")\n'
            f"raise SystemExit(not {interval[1]} <= got <= {interval[2]})\n"
        )
    is_told = name == output and finding.index and len(finding.index) == want.dim()
    if is_told and not bool(want[finding.index].float().isnan()):
        value = _literal(want[finding.index].float())
        return (
            f"{call}\ngot, want = {name}[{finding.index}].float().item(), {value}\n"
            f'print(f"{name}{list(finding.index)} is {{got}}, must be {{want}}")\nraise SystemExit(got != want)\n'
        )
    return (
        f"{call}\ngot, want = raw({name}), {_expression(_raw(want))}\n"
        "wrong = (got != want).nonzero().tolist()\nif wrong:\n    at = tuple(wrong[0])\n"
        f'    print(f"byte {{list(at)}} of {name} is {{got[at]:#04x}}, must be {{want[at]:#04x}}; "\n'
        '          f"{len(wrong)} are wrong")\n'
        "raise SystemExit(bool(wrong))\n"
    )


def _mutation(launch: Launch, call: str) -> str:
    """The call, and a look at what it should only have read."""
    inputs = [name for name, value in launch.given.items() if isinstance(value, Tensor) and name not in launch.names]
    return (
        f"inputs = {{{', '.join(f'{name!r}: {name}' for name in inputs)}}}\n"
        "before = {name: tensor.clone() for name, tensor in inputs.items()}\n"
        f"{call}\nfor name, tensor in inputs.items():\n"
        "    if not torch.equal(raw(tensor), raw(before[name])):\n"
        '        raise SystemExit(f"{name} is an input, and has changed")\n'
    )


def _expression(value: Any) -> str:
    """Python that makes a value: tensors on DEVICE with their dtype and strides, options as they are.

    Raises ReproError when a tensor takes too much text.
    """
    if not isinstance(value, Tensor):
        return repr(value)
    text = f"{_dense(value)}.to(DEVICE)"
    is_plain = value.stride() == _dense_strides(value) and not offset_of(value)
    return text if is_plain else f"strided({text}, {tuple(value.stride())}, {offset_of(value)})"


def _raw(tensor: Tensor) -> Tensor:
    """The same here: a tensor of one element counts as contiguous whatever its stride."""
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _dense(tensor: Tensor) -> str:
    raw = tensor.clone(memory_format=torch.contiguous_format)
    shape, dtype = tuple(tensor.shape), str(tensor.dtype)
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        return f"{_dense(raw.view(torch.uint8))}.view({dtype})"
    data = raw.flatten().view(torch.uint8)
    first = raw.flatten()[:1]
    if raw.numel() == 0:
        return f"torch.empty({shape}, dtype={dtype})"
    if raw.numel() > 4 and shape and bool((data == data[0]).all()) and bool(first.isnan()):
        size = (*shape[:-1], shape[-1] * raw.element_size())
        return f"torch.full({size}, {int(data[0])}, dtype=torch.uint8).view({dtype})"
    if raw.numel() > 4 and bool((data.view(-1, raw.element_size()) == first.view(torch.uint8)).all()):
        return f"torch.full({shape}, {_literal(first[0])}, dtype={dtype})"
    exact = not raw.is_floating_point() or not bool(raw.isnan().any())
    if raw.numel() <= MAX_LITERAL and exact:
        return f"torch.tensor({_literals(raw)}, dtype={dtype})"
    packed = base64.b85encode(zlib.compress(bytes(data.tolist()), 9)).decode()
    if len(packed) > MAX_PACKED:
        raise ReproError(f"an input of shape {list(shape)} is too large for a script; minimise the case first")
    return f"unpack({packed!r}, {dtype}, {shape})"


def _literals(tensor: Tensor) -> str:
    if tensor.dim() == 0:
        return _literal(tensor)
    return "[" + ", ".join(_literals(row) for row in tensor) + "]"


def _literal(value: Tensor) -> str:
    """One number: Python's shortest text of a double is exact for bf16 and fp32."""
    return repr(value.item())
