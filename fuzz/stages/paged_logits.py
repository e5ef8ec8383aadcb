"""Logits of the query rows of decode, straight from the paged cache."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks.logits import Alternative
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import layout, paged_mqa_logits
from indexfuzz.reference.bounds import LogitBounds, paged_bounds
from indexfuzz.reference.scales import dtype_of
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.logits import LogitStage, Operands, poisoned_logits
from indexfuzz.stages.nonfinite import cache_numbers
from indexfuzz.stages.quantised import scales_of, values_per_byte


class PagedLogits(LogitStage):
    """Fills logits [B*next_n, max_model_len] in the positions below the window of each row that have a page."""

    name = stage_names.PAGED_LOGITS
    row_inputs = ()
    sources = ("paged_mqa_logits", "layout", "nibbles", "scales")
    reference = staticmethod(paged_mqa_logits.paged_mqa_logits)

    def applies(self, case: Case) -> bool:
        return len(case.batch.decode) > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        batch, t, rows = step.case.batch, step.tensors, step.decode_rows
        logits = poisoned_logits(step, "paged_logits", batch.decode_rows, batch.max_model_len)
        q_fp8, q_weights = step.spread("q_fp8"), step.spread("q_weights")
        return {
            "q_fp8": q_fp8[rows].view(len(batch.decode), batch.next_n, *q_fp8.shape[1:]),
            "cache": t["cache"],
            "weights": q_weights[rows],
            "context_lens": t["context_lens"],
            "block_table": t["decode_table"],
            "logits": logits,
        }

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        options = {"layout": case.cache.layout, **scales_of(case)}
        return Call(tensors, options, fills={"logits": "paged_logits"}, undefined=frozenset({"logits"}))

    def operands(self, given: Call) -> Operands:
        q, weights = given.tensors["q_fp8"], given.tensors["weights"]
        keys = seen_keys(given)
        return Operands(q, keys.k_fp8, keys.k_scale, weights.reshape(q.shape[:3]))

    def visible(self, given: Call) -> Tensor:
        t = given.tensors
        next_n, table, columns = t["q_fp8"].shape[1], t["block_table"], t["logits"].shape[1]
        num_blocks, block_size, _ = t["cache"].shape
        windows = paged_mqa_logits.row_windows(t["context_lens"], next_n, columns)
        position = torch.arange(columns, device=windows.device)
        block = table[:, (position // block_size).clamp_max(table.shape[1] - 1)]
        has_page = ((block >= 0) & (block < num_blocks)).repeat_interleave(next_n, 0)
        return (position < windows.reshape(-1, 1)) & has_page

    def limits(self, given: Call, guarantees: Guarantees) -> LogitBounds:
        return self._limits_by(given.options["layout"], given, guarantees)

    def _limits_by(self, layout_read: str, given: Call, guarantees: Guarantees) -> LogitBounds:
        t = given.tensors
        return paged_bounds(
            t["q_fp8"],
            t["cache"],
            t["weights"],
            t["context_lens"],
            t["block_table"],
            t["logits"].shape[1],
            layout=layout_read,
            scales=given.options.get("scales", "fp32"),
            arithmetic=guarantees.scoring,
            simulated_dot=guarantees.simulated_dot,
        )

    def layouts(self, given: Call, guarantees: Guarantees) -> Mapping[str, Alternative]:
        block_size, key_bytes = layout.page_shape(given.tensors["cache"])
        others = set(layout.CONCRETE if values_per_byte(given) > 1 else layout.ROW_ORDER)
        others -= {layout.resolve(given.options["layout"], block_size)}
        others = {other for other in others if layout.is_defined(other, block_size, key_bytes)}
        return {other: partial(self._values_by, other, given, guarantees) for other in others}

    def _values_by(self, layout_read: str, given: Call, guarantees: Guarantees) -> tuple[Tensor, Tensor]:
        limits = self._limits_by(layout_read, given, guarantees)
        return limits.reference, limits.bound

    def finite_keys(self, given: Call, *, whole_rows: bool) -> dict[str, Tensor]:
        cache, scales = given.tensors["cache"], dtype_of(given.options.get("scales", "fp32"))
        dtype = torch.uint8 if values_per_byte(given) > 1 else given.tensors["q_fp8"].dtype
        return {"cache": cache_numbers(cache, given.options["layout"], dtype, scales, whole_rows=whole_rows)}


def seen_keys(given: Call) -> paged_mqa_logits.VisibleKeys:
    """The keys that some row of their sequence sees."""
    t = given.tensors
    return paged_mqa_logits.visible_keys(
        t["q_fp8"],
        t["cache"],
        t["context_lens"],
        t["block_table"],
        t["logits"].shape[1],
        layout=given.options["layout"],
        scales=given.options.get("scales", "fp32"),
    )
