"""Turn a corpus entry into a standalone script that shows the bug without the fuzzer.

The script holds the inputs of the failing stage as the stages before it (the reference's) leave them, calls the kernel
and compares with what the reference makes of them. It runs on a GPU with nothing but torch, triton and the kernel, or
else in lockstep.
"""

import base64
import re
import textwrap
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.devices.base import Device
from indexfuzz.oracles.walk import launches
from indexfuzz.stages.base import Stage
from indexfuzz.stages.table import find
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.repro_source import kernel_source

MAX_LITERAL = 160
"""Elements up to which a tensor is written out; larger ones are packed."""

MAX_PACKED = 200_000

ALIGNMENT = 64
"""Bytes to which PyTorch aligns storage; a tensor's offset matters up to that."""

INTERVAL = re.compile(r"in \[(\S+), (\S+)\]")
"""How a finding words what a bounded value must be."""

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


class ReproError(Exception):
    """No script can be written. One sentence that says why."""


@dataclass(frozen=True)
class _Launch:
    """A launch of the stage that a finding is about: what it was given, and what the reference makes of that."""

    given: dict[str, Any]
    returns: bool
    names: tuple[str, ...]
    """Of the results."""
    results: tuple[Tensor, ...]
    """None where the reference defines none."""


def _launch_of(stage: Stage, case: Case, device: Device) -> _Launch:
    """The launch of a stage in a case, with the inputs that the reference's stages make for it.

    Raises ReproError when the case does not reach the stage.
    """
    for here, _, call in launches(case, device):
        if here is stage:
            given = {name: _copy(value) for name, value in (call.tensors | call.options).items()}
            try:
                outputs = call.copy().run(stage.reference)
            except ValueError:
                return _Launch(given, bool(call.returns), call.results, ())
            return _Launch(given, bool(call.returns), call.results, tuple(_copy(outputs[n]) for n in call.results))
    raise ReproError(f"the case does not reach the stage {stage.name}")


def _copy(value: Any) -> Any:
    """A copy with the same strides and alignment; anything that is no tensor as it is."""
    if not isinstance(value, Tensor):
        return value
    offset = _offset(value)
    span = offset + 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    storage = torch.empty(max(span, 0), dtype=value.dtype)
    return storage.as_strided(value.shape, value.stride(), offset).copy_(value)


def _offset(tensor: Tensor) -> int:
    """Elements between a multiple of ALIGNMENT and the tensor's first one."""
    return int(tensor.storage_offset()) % (ALIGNMENT // tensor.element_size())


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
    launch = _launch_of(stage, entry.case, target.subject.device)
    inputs = "\n".join(f"{name} = {_expression(value)}" for name, value in launch.given.items())
    assign = f"{', '.join(launch.names)} = " if launch.returns else ""
    arguments = ", ".join(f"{name}={name}" for name in launch.given)
    call = f"{assign}run({arguments})"
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


def _quotable(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")


def _imports(body: str) -> str:
    standard = [name for name in ("ast", "base64", "linecache", "types", "zipfile", "zlib") if f"{name}." in body]
    lines = [f"import {name}" for name in sorted([*(["base64", "zlib"] if "unpack(" in body else []), *standard])]
    if "inf" in body or "nan" in body:
        lines.append("from math import inf, nan")
    return "\n".join([*dict.fromkeys(lines), "", "import torch", ""])


def _comparison(finding: Record, launch: _Launch, call: str) -> str:
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
    if name == output and finding.index and len(finding.index) == want.dim():
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


def _mutation(launch: _Launch, call: str) -> str:
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
    is_plain = value.stride() == _dense_strides(value) and not _offset(value)
    return text if is_plain else f"strided({text}, {tuple(value.stride())}, {_offset(value)})"


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
