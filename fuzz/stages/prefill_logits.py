"""Logits of the query rows of prefill, over the keys that were gathered for them."""

from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import mqa_logits
from indexfuzz.reference.bounds import LogitBounds, prefill_bounds
from indexfuzz.reference.fp8 import format_of
from indexfuzz.reference.nibbles import as_fp8_keys
from indexfuzz.reference.scales import finite
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Workload
from indexfuzz.stages.logits import LogitStage, Operands, poisoned_logits
from indexfuzz.stages.nonfinite import fp8_numbers
from indexfuzz.stages.workloads import prefill


class PrefillLogits(LogitStage):
    """Fills logits [M,N] in the columns ks <= n < ke of each row."""

    name = stage_names.PREFILL_LOGITS
    row_inputs = ("q_fp8", "weights", "ks", "ke", "logits")
    sources = ("mqa_logits", "nibbles", "scales")
    reference = staticmethod(mqa_logits.mqa_logits)
    workload = Workload(((16, 256),), lambda rows, keys: prefill((keys, rows), heads=64))

    def applies(self, case: Case) -> bool:
        return case.batch.prefill_rows > 0 and case.batch.keys > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        batch, t, rows = step.case.batch, step.tensors, step.prefill_rows
        logits = poisoned_logits(step, "prefill_logits", batch.prefill_rows, batch.keys)
        return {
            "q_fp8": step.spread("q_fp8")[rows],
            "k_fp8": t["k_fp8"],
            "k_scale": t["k_scale"],
            "weights": step.spread("q_weights")[rows],
            "ks": t["ks"],
            "ke": t["ke"],
            "logits": logits,
        }

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(tensors, fills={"logits": "prefill_logits"}, undefined=frozenset({"logits"}))

    def operands(self, given: Call) -> Operands:
        t = given.tensors
        k_fp8 = as_fp8_keys(t["k_fp8"], format_of(t["q_fp8"]))
        return Operands(*((t | {"k_fp8": k_fp8})[name].unsqueeze(0) for name in Operands._fields))

    def visible(self, given: Call) -> Tensor:
        t = given.tensors
        return mqa_logits.visible_range(t["ks"], t["ke"], t["logits"].shape[1])

    def limits(self, given: Call, guarantees: Guarantees) -> LogitBounds:
        names = ("q_fp8", "k_fp8", "k_scale", "weights", "ks", "ke")
        inputs = (given.tensors[name] for name in names)
        return prefill_bounds(*inputs, arithmetic=guarantees.scoring, simulated_dot=guarantees.simulated_dot)

    def finite_keys(self, given: Call, *, whole_rows: bool) -> dict[str, Tensor]:
        k_fp8, k_scale = given.tensors["k_fp8"], given.tensors["k_scale"]
        return {"k_fp8": fp8_numbers(k_fp8, whole_rows=whole_rows), "k_scale": finite(k_scale)}
