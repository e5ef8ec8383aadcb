"""What the formula of the logits says: windows and keys move together, heads commute, weights are linear."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import PREFILL_LOGITS
from indexfuzz.oracles.metamorphic.relation import (
    Pairs,
    Twin,
    alter,
    blank,
    in_form_of,
    pick,
    shuffled,
    unchanged,
)
from indexfuzz.reference.scales import values_of
from indexfuzz.stages.base import Call, Tensors
from indexfuzz.stages.paged_logits import seen_keys

SHIFT = 5
"""Keys in front that no row sees: enough to move every tile."""

JUNK_CODE, JUNK_SCALE = 0x55, 3.0
"""A finite key, far from zero in either FP8 format."""

WEIGHT_RANGE, SCALE_RANGE = (2.0**-60, 2.0**60), (2.0**-24, 2.0**24)
Q_RANGE = (0.0, 2.0**60)
"""Magnitudes between which doubling a weight doubles every intermediate of a logit exactly: none leaves the normal
numbers. The smallest product of two FP8 values is 2^-20, and sums are multiples of their terms' last bits."""


def window_shifted(case: Case, call: Call) -> Iterator[Twin]:
    """Keys that nobody sees in front of all others, and every window moved behind them."""
    t = call.tensors
    k, scale, logits = t["k_fp8"], t["k_scale"], t["logits"]
    junk = torch.full((SHIFT, k.shape[1]), JUNK_CODE, dtype=torch.uint8, device=k.device)
    twin = alter(
        call,
        k_fp8=torch.cat([junk, k.view(torch.uint8)]).view(k.dtype),
        k_scale=torch.cat([torch.full((SHIFT,), JUNK_SCALE, device=k.device).view(scale.dtype), scale]),
        ks=t["ks"] + SHIFT,
        ke=t["ke"] + SHIFT,
        logits=blank(logits, len(logits), logits.shape[1] + SHIFT),
    )
    yield Twin(case, (twin,), lambda first, others: {"logits": (others[0]["logits"][:, SHIFT:], first["logits"])})


def as_prefill(case: Case, call: Call) -> Iterator[Twin]:
    """Decode queries as prefill rows over the gathered keys of their sequences."""
    t = call.tensors
    q, logits = t["q_fp8"], t["logits"]
    keys = seen_keys(call)
    sequences, longest = keys.k_scale.shape
    if not longest or case.memory.missing_pages:
        return
    rows = sequences * q.shape[1]
    ks = (torch.arange(sequences, dtype=torch.int32, device=q.device) * longest).repeat_interleave(q.shape[1])
    out = blank(logits, rows, sequences * longest)
    tensors = {
        "q_fp8": q.flatten(0, 1),
        "k_fp8": keys.k_fp8.flatten(0, 1),
        "k_scale": keys.k_scale.flatten(),
        "weights": t["weights"],
        "ks": ks,
        "ke": ks + keys.windows.flatten().int(),
        "logits": out,
    }

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        own = ks.long().unsqueeze(1) + torch.arange(longest, device=q.device)
        return {"logits": (others[0]["logits"].gather(1, own), first["logits"][:, :longest])}

    prefill = replace(call, tensors=tensors, options={}, fills={"logits": "twin"})
    yield Twin(case, (prefill,), pairs, stage=PREFILL_LOGITS)


def _heads(case: Case, call: Call, q: str, dim: int) -> tuple[Tensor, Tensor] | None:
    """q with its heads in another order, and that order; nothing where there is one head."""
    heads = call.tensors[q].shape[dim]
    if heads < 2:
        return None
    order = shuffled(case, "heads", heads)
    return in_form_of(call.tensors[q], pick(call.tensors[q], order, dim)), order


def heads_permuted_rope(case: Case, call: Call) -> Iterator[Twin]:
    """Rotated heads stay where they were."""
    if found := _heads(case, call, "q", 1):
        q, order = found
        back = torch.argsort(order)
        yield Twin(
            case,
            (alter(call, q=q),),
            lambda first, others: {
                "q": (pick(others[0]["q"], back, 1), first["q"]),
                "k": (others[0]["k"], first["k"]),
            },
        )


def heads_permuted_quant(case: Case, call: Call) -> Iterator[Twin]:
    """Quantised heads and their weights stay where they were."""
    if found := _heads(case, call, "q", 1):
        q, order = found
        back, weights = torch.argsort(order), call.tensors["weights"]
        twin = alter(call, q=q, weights=in_form_of(weights, pick(weights, order, 1)))
        yield Twin(
            case,
            (twin,),
            lambda first, others: {name: (pick(others[0][name], back, 1), first[name]) for name in first},
        )


def heads_permuted_logits(case: Case, call: Call) -> Iterator[Twin]:
    """The sum over heads is the same."""
    if found := _heads(case, call, "q_fp8", call.tensors["q_fp8"].dim() - 2):
        q, order = found
        weights = call.tensors["weights"]
        twin = alter(call, q_fp8=q, weights=in_form_of(weights, pick(weights, order, 1)))
        yield Twin(case, (twin,), unchanged)


def _within(tensor: Tensor, limits: tuple[float, float]) -> bool:
    """Whether all but the zeros of a tensor lie between two magnitudes."""
    magnitude = tensor[tensor != 0].abs()
    return bool(((magnitude >= limits[0]) & (magnitude <= limits[1])).all())


def weights_doubled_quant(case: Case, call: Call) -> Iterator[Twin]:
    """Twice the weights fold into twice the weights."""
    weights = call.tensors["weights"]
    if _within(weights, WEIGHT_RANGE) and _within(call.tensors["q"], Q_RANGE):
        twin = alter(call, weights=in_form_of(weights, weights * 2))
        yield Twin(
            case,
            (twin,),
            lambda first, others: {
                "q_fp8": (others[0]["q_fp8"], first["q_fp8"]),
                "q_weights": (others[0]["q_weights"], first["q_weights"] * 2),
            },
        )


def weights_doubled_prefill(case: Case, call: Call) -> Iterator[Twin]:
    """Twice the weights make twice the logits."""
    yield from _weights_doubled(case, call, call.tensors["k_scale"])


def weights_doubled_paged(case: Case, call: Call) -> Iterator[Twin]:
    """Twice the weights make twice the logits."""
    yield from _weights_doubled(case, call, seen_keys(call).k_scale)


def _weights_doubled(case: Case, call: Call, scale: Tensor) -> Iterator[Twin]:
    weights = call.tensors["weights"]
    if _within(weights, WEIGHT_RANGE) and _within(values_of(scale), SCALE_RANGE):
        twin = alter(call, weights=in_form_of(weights, weights * 2))
        yield Twin(case, (twin,), _twice)


def _twice(first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """Logits that were not written hold the same poison in both."""
    once, twice = first["logits"], others[0]["logits"]
    return {"logits": (twice, torch.where(torch.isnan(once), once, once * 2))}
