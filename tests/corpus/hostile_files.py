"""Damaged and hostile corpus files, determined by a seed: what a crash, a bad disk or a stranger may leave.

tests/cli/hostile_files_everywhere.py puts them to every command.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry, Record, Sighting

PLACE = Sighting(implementation="toy 1.0", device="lockstep", triton="3.6.0", torch="2.13.0", date="2026-01-31")
RECORD = Record.of(Finding("gather", "code-mismatch", "k_scale", "token 1 is 2, must be 1", index=(1,)))


def good(seed: int) -> Entry:
    """An entry as a campaign writes it."""
    case = Case().replace(batch={"prefill": ({"length": 2, "new": 0},)}, values={"seed": seed})
    return Entry(case=case, finding=RECORD, seen=(PLACE,))


Bytes = Callable[[random.Random, bytes], bytes]


def _cut(pick: random.Random, text: bytes) -> bytes:
    return text[: pick.randrange(len(text) - 2)]


def _flip_bits(pick: random.Random, text: bytes) -> bytes:
    """Bits of what is not within a string flipped to what JSON does not know."""
    changed = bytearray(text)
    for _ in range(pick.randint(1, 8)):
        changed[pick.randrange(len(changed))] ^= 0x80
    return bytes(changed)


def _twice(pick: random.Random, text: bytes) -> bytes:
    """Two files in one, or a part of one written over."""
    return text + text[: pick.randrange(1, len(text))]


def _zeros(pick: random.Random, text: bytes) -> bytes:
    """What a file system leaves of a block that it never wrote."""
    start = pick.randrange(len(text) - 8)
    return text[:start] + bytes(min(512, len(text) - start)) + text[start + 512 :]


def _garbage(pick: random.Random, _text: bytes) -> bytes:
    return pick.randbytes(pick.randrange(2000))


def _deep(pick: random.Random, text: bytes) -> bytes:
    depth = pick.randrange(2_000, 200_000)
    opening = pick.choice((b"[", b'{"a":'))
    return text[:-2] + b', "note": ' + opening * depth


def _key_twice(pick: random.Random, text: bytes) -> bytes:
    name = pick.choice((b"status", b"note", b"num_heads", b"length", b"signature", b"schema"))
    return text.replace(b'"' + name + b'":', b'"' + name + b'": 1, "' + name + b'":', 1)


def _change(pick: random.Random, text: bytes) -> bytes:
    """A field of the right JSON with a value that it must not have."""
    data = json.loads(text)
    path = pick.choice(list(_places(data)))
    value = pick.choice(UNREADABLE if FREE & set(path) else VALUES)(pick)
    parent = data
    for step in path[:-1]:
        parent = parent[step]
    if isinstance(parent, dict) and pick.random() < 0.2:
        parent[pick.choice(KEYS)] = value
    else:
        parent[path[-1]] = value
    return json.dumps(data).encode(errors="surrogatepass")


def _places(data: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from _places(value, *path, name)


FREE = {"note", "detail", "index", "location", "implementation", "device", "triton", "torch"}
"""Fields that hold whatever somebody writes, as long as it can be read."""

Value = Callable[[random.Random], Any]

UNREADABLE: tuple[Value, ...] = (
    lambda _: 1e308,
    lambda _: float("nan"),
    lambda _: True,
    lambda _: {"__class__": "os.system", "__reduce__": ["rm -rf /"]},
    lambda pick: "A" * pick.randrange(5_000, 100_000),
    lambda _: "\x1b[2J\x1b]0;owned\x07",
    lambda _: "a\nb\rc\x00d",
    lambda _: "\u202egnp.exe\u2028",
    lambda _: "\ud800",
)
"""Values that no field takes."""

VALUES: tuple[Value, ...] = (
    *UNREADABLE,
    lambda pick: pick.choice((-1, 1 << 40, 1 << 70, -(1 << 63))),
    lambda pick: 10 ** pick.randrange(20, 400),
    lambda _: float("inf"),
    lambda _: [[[[]]]],
    lambda _: "../../../etc/passwd",
    lambda _: "gather/../../etc/crash",
    lambda _: "gather/no-such-kind/x",
    lambda _: "__import__('os').system('false')",
    lambda pick: [{"length": -pick.randrange(9), "new": 1}],
)
"""Values that no other field takes, or that make it another case than its file is named for."""

KEYS = ("extra", "\x1b[2J", "a\nb", "../x", "__proto__", "schema ", "\u2028", "case\x00")

DAMAGES: dict[str, Bytes] = {
    "cut": _cut,
    "bits": _flip_bits,
    "twice": _twice,
    "zeros": _zeros,
    "garbage": _garbage,
    "deep": _deep,
    "a key twice": _key_twice,
    "a value": _change,
}


def hostile_file(seed: int, number: int) -> tuple[str, str, bytes]:
    """The number's damage, the file's path in a corpus, and its bytes."""
    pick = random.Random(f"{seed} {number}")
    kind = "a value" if pick.random() < 0.5 else pick.choice(list(DAMAGES))
    entry = good(10_000 + number)
    content = DAMAGES[kind](pick, entry.dumps().encode())
    return kind, entry.file, content
