"""What prefill logits and paged logits have in common: how they are judged, and how far NaN reaches into them."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.checks.logits import Alternative, Alternatives, Expected, check_logits
from indexfuzz.checks.nonfinite import check_nonfinite_logits
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.reference import fp8
from indexfuzz.reference.bounds import LogitBounds
from indexfuzz.reference.mqa_logits import dot, key_values
from indexfuzz.reference.scales import values_of
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors
from indexfuzz.stages.nonfinite import fp8_numbers, has_nan, numbers
from indexfuzz.stages.verdict import Verdict

LOOSE = 2.0**-12
"""Relative error that names a mistake well enough; verdicts have proper bounds."""


class Operands(NamedTuple):
    """What logits are made of: q_fp8 [S, R, H, D], k_fp8 [S, N, D], k_scale [S, N], weights [S, R, H].

    k_scale is fp32, or int32 of the UE8M0 exponents of the quarters of each key.
    Each of S sequences has R query rows and N keys; the logits have a row for each query row of each sequence.
    """

    q_fp8: Tensor
    k_fp8: Tensor
    k_scale: Tensor
    weights: Tensor


class LogitStage(Stage):
    """A stage that fills logits fp32 [rows, columns], -inf where a row does not see a column."""

    outputs = (Output("logits", ("row", "column")),)
    shown = "logits"
    agreement = "bounds"

    @abstractmethod
    def operands(self, given: Call) -> Operands:
        """What the logits are made of."""

    @abstractmethod
    def visible(self, given: Call) -> Tensor:
        """Which logits a row sees, bool [rows, columns]."""

    @abstractmethod
    def limits(self, given: Call, guarantees: Guarantees) -> LogitBounds:
        """What the logits may be."""

    @abstractmethod
    def finite_keys(self, given: Call, *, whole_rows: bool) -> dict[str, Tensor]:
        """The tensors that keys come in, without NaN codes and with finite scales, as `fp8_numbers` makes them."""

    def layouts(self, given: Call, guarantees: Guarantees) -> Mapping[str, Alternative]:
        """What the logits would be if the keys were read by another layout, by its name."""
        return {}

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Exactly the columns that each row sees are there, each within its bound."""
        limits = self.limits(given, guarantees)
        hidden_stay = guarantees.promises.hidden_logits == "untouched"
        found, ratio = check_logits(
            got["logits"],
            Expected(*limits, before=given.tensors["logits"], hidden_stay=hidden_stay),
            Alternatives(
                layouts=self.layouts(given, guarantees),
                mistakes={"forgets the ReLU": lambda: _without_relu(limits, self.operands(given))},
                overflows=may_overflow(self.operands(given)),
            ),
        )
        return Verdict((found,) if found else (), ratio, limits.tier)

    def determined(self, given: Call, promises: Promises) -> dict[str, Tensor]:
        return {"logits": self.visible(given)} if promises.hidden_logits == "untouched" else {}

    def are_both_legal(self, given: Call, output: str, one: Tensor, other: Tensor, guarantees: Guarantees) -> Tensor:
        """Within twice the bound of each other, which may be infinite; of fewer columns, those of the first."""
        bound = self.limits(given, guarantees).bound[:, : one.shape[1]]
        return ((one.double() - other.double()).abs() <= 2 * bound) | torch.isinf(bound)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The row of a query that has some, or whose weights have, and the column of a key, as far as it is seen."""
        q, k, k_scale, weights = self.operands(given)
        rows, columns = ~torch.isfinite(weights).all(-1), ~torch.isfinite(values_of(k_scale)).all(-1)
        if not hides_nan:
            rows, columns = rows | has_nan(q).any(-1), columns | has_nan(k)
        mask = _on_logits(rows.unsqueeze(2) | columns.unsqueeze(1), given) & self.visible(given)
        t = given.tensors
        finite = {
            "q_fp8": fp8_numbers(t["q_fp8"], whole_rows=hides_nan),
            "weights": numbers(t["weights"]),
            **self.finite_keys(given, whole_rows=hides_nan),
        }
        return Reach({"logits": mask}, finite)

    def check_nonfinite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Finding | None:
        """A NaN weight or key scale makes every logit that it takes part in NaN; that of a quarter ends in the ReLU."""
        _, _, k_scale, weights = self.operands(given)
        taking_part = torch.isnan(weights).any(-1).unsqueeze(2) | torch.isnan(k_scale).unsqueeze(1)
        return check_nonfinite_logits(got["logits"], _on_logits(taking_part, given) & self.visible(given))


def poisoned_logits(step: Step, name: str, rows: int, columns: int) -> Tensor:
    """A buffer for logits, with the gaps between rows that a case wants."""
    return step.output(name, (rows, columns), torch.float32, row_pad=step.case.row_pad("logits", rows, columns))


def may_overflow(operands: Operands) -> bool:
    """Whether weights and scales are so large that fp32 scores may, if they meet other keys and heads than theirs."""
    q, k, k_scale, weights = operands
    if not weights.numel() or not k.numel():
        return False
    form = fp8.FORMATS[fp8.format_of(q)]
    largest = form.magnitude(form.max_code) ** 2 * q.shape[-1] * q.shape[-2]
    factor = float(weights.abs().max()) * max(1.0, float(values_of(k_scale).abs().max()))
    return not largest * factor < torch.finfo(torch.float32).max


def _on_logits(mask: Tensor, given: Call) -> Tensor:
    """A mask over rows and keys, bool [S, R, N], as one over logits; there is nothing beyond the last key."""
    flat = mask.flatten(0, 1)
    return torch.nn.functional.pad(flat, (0, given.tensors["logits"].shape[1] - flat.shape[1]))


def _without_relu(limits: LogitBounds, operands: Operands) -> tuple[Tensor, Tensor]:
    """The logits without the ReLU, fp64 like `limits`, and how near to them is near enough.

    Where no head scores below zero the ReLU does nothing, and the bound proper holds.
    """
    q, k, k_scale, weights = operands
    keys, scale = key_values(k, k_scale)
    scores = dot(fp8.decode(fp8.codes(q), fp8.format_of(q), torch.float64), keys)
    w, scale = weights.double().unsqueeze(2), scale.unsqueeze(1)
    value = torch.matmul(w, scores).squeeze(2) * scale
    near = torch.matmul(w.abs(), scores.abs()).squeeze(2) * scale * LOOSE
    matters = (scores < 0).any(2)
    missing = limits.reference.shape[1] - value.shape[2]
    value, near, matters = (torch.nn.functional.pad(x.flatten(0, 1), (0, missing)) for x in (value, near, matters))
    return value, torch.where(matters, near, limits.bound)
