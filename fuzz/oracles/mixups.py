"""What the whole indexer may have mixed up between its stages, each told by what it would select."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.checks.topk import check_topk
from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import TOPK
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.launching import launch
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.logits import LogitStage
from indexfuzz.stages.table import GATHER, PAGED_LOGITS, PREFILL_LOGITS, Q_QUANT

Change = tuple[str, dict[str, Tensor]]
"""A mix-up in words, and what a logits stage is given by it."""


@dataclass(frozen=True)
class Selections:
    """What a whole indexer selected, int32 [T, index_topk], for a step that its stages have run on one by one.

    `earlier` is the case of the step that it served before from the same tensors, if there was one.
    """

    step: Step
    selected: Tensor
    implementation: Implementation
    device: Device
    earlier: Case | None = None

    def of_decode(self) -> Tensor:
        """The columns of paged_logits that decode rows chose."""
        return self.selected[self.step.decode_rows]

    def of_prefill(self) -> Tensor:
        """The columns of prefill_logits that prefill rows chose: positions count from a sequence's first key."""
        own = self.selected[self.step.prefill_rows].long()
        return torch.where(own >= 0, own + self.step.tensors["ks"].unsqueeze(1), own)

    def explain(self, stage: LogitStage) -> str:
        """What was mixed up so that the rows of one of the logits stages chose what they did; empty if nothing fits."""
        if self._are_swapped():
            return "the rows of decode and prefill requests have changed places"
        own = self.step.tensors[stage.name].clone()  # launches write to them
        call = stage.prepare(self.step)
        if stage is PREFILL_LOGITS and self._chose(self.selected[self.step.prefill_rows], stage, call):
            return "positions of prefill rows count from the first of all gathered keys"
        chosen = self.of_decode() if stage is PAGED_LOGITS else self.of_prefill()
        changes = self._changes(stage, call)
        fitting = (words for words, new in changes if self._chose(chosen, stage, call.with_tensors(new), own))
        return next(fitting, "")

    def _are_swapped(self) -> bool:
        """Whether each half fits the rows of the other; only where there are both."""
        batch, t = self.step.case.batch, self.step.tensors
        if not batch.decode_rows or PREFILL_LOGITS.name not in t:
            return False
        own = self.selected[: batch.prefill_rows].long()
        prefill = torch.where(own >= 0, own + t["ks"].unsqueeze(1), own)
        decode = self.selected[batch.prefill_rows : batch.prefill_rows + batch.decode_rows]
        return (
            check_topk("", prefill, t[PREFILL_LOGITS.name]) is None
            and check_topk("", decode, t[PAGED_LOGITS.name]) is None
        )

    def _chose(self, columns: Tensor, stage: LogitStage, call: Call, own: Tensor | None = None) -> bool:
        """Whether columns are what is right to choose from the logits of a call, which order every row.

        NaN, which keys that nobody has written come to, orders nothing: then they are what is chosen, unless these are
        the step's `own` logits, of which that says nothing.
        """
        logits = self._launch(stage.name, call).get("logits")
        if logits is None or not logits.isnan().any():
            return logits is not None and check_topk("", columns, logits) is None
        if own is not None and memory.same(logits, own):
            return False
        options = {"index_topk": self.step.case.model.index_topk}
        chosen = self._launch(TOPK, Call({"logits": logits}, options, returns=("columns",))).get("columns")
        return chosen is not None and torch.equal(chosen.long(), columns.long())

    def _launch(self, stage: str, call: Call) -> dict[str, Tensor]:
        return launch(stage, call, self.implementation.stages[stage], self.device).copies()

    def _changes(self, stage: LogitStage, call: Call) -> Iterator[Change]:
        if self.earlier is not None:
            yield from self._of_earlier(stage, call, materialise(self.earlier, self.step.device).tensors)
        yield from self._other_rows(call, self.step.decode_rows if stage is PAGED_LOGITS else self.step.prefill_rows)
        yield from self._other_sequences(call)
        before = materialise(self.step.case, self.step.device).tensors
        if stage is PAGED_LOGITS:
            yield "the keys of this step are not in the cache yet", {"cache": before["cache"]}
        else:
            gathered = self._launch(GATHER.name, GATHER.prepare(self.step).with_tensors({"cache": before["cache"]}))
            yield "the keys of this step are not in the cache yet", gathered
        quantised = self._launch(Q_QUANT.name, Q_QUANT.prepare(self.step).with_tensors({"q": before["q"]}))
        rows = self.step.decode_rows if stage is PAGED_LOGITS else self.step.prefill_rows
        if "q_fp8" in quantised:
            q = quantised["q_fp8"][rows].view(call.tensors["q_fp8"].shape)
            yield "q is as it was before RoPE", {"q_fp8": q}

    def _of_earlier(self, stage: LogitStage, call: Call, earlier: dict[str, Tensor]) -> Iterator[Change]:
        """What says where keys are and which of them a row sees, as it was in the step before."""
        for name in ("context_lens", "ks", "ke"):
            if name in call.tensors:
                yield f"{name} is that of the step before", {name: earlier[name]}
        if stage is PAGED_LOGITS:
            yield "block_table is that of the step before", {"block_table": earlier["decode_table"]}
            return
        gathering = GATHER.prepare(self.step)
        table = {"block_table": earlier["prefill_table"]}
        yield "block_table is that of the step before", self._launch(GATHER.name, gathering.with_tensors(table))
        plan = {name: earlier[name] for name in ("cu_seqlens", "token_to_seq")}  # one alone may lead beyond the table
        words = "cu_seqlens and token_to_seq are those of the step before"
        yield words, self._launch(GATHER.name, gathering.with_tensors(plan))

    def _other_rows(self, call: Call, rows: slice) -> Iterator[Change]:
        """Rows of the step that belong to other tokens: those at its start, those after decode, and the neighbours."""
        count, tokens, decode = rows.stop - rows.start, self.step.case.batch.tokens, self.step.decode_rows.stop
        arguments = {"q_fp8": "q", "weights": "weights"}
        sources = {"q_fp8": self.step.spread("q_fp8"), "weights": self.step.spread("q_weights")}
        for start in dict.fromkeys((0, decode, rows.start + 1, rows.start - 1, tokens - count)):
            if start == rows.start or not 0 <= start <= tokens - count:
                continue
            where = f"those of tokens {start} to {start + count - 1}, not {rows.start} to {rows.stop - 1}"
            taken = {
                name: source[start : start + count].reshape(call.tensors[name].shape)
                for name, source in sources.items()
            }
            for name, tensor in taken.items():
                yield f"{arguments[name]} are {where}", {name: tensor}
            yield f"q and weights are {where}", taken

    def _other_sequences(self, call: Call) -> Iterator[Change]:
        """Lengths, windows and pages of other sequences, and lengths without the tokens of this step."""
        t, next_n = call.tensors, self.step.case.batch.next_n
        for name in ("context_lens", "block_table", "ks", "ke"):
            if name in t and len(t[name]) > 1:
                for shift in (1, -1):
                    yield f"{name} is that of the neighbour", {name: t[name].roll(shift, 0)}
                yield f"{name} is in reverse order", {name: t[name].flip(0)}
        if "context_lens" in t:
            for change, words in ((-next_n, "leaves out the tokens of this step"), (next_n, "counts them twice")):
                lens = (t["context_lens"] + change).clamp_min(0)
                yield f"context_lens {words}", {"context_lens": lens}
            yield (
                "context_lens is the longest for all",
                {"context_lens": t["context_lens"].max().expand_as(t["context_lens"]).clone()},
            )
