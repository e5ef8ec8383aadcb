"""What NVIDIA's compute-sanitizer reports: its text, as facts about accesses.

The format is that of its user's guide, in releases from 11.4 to 13: a line that says what is wrong, then where, by
whom and at which address, each behind a prefix. memcheck and initcheck tell of an access, racecheck of two to the same
shared memory, of threads that have no barrier between them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

PREFIX = "========="

_ACCESS = re.compile(r"Invalid __(\w+)__ (read|write|atomic) of size (\d+) bytes")
_UNWRITTEN = re.compile(r"Uninitialized __(\w+)__ memory read of size (\d+) bytes")
_RACE = re.compile(r"Error: Race reported between (\w+) access at (.*)")
_OTHER = re.compile(r"and (\w+) access at (.*?)(?: \[(\d+) hazards?\])?$")
_ADDRESS = re.compile(r"(?:Access (?:to|at)|Address) (0x[0-9a-f]+)")
_AT = re.compile(r"at (.*)")
_BY = re.compile(r"by thread \(([\d,]+)\) in block \(([\d,]+)\)")
_MISALIGNED = re.compile(r"(?:Access to|Address) 0x[0-9a-f]+ is misaligned")
_NEAREST = re.compile(
    r"and is (?:(inside)|([\d,]+) bytes? (after|before)) the nearest allocation at (0x[0-9a-f]+) of size ([\d,]+) bytes"
)
_NEW_PLACE = re.compile(r"(.*?)(?:\(.*\))?\+0x[0-9a-f]+(?: in (.+?):(\d+))?$")
_OLD_PLACE = re.compile(r"0x[0-9a-f]+ in (?:(.+?):(\d+):)?([^:()]+)(?:\(.*\))?$")


@dataclass(frozen=True)
class Access:
    """An access that a tool complains about.

    `kind` is one of `core.kinds`, `what` the access in words. `kernel` and `location` (file:line, where that is known)
    say where, `thread` by whom; `address` is what it was to, `allocation` the address of the nearest allocation and
    `distance` where the access lies from that, in words.
    """

    kind: str
    what: str
    kernel: str = ""
    location: str = ""
    thread: str = ""
    allocation: int = 0
    distance: str = ""
    address: int = 0


def read_report(text: str) -> list[Access]:
    """The accesses of a report, in order; what its host says or does is no kernel's access."""
    return [access for block in _blocks(text) if (access := _read_block(block))]


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of each complaint: those after its first are indented further."""
    block: list[str] = []
    for line in text.splitlines():
        if not line.startswith(PREFIX):
            continue
        words = line.removeprefix(PREFIX)
        if not words.startswith("     ") and block:
            yield block
            block = []
        if words.strip():
            block.append(words.strip())
    if block:
        yield block


def _read_block(block: list[str]) -> Access | None:
    first, *rest = block
    if race := _RACE.search(first):
        return _read_race(race, rest)
    if unwritten := _UNWRITTEN.search(first):
        space, size = unwritten.groups()
        access = _read_access("uninitialised", f"read of {size} bytes of {space} memory that nobody has written", rest)
        return replace(access, allocation=0, distance="")
    if found := _ACCESS.search(first):
        space, what, size = found.groups()
        kind = "misaligned" if any(_MISALIGNED.match(line) for line in rest) else "out-of-bounds"
        return _read_access(kind, f"{what} of {size} bytes of {space} memory", rest)
    return None


def _read_access(kind: str, what: str, rest: list[str]) -> Access:
    kernel, location = next((_place(at[1]) for line in rest if (at := _AT.match(line))), ("", ""))
    by = next((by for line in rest if (by := _BY.match(line))), None)
    near = next((near for line in rest if (near := _NEAREST.match(line))), None)
    address = next((int(found[1], 16) for line in rest if (found := _ADDRESS.match(line))), 0)
    return Access(
        kind,
        what,
        kernel,
        location,
        f"thread ({by[1]}) of block ({by[2]})" if by else "",
        int(near[4], 16) if near else 0,
        _distance(near) if near else "",
        address,
    )


def _read_race(race: re.Match[str], rest: list[str]) -> Access:
    """A race, where its first access is; which hazards there are beside the first is told in words."""
    kernel, location = _place(race[2])
    others = [other for line in rest if (other := _OTHER.match(line))]
    words = [f"{other[1].lower()} at {_place(other[2])[1] or _place(other[2])[0]}" for other in others]
    return Access(
        "order",
        f"{' and '.join([race[1].lower(), *words])} of the same shared memory with no barrier between",
        kernel,
        location,
    )


def _place(text: str) -> tuple[str, str]:
    """Kernel and file:line, which older releases name in another order."""
    if old := _OLD_PLACE.match(text):
        return old[3].strip(), f"{old[1]}:{old[2]}" if old[1] else ""
    if new := _NEW_PLACE.match(text):
        return new[1].strip(), f"{new[2]}:{new[3]}" if new[2] else ""
    return text.strip(), ""


def _distance(near: re.Match[str]) -> str:
    return "inside" if near[1] else f"{near[2].replace(',', '')} bytes {near[3]}"
