"""Positions to slots: the slot mapping of a step, and the slots that each token selected."""

from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.exact import check_bits
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import SELECT
from indexfuzz.reference import select as reference
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.selections import place_requests, place_selection
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Tensors
from indexfuzz.stages.operation import Mistakes, Operation
from indexfuzz.stages.verdict import Verdict

MAX_SELECTED = 1 << 18
"""Entries of all tokens up to which a selection is made: each costs memory."""


class Lookup(Operation):
    """What looks pages up in block tables: integers, of which one is right."""

    sources = ("select",)

    def applies(self, case: Case) -> bool:
        return bool(case.lengths) and case.batch.tokens > 0

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        names = tuple(output.name for output in self.outputs)
        return Call(tensors, {"block_size": case.cache.block_size}, returns=names)

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        want = self._expected(given, instead)
        return Verdict.of(*(self._compare(name, got, want, guarantees) for name in want))

    def _expected(self, given: Call, instead: dict[str, Any]) -> dict[str, Tensor]:
        return given.with_tensors(instead).run(self.reference)

    def _compare(self, name: str, got: Tensors, want: Tensors, guarantees: Guarantees) -> Finding | None:
        del guarantees
        return check_bits(name, got[name], want[name], axes=self.axes[name], before=poison_like(got[name]))

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What looking up pages is known for."""
        table, owner = given.tensors["block_table"], given.tensors["token_to_req"]
        others = torch.where(owner > 0, owner - 1, owner), torch.where(owner >= 0, 0 * owner, owner)
        pages = torch.arange(table.shape[1], dtype=table.dtype, device=table.device).expand_as(table)
        return {
            "pages are those of the request before": (self.name, {"token_to_req": others[0]}),
            "pages are those of the first request": (self.name, {"token_to_req": others[1]}),
            "positions were not looked up in the table": (self.name, {"block_table": pages}),
        }

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        return self.name

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """No values, no reach."""
        return Reach({}, {})


class Slots(Lookup):
    """Returns slot_mapping [T] int64 of positions [T] int64, their requests, and the block table."""

    name = stage_names.SLOTS
    outputs = (Output("slot_mapping", ("token",)),)
    row_inputs = ("positions", "token_to_req")
    reference = staticmethod(reference.slots)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        place_requests(step)
        t = step.tensors
        return {
            "positions": t.get("ranks", t["positions"]),
            "token_to_req": t["token_to_req"],
            "block_table": t["req_table"],
        }

    def forms(self, given: Call) -> dict[str, Form]:
        return {"slot_mapping": (tuple(given.tensors["positions"].shape), torch.int64)}


class Select(Lookup):
    """Returns slots [T,K] int32, packed in front, and counts [T] int32 of columns [T,K] int32 with -1 anywhere."""

    name = stage_names.SELECT
    outputs = (Output("slots", ("token", "entry")), Output("counts", ("token",)))
    row_inputs = ("columns", "token_to_req")
    reference = staticmethod(reference.select)

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.batch.tokens * case.model.index_topk <= MAX_SELECTED

    def tensors(self, step: Step) -> dict[str, Tensor]:
        place_selection(step)
        t = step.tensors
        return {"columns": t["columns"], "token_to_req": t["token_to_req"], "block_table": t["req_table"]}

    def forms(self, given: Call) -> dict[str, Form]:
        shape = tuple(given.tensors["columns"].shape)
        return {"slots": (shape, torch.int32), "counts": (shape[:1], torch.int32)}

    def _expected(self, given: Call, instead: dict[str, Any]) -> dict[str, Tensor]:
        if not instead.pop("unpacked", False):
            return super()._expected(given, instead)
        columns = given.tensors["columns"]
        token, entry = (columns >= 0).nonzero().unbind(1)
        packed, counts = given.run(self.reference).values()
        apart = torch.full_like(columns, -1)
        apart[token, entry] = packed[packed >= 0]
        return {"slots": apart, "counts": counts}

    def _compare(self, name: str, got: Tensors, want: Tensors, guarantees: Guarantees) -> Finding | None:
        if name == "slots" and not guarantees.promises.ordered_selection:
            got, want = ({name: _in_order(x[name])} for x in (got, want))
        return super()._compare(name, got, want, guarantees)

    def comparable(self, given: Call, outputs: Tensors) -> Tensors:
        """Each row in ascending order: which slot comes first is nobody's promise where rows move."""
        return {name: _in_order(x) if name == "slots" else x for name, x in outputs.items()}

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What looking up pages is known for, and gaps that stay."""
        return dict(super().mistakes(given, guarantees)) | {"gaps stay where they are": (SELECT, {"unpacked": True})}


def _in_order(slots: Tensor) -> Tensor:
    """The entries of each row that are not negative in ascending order, where they stand; others as they are."""
    none = torch.iinfo(slots.dtype).max
    ordered = torch.where(slots >= 0, slots, none).sort(1).values
    places = (slots >= 0).long().cumsum(1) - 1
    return torch.where(slots >= 0, ordered.gather(1, places.clamp_min(0)), slots)
