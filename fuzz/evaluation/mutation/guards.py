"""Guards: conditions on the arguments of a stage, as launchers have them, that hold for one case and few others."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.stages.base import Call

Value = int | str
Features = dict[str, Value]
"""What a guard may look at: the Python expression of it over the arguments, and its value."""

SMALL = 4096
"""Elements of an integer tensor whose contents a launcher may look at."""

ALIGNMENT = 64
"""Bytes to which PyTorch aligns memory on a CPU: addresses modulo this are the same in every process."""

MODULI = (2, 3, 4, 5, 7, 8, 16, 32, 64, 100)
MOST_ATOMS = 8
ENOUGH = 8
"""Witnesses that must remain for their share to be measured."""

LIKE = 40
"""Where fewer remain, the share of a comparison is measured on the last so many that the first ones left."""

TOLERANCE = 1.6
"""The rarity of a guard may be wrong by this factor."""


@dataclass(frozen=True)
class Guard:
    """A condition as Python source, and of how many witnesses that reach the stage about one satisfies it."""

    source: str
    rarity: float


@dataclass(frozen=True)
class _Atom:
    source: str
    holds: Callable[[Features], bool]


def features(call: Call) -> Features:
    """Sizes, strides, alignments and options of a call, and what its small integer tensors hold."""
    found: Features = {}
    for name, tensor in call.tensors.items():
        for dim in (*range(tensor.dim()), -1):
            found[f"{name}.shape[{dim}]"] = tensor.shape[dim]
            found[f"{name}.stride({dim})"] = tensor.stride(dim)
        found[f"{name}.data_ptr() % {ALIGNMENT}"] = tensor.data_ptr() % ALIGNMENT
        if tensor.dtype in (torch.int32, torch.int64):
            found |= _contents(name, tensor)
    return found | {name: value for name, value in call.options.items() if isinstance(value, int | str)}


def _contents(name: str, tensor: Tensor) -> Features:
    is_small = f"0 < {name}.numel() <= {SMALL}"
    values = {"min()": "min", "max()": "max", "flatten()[0]": "first", "flatten()[-1]": "last", "sum()": "sum"}
    flat = tensor.flatten()
    read: dict[str, Callable[[], Tensor]] = {
        "min": flat.min,
        "max": flat.max,
        "first": lambda: flat[0],
        "last": lambda: flat[-1],
        "sum": flat.sum,
    }
    is_read = 0 < tensor.numel() <= SMALL
    return {
        f"(int({name}.{source}) if {is_small} else 0)": int(read[word]()) if is_read else 0
        for source, word in values.items()
    }


def draw_guard(pick: random.Random, witness: Features, others: Sequence[Features], wanted: float) -> Guard | None:
    """A guard that a witness satisfies and about one in `wanted` of the others; None where none is found."""
    shared = [source for source in witness if all(source in other for other in others)]
    left = like = list(others)
    share, atoms = 1.0, list[_Atom]()
    for _ in range(300):
        if share * wanted <= TOLERANCE:
            return Guard(" and ".join(atom.source for atom in atoms), 1 / share)
        if len(atoms) == MOST_ATOMS:
            return None
        atom = _draw_atom(pick, shared, witness, others)
        if any(atom.source == other.source for other in atoms):
            continue
        kept = [other for other in left if atom.holds(other)]
        if len(kept) >= ENOUGH:
            smaller = len(kept) / len(others)
        else:
            smaller = share * max(sum(map(atom.holds, like)), 1) / len(like)
        if smaller * wanted >= 1 / TOLERANCE and smaller < 0.8 * share:
            left, share = kept, smaller
            like = kept if len(kept) >= LIKE else like
            atoms.append(atom)
    return None


def _draw_atom(pick: random.Random, sources: Sequence[str], witness: Features, others: Sequence[Features]) -> _Atom:
    """One comparison that holds for the witness."""
    source = pick.choice(sources)
    value = witness[source]
    if isinstance(value, str):
        return _Atom(f"{source} == {value!r}", lambda f: f[source] == value)
    kinds = ("equal", "remainder", "at least", "at most", "product", "relation")
    kind = pick.choice(kinds[: 2 if "data_ptr" in source else None])
    if kind == "remainder":
        modulus = pick.choice(MODULI)
        rest = value % modulus
        return _Atom(f"{source} % {modulus} == {rest}", lambda f: _number(f, source) % modulus == rest)
    if kind in ("at least", "at most"):
        return _threshold(pick, source, value, lambda f: _number(f, source), others, kind)
    if kind in ("product", "relation"):
        second = pick.choice([name for name in sources if isinstance(witness[name], int) and "data_ptr" not in name])
        if kind == "product":
            product = _number(witness, source) * _number(witness, second)
            both = f"{source} * {second}"
            return _threshold(
                pick, both, product, lambda f: _number(f, source) * _number(f, second), others, "at least"
            )
        sign = (_number(witness, source) > _number(witness, second)) - (value < _number(witness, second))
        word = {1: ">", 0: "==", -1: "<"}[sign]
        return _Atom(
            f"{source} {word} {second}",
            lambda f: (_number(f, source) > _number(f, second)) - (_number(f, source) < _number(f, second)) == sign,
        )
    return _Atom(f"{source} == {value}", lambda f: f[source] == value)


def _threshold(
    pick: random.Random,
    source: str,
    value: int,
    read: Callable[[Features], int],
    others: Sequence[Features],
    kind: str,
) -> _Atom:
    """At least, or at most, a number on the way from another case's value to the witness's."""
    other = read(pick.choice(others))
    if kind == "at least":
        limit = pick.randint(min(other, value), value)
        return _Atom(f"{source} >= {limit}", lambda f: read(f) >= limit)
    limit = pick.randint(value, max(other, value))
    return _Atom(f"{source} <= {limit}", lambda f: read(f) <= limit)


def _number(values: Mapping[str, Value], source: str) -> int:
    value = values[source]
    return value if isinstance(value, int) else 0


def wilson(found: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, after Wilson (1927)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.96, found / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)
