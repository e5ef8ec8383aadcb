"""The dots of a kernel as its author wrote them, read from Triton's intermediate form (TTIR) with its lines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPERATION = re.compile(r"^\s*(%[^=]*?) = (?:\")?([\w.]+)(.*?)(?: loc\((#loc\d*)\))?$")
_ITERATED = re.compile(r"(%[\w#]+) = (%[\w#]+)")
_NAME = re.compile(r"%\w+")
_TYPES = re.compile(r"tensor<(?:\d+x)+(\w+)>")
_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$", re.MULTILINE)
_PLACE = re.compile(r'"([^"]+)":(\d+):')
_REFERENCE = re.compile(r"#loc\d*")

FP8 = re.compile(r"\bx?f8E\w+")
"""An FP8 type, as MLIR writes it: f8E4M3FN, f8E4M3FNUZ, f8E5M2."""

CONVERSION = re.compile(r"\btt\.fp_to_fp\b.*f8E")
"""A conversion from or to FP8."""

ENDS = ("tt.load", "tt.dot", "tt.dot_scaled", "tt.reduce", "tt.atomic_rmw", "tt.atomic_cas")
"""Operations behind which a value is another one than what went in."""


@dataclass(frozen=True)
class Dot:
    """A tl.dot: the element types of its operands, whether one of them held FP8 before, and file:line."""

    operands: tuple[str, ...]
    is_widened: bool
    place: str

    @property
    def is_fp8(self) -> bool:
        """Whether it multiplies FP8, whatever the compiler makes of that."""
        return all(FP8.match(operand) for operand in self.operands)


def read_dots(ttir: str) -> list[Dot]:
    """The dots of a kernel, in order."""
    lines = ttir.splitlines()
    places = dict(_LOCATION.findall(ttir))
    made = dict(_made(lines))
    found = []
    for line in lines:
        operation = _OPERATION.match(line)
        if operation and operation.group(2) in ("tt.dot", "tt.dot_scaled"):
            types = tuple(_TYPES.findall(operation.group(3))[:2])
            names = _NAME.findall(operation.group(3))[:2]
            is_fp8 = all(FP8.match(name) for name in types)
            is_widened = not is_fp8 and any(_held_fp8(name, made) for name in names)
            found.append(Dot(types, is_widened, _place(operation.group(4) or "", places)))
    return found


def _made(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Name of a value -> the line that made it; what a loop carries is made by what it starts from."""
    for line in lines:
        operation = _OPERATION.match(line)
        if operation:
            for name in _NAME.findall(operation.group(1)):
                yield name, line
        if "iter_args(" in line:
            for name, start in _ITERATED.findall(line.split("iter_args(", 1)[1]):
                yield name, f"{name} = carried {start}"


def _held_fp8(name: str, made: dict[str, str]) -> bool:
    """Whether a value was made of FP8 elements, by any operations but those in ENDS."""
    left, seen = [name], {name}
    while left:
        line = made.get(left.pop(), "")
        if FP8.search(line):
            return True
        operation = _OPERATION.match(line)
        if operation and operation.group(2) not in ENDS:
            fresh = [other for other in _NAME.findall(operation.group(3)) if other not in seen]
            left += fresh
            seen.update(fresh)
    return False


def _place(reference: str, places: dict[str, str]) -> str:
    """The file and line of a location, which may have a name, or be a call at another location."""
    text = places.get(reference, "")
    for _ in range(len(places)):
        if found := _PLACE.search(text):
            return f"{found[1]}:{found[2]}"
        inner = _REFERENCE.search(text)
        if not inner:
            break
        text = places.get(inner[0], "")
    return ""
