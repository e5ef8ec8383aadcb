"""The element that a finding names, as Python that reads it from the results of a launch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.corpus.entry import Record
from indexfuzz.reference import layout
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.reference.nibbles import MAGNITUDES, WIDE
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
    dtype, is_scale = torch.uint8, output != "cache" and len(index) == 1
    if output != "cache":
        dtype = torch.float32 if is_scale else FORMATS[options["fp8"]].dtype
    block, byte = divmod(place[1], cache.stride(0))
    page = f"cache[{block}].flatten()[{byte}:{byte + dtype.itemsize}]"
    name = f"{output}{list(index)}, byte {byte} of page {block},"
    if output != "cache" and not is_scale and options.get("scales") == "mxfp4":
        half = f"cache[{block}].flatten()[{byte}:{byte + 1}].cpu().int() >> {index[1] % 2 * 4} & 15"
        return Element(name, f"torch.tensor({_NUMBERS})[{half}]", FORMATS[WIDE].dtype)
    if is_scale and options.get("scales") in ("ue8m0", "mxfp4"):
        return _read_exponent(name, f"cache[{block}].flatten()[{byte}:{byte + 1}]", finding, options, cache)
    if dtype == torch.uint8:
        return Element(name, f"{page}", dtype)
    return Element(name, f"{page}.clone().view({dtype}).float()", dtype)


_NUMBERS = [*MAGNITUDES, *(-x for x in MAGNITUDES)]
"""What the 16 codes of MXFP4 stand for."""


def _read_exponent(name: str, page: str, finding: Record, options: dict[str, Any], cache: Tensor) -> Element | None:
    """A scale by its exponent; None where the four of a key may be others, or are where they must not."""
    _, key_bytes = layout.page_shape(cache)
    has_four = options["scales"] == "mxfp4" or options["quant_group"] != key_bytes
    if has_four or finding.got.startswith("nan"):
        return None
    return Element(name, f"torch.ldexp(torch.ones(1), {page}.cpu().int() - 127)", torch.float32)


def _as_number(reading: str, dtype: torch.dtype) -> str:
    return f"{reading}.float()" if dtype.is_floating_point else reading
