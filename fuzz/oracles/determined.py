"""Which elements of its outputs a stage determines: the others may hold anything, even from launch to launch."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.core.terms import Promises
from indexfuzz.reference.gather import gathered_slots
from indexfuzz.reference.mqa_logits import visible_range
from indexfuzz.reference.paged_mqa_logits import row_windows
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call

Tensors = Mapping[str, Tensor]


def determined(stage: str, given: Tensors, promises: Promises) -> dict[str, Tensor]:
    """Masks over those outputs of a stage that are not determined everywhere, by name; bool, of the output's shape."""
    if stage == "gather" and promises.gather_padding != "zeros":
        _, is_token = gathered_slots(*(given[n] for n in ("cache", "block_table", "cu_seqlens", "token_to_seq")))
        return {"k_fp8": is_token.unsqueeze(1).expand(given["k_fp8"].shape), "k_scale": is_token}
    if stage.endswith("_logits") and promises.hidden_logits == "untouched":
        return {"logits": visible(stage, given)}
    return {}


def visible(stage: str, given: Tensors) -> Tensor:
    """Which logits a row sees, bool [rows, columns], from the inputs of prefill_logits or paged_logits."""
    columns = given["logits"].shape[1]
    if stage == "prefill_logits":
        return visible_range(given["ks"], given["ke"], columns)
    next_n, table, cache = given["q_fp8"].shape[1], given["block_table"], given["cache"]
    windows = row_windows(given["context_lens"], next_n, columns)
    position = torch.arange(columns, device=windows.device)
    block = table[:, (position // cache.shape[1]).clamp_max(table.shape[1] - 1)]
    has_page = ((block >= 0) & (block < len(cache))).repeat_interleave(next_n, 0)
    return (position < windows.reshape(-1, 1)) & has_page


def defined_after(step: Step, call: Call) -> Tensor:
    """Which bytes of the cache hold tokens after k_quant_cache: bool, of the cache's shape."""
    after = replace(step, defined=step.defined.clone())
    slots = call.tensors["slot_mapping"].long()
    after.define_slots(slots[slots >= 0])
    return after.defined.bool()
