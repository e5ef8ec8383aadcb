"""The element that a finding names, as Python that reads it from the results of a launch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.checks.arrangement import SCALES
from indexfuzz.corpus.entry import Record
from indexfuzz.reference import layout
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.reference.nibbles import MAGNITUDES, WIDE
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.quantised import format_of, values_per_byte
from indexfuzz.triage.launches import Launch


@dataclass(frozen=True)
class Element:
    """An element of a dtype: what it is called, and an expression for a tensor of one element, in fp32."""

    name: str
    reading: str
    dtype: torch.dtype


def find_element(stage: Stage, finding: Record, launch: Launch) -> Element | None:
    """The first wrong element; None where the finding names none, or none of a result."""
    output, index = finding.signature.output, finding.index
    if not index:
        return None
    results = dict(zip(launch.names, launch.results, strict=True))
    if output in results and results[output].dim() == len(index):
        reading = f"{output}[{', '.join(map(str, index))}]"
        dtype = results[output].dtype
        return Element(f"{output}{list(index)}", _as_number(reading, dtype), dtype)
    return _find_in_cache(stage, finding, launch)


def _find_in_cache(stage: Stage, finding: Record, launch: Launch) -> Element | None:
    """A value, a scale or a byte of the cache, which is where the stage says that it belongs."""
    output, index, cache = finding.signature.output, finding.index, launch.given.get("cache")
    if cache is None or (output not in stage.axes and output != "cache"):
        return None
    tensors = {name: value for name, value in launch.given.items() if isinstance(value, Tensor)}
    call = Call(tensors, {name: value for name, value in launch.given.items() if name not in tensors})
    place = stage.locate(call, {}, output, index)
    if place is None or place[0] is not cache:
        return None
    block, byte = divmod(place[1], cache.stride(0))
    name = f"{output}{list(index)}, byte {byte} of page {block},"
    if output == SCALES:
        return _read_scale(name, block, byte, call, has_group=len(index) > 1)
    stored = _bytes(block, byte, 1)
    if output == "cache":
        return Element(name, stored, torch.uint8)
    if values_per_byte(call) > 1:
        half = f"{stored}.cpu().int() >> {index[1] % 2 * 4} & 15"
        return Element(name, f"torch.tensor({_NUMBERS})[{half}]", FORMATS[WIDE].dtype)
    dtype = FORMATS[call.options["fp8"]].dtype
    return Element(name, f"{stored}.clone().view({dtype}).float()", dtype)


_NUMBERS = [*MAGNITUDES, *(-x for x in MAGNITUDES)]
"""What the 16 codes of MXFP4 stand for."""


def _read_scale(name: str, block: int, byte: int, call: Call, *, has_group: bool) -> Element | None:
    """The scale of a key, or of a group of its dims, from a byte of a page on; None where the group is not told.

    UE8M0 exponents are one, or several that must agree: NaN where they do not.
    """
    _, key_bytes = layout.page_shape(call.tensors["cache"])
    form = format_of(call, key_bytes * values_per_byte(call))
    if form.name == "fp32":
        stored = _bytes(block, byte, layout.SCALE_BYTES)
        return Element(name, f"{stored}.clone().view(torch.float32)", torch.float32)
    if form.groups > 1 and not has_group:
        return None
    exponents = f"{_bytes(block, byte, layout.SCALE_BYTES // form.groups)}.cpu().int()"
    told = "torch.where((e == e[0]).all() & (e[0] < 255), torch.ldexp(torch.ones(1), e[:1] - 127), float('nan'))"
    return Element(name, f"(lambda e: {told})({exponents})", torch.float32)


def _bytes(block: int, first: int, count: int) -> str:
    """Some bytes of a page, as an expression."""
    return f"cache[{block}].flatten()[{first}:{first + count}]"


def _as_number(reading: str, dtype: torch.dtype) -> str:
    return f"{reading}.float()" if dtype.is_floating_point else reading
