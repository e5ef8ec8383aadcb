"""Neighbours of a case: cases that differ from it in one thing a person would name."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Prefill, Regime
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.triage.neighbour import Neighbour, change, tokens
from indexfuzz.triage.session_neighbours import session_neighbours

PLAIN = Case()
PARTS = ("session", "cache", "rope", "batch", "memory", "model")
"""Parts whose fields are changed one by one, those that explain most first; values are changed as a whole."""

NODE_PARTS = ("cache", "memory", "model")
"""Parts that matter to an operation that makes keys of several tokens, besides the session itself."""

MOST_CHOICES = 3
"""Of the choices of a field, how many are tried."""

TILE = 16
"""Tokens of a tile in the shuffled layout: below it, and beside its multiples, kernels take other paths."""

WHOLE = (TILE, 4 * TILE, 16 * TILE)
"""Columns of a row of logits that kernels store at once: a row that ends within them takes another path."""

DIMS = (16, 32, 64, 128)
"""Sizes of heads and groups that kernels are written for."""

COMMON = {"num_heads": (16, 64, 2, 1), "head_dim": DIMS, "quant_group": DIMS}
"""Sizes that kernels are written for, and of heads the fewest."""

PLAINER: tuple[Regime, ...] = ("exact", "tied")
"""Values that are tried in single tensors: such that sums are exact, and such that all rows are alike.

Among zeros hardly anything is wrong, which explains nothing."""

TAKEN_BACK = frozenset(
    {
        ("memory", "far"),
        ("memory", "missing_pages"),
        ("cache", "page_pad"),
        ("batch", "gather_holes"),
        ("batch", "select_holes"),
        ("batch", "slot_holes"),
        ("batch", "gather_cut"),
        ("batch", "short_slots"),
        ("batch", "empty_windows"),
    }
)
"""Fields that are only put back to their default: others of their values spread a tensor over gigabytes, or leave
nothing to be wrong in a small case."""


def neighbours(case: Case) -> Iterator[Neighbour]:
    """The neighbours of a case, all of a field together. What contradicts itself is left out.

    What happens in a session comes first, then fields that are not at their default, as nobody could take them back and
    keep the finding, and then the values.
    """
    yield from session_neighbours(case)
    parts = PARTS[1:] if case.session.node == "none" else NODE_PARTS
    fields = [(part, name) for part in parts for name in type(getattr(case, part)).model_fields]
    special = [field for field in fields if not _is_plain(case, *field)]
    for part, name in special:
        yield from _other_fields(case, part, name)
    yield from _plainer_values(case)
    for part, name in fields:
        if (part, name) not in special:
            yield from _other_fields(case, part, name)
    yield with_ordinary_values(case)


def _other_fields(case: Case, part: str, name: str) -> Iterator[Neighbour]:
    if name in ("decode", "prefill"):
        yield from _other_lengths(case, name)
    else:
        yield from _other_values(case, part, name)


def _is_plain(case: Case, part: str, name: str) -> bool:
    return bool(getattr(getattr(case, part), name) == getattr(getattr(PLAIN, part), name))


def _other_values(case: Case, part: str, name: str) -> Iterator[Neighbour]:
    now, plain = getattr(getattr(case, part), name), getattr(getattr(PLAIN, part), name)
    for value in _choices(case, part, name):
        if value == now or ((part, name) in TAKEN_BACK and value != plain):
            continue
        fields = {name: value}
        if name == "head_dim":
            fields |= _dims_for(case, value)
        yield from change(case, f"{part}.{name}", _word(value), _word(now), {part: fields})


def _choices(case: Case, part: str, name: str) -> list[Any]:
    """Other values for a field: its default and the nearest ones, in the order in which they are tried."""
    field = type(getattr(case, part)).model_fields[name]
    now, plain = getattr(getattr(case, part), name), getattr(getattr(PLAIN, part), name)
    if isinstance(now, bool):
        return [not now]
    if get_origin(field.annotation) is Literal:
        return list(dict.fromkeys([plain, *get_args(field.annotation)]))[: MOST_CHOICES + 1]
    if name in COMMON:
        return [plain, *COMMON[name]]
    if name in (
        sizes := {
            "block_size": [TILE, 4 * TILE, 1, 2 * now],
            "max_model_len": [plain, now - 1, now + 1, *(-(-now // unit) * unit for unit in WHOLE)],
            "rope_dim": [plain, *(dim for dim in DIMS if dim <= case.model.head_dim)],
        }
    ):
        return sizes[name]
    double = 1 << now.bit_length()
    return list(dict.fromkeys([plain, now - 1, now + 1, double, double // 2 if now == double // 2 else double // 4]))


def _dims_for(case: Case, head_dim: int) -> dict[str, int]:
    """What follows from another head_dim: groups of whole rows stay so, and rope_dim fits."""
    model = case.model
    group = max(head_dim // max(model.head_dim // model.quant_group, 1), 1)
    return {"quant_group": group, "rope_dim": min(model.rope_dim, head_dim - head_dim % 2)}


def _other_lengths(case: Case, name: str) -> Iterator[Neighbour]:
    """One request at a time with a length beside its own, up to a whole tile or page, and left out if others stay."""
    requests = getattr(case.batch, name)
    for number, request in enumerate(requests):
        length = request.length if isinstance(request, Prefill) else request
        whole = [-(-length // unit) * unit for unit in (TILE, case.cache.block_size, 4 * TILE)]
        for other in dict.fromkeys((length - 1, length + 1, *whole)):
            if other == length or other < 1:
                continue
            changed: Any = other
            if isinstance(request, Prefill):
                changed = {"length": other, "new": min(request.new, other) if other < length else request.new}
            batch: dict[str, object] = {name: (*requests[:number], changed, *requests[number + 1 :])}
            if name == "decode":
                batch["max_model_len"] = max(case.batch.max_model_len, other)
            yield from change(case, f"batch.{name}[{number}]", tokens(other), tokens(length), {"batch": batch})
        if len(case.batch.decode) + len(case.batch.prefill) > 1:
            rest: dict[str, object] = {name: (*requests[:number], *requests[number + 1 :])}
            yield from change(case, f"batch.{name}[{number}]", "left out", "", {"batch": rest})


def _plainer_values(case: Case) -> Iterator[Neighbour]:
    """Plainer values in one tensor at a time."""
    for tensor, regimes in TENSORS.items():
        now = getattr(case.values, tensor)
        for regime in PLAINER:
            if regime in regimes and now not in (regime, "zeros"):
                rest = {name: entries for name, entries in case.values.set.items() if name != tensor}
                fields: dict[str, object] = {tensor: regime, "set": rest}
                yield from change(case, f"values.{tensor}", regime, now, {"values": fields})


def with_ordinary_values(case: Case) -> Neighbour:
    """The case with ordinary values in all tensors, of another seed than its own."""
    values: dict[str, object] = dict.fromkeys(TENSORS, "normal")
    changed = case.replace(values=values | {"set": {}, "seed": case.values.seed + 1})
    return Neighbour(changed, "values", "of any ordinary kind", "these")


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
