"""A batch written in the steps of a serving engine: chunks, drafts that are rejected, padding rows.

What a slot holds is a function of its token alone. So the cache must be the same, byte for byte, after one launch and
after any schedule of launches on the same pages in which the right token is written to every slot last.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import below, bits, derive
from indexfuzz.oracles.metamorphic.batching import rows_of_tokens
from indexfuzz.oracles.metamorphic.relation import Pairs, Twin, alter, paired, pick, shuffled, stored
from indexfuzz.reference import layout
from indexfuzz.stages.base import Call, Tensors
from indexfuzz.stages.k_quant_cache import written_slots

STEPS = 4
"""Launches at most: each costs as much as the first."""

MAX_DRAFTS = 3
"""Drafts of a step: with the token that is certain they make next_n of 4."""


def tokens_in_steps(case: Case, call: Call) -> Iterator[Twin]:
    """Tokens written in chunks; after a chunk, drafts in the slots of the tokens that come next, which replace them.

    Once with a row of padding in each step, and once without, for those who promise nothing about padding.
    """
    slots = written_slots(call)
    if len(slots) < 2:
        return
    with_padding = case.replace(batch={"pad_tokens": 1, "short_slots": False})
    for described, padding in ((with_padding, 1), (case, 0)):
        living = alter(call)
        calls = tuple(_step(case, living, *chunk, padding) for chunk in _chunks(case, len(slots)))
        yield Twin(described, calls, partial(_last_cache, case, slots))


def _chunks(case: Case, size: int) -> list[tuple[int, int, int]]:
    """First token, end and drafts of each step; the chunks follow each other, and the last has no drafts."""
    key = derive(case.values.seed, "twin steps")
    starts = sorted({0, *(1 + below(bits(key, (STEPS - 1,)), size - 1)).tolist()})
    ends = [*starts[1:], size]
    drafts = below(bits(derive(key, "drafts"), (len(starts),)), MAX_DRAFTS + 1).tolist()
    return [(start, end, min(n, size - end)) for start, end, n in zip(starts, ends, drafts, strict=True)]


def _step(case: Case, living: Call, start: int, end: int, drafts: int, padding: int) -> Call:
    """Write tokens from start to end, then drafts, whose keys are those of other tokens, and 0 or 1 rows of padding."""
    slots = living.tensors["slot_mapping"]
    owned = (slots >= 0).nonzero().flatten().cpu()
    wrong = owned[shuffled(case, "drafts", len(owned))]
    rows = torch.cat([owned[start:end], wrong[end : end + drafts], owned[:padding]])
    written = pick(slots, torch.cat([owned[start : end + drafts], owned[:padding]]))
    written[len(written) - padding :] = -1
    others = {name: pick(tensor, rows) for name, tensor in rows_of_tokens(living).items()}
    return living.with_tensors(others | {"slot_mapping": written})


def _last_cache(case: Case, slots: Tensor, first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """The tokens after the last step, and all other bytes of the pages."""
    last = others[-1]["cache"]
    pairs = paired(stored(case, last, slots), stored(case, first["cache"], slots))
    mask = torch.zeros(last.shape, dtype=torch.uint8, device=last.device)
    layout.mark_tokens(mask, slots, layout.resolve(case.cache.layout, last.shape[1]))
    return pairs | {"cache": (last.masked_fill(mask.bool(), 0), first["cache"].masked_fill(mask.bool(), 0))}
