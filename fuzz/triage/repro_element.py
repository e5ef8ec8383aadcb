"""The element that a finding names, as Python that reads it from the results of a launch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.corpus.entry import Record
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.stages.base import Call, Stage
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
    options = {name: value for name, value in launch.given.items() if name not in tensors}
    place = stage.locate(Call(tensors, options), {}, output, index)
    if place is None or place[0] is not cache:
        return None
    dtype = torch.uint8
    if output != "cache":
        dtype = FORMATS[options["fp8"]].dtype if len(index) == 2 else torch.float32
    block, byte = divmod(place[1], cache.stride(0))
    page = f"cache[{block}].flatten()[{byte}:{byte + dtype.itemsize}]"
    name = f"{output}{list(index)}, byte {byte} of page {block},"
    if dtype == torch.uint8:
        return Element(name, f"{page}", dtype)
    return Element(name, f"{page}.clone().view({dtype}).float()", dtype)


def _as_number(reading: str, dtype: torch.dtype) -> str:
    return f"{reading}.float()" if dtype.is_floating_point else reading
