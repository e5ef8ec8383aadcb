"""Seeded mistakes of a logits kernel: in what it reads, in what it computes, in what it writes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from indexfuzz.core.stage_names import PREFILL_LOGITS
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import StageFunction
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.reference import fp8

FILE = "kernels/mqa_logits.py"
SCORES = "        scores = tl.dot(k, tl.trans(q))\n"
WEIGHTED = "        weighted = tl.maximum(scores, 0.0) * weights[None, :]\n"
SUMMED = "        summed = tl.sum(tl.reshape(weighted, [KEYS, ROWS, HEADS]), axis=2)\n"
PAGE = 16
"""Keys that a lost page takes with it."""

TOKEN = 5
"""The key that things happen to."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of prefill_logits: q_fp8 [M, H, D], k_fp8 [N, D], k_scale [N], weights [M, H], ks and ke [M]."""

    q_fp8: Tensor
    k_fp8: Tensor
    k_scale: Tensor
    weights: Tensor
    ks: Tensor
    ke: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the stage's arguments."""
        return dict(vars(self))

    def blank(self) -> Tensor:
        """Logits that were never written."""
        return torch.full((len(self.ks), len(self.k_scale)), float("nan"))


@dataclass(frozen=True)
class Mistake:
    """One mistake: another kernel, other inputs, or another output, each None where it is right."""

    name: str
    edits: tuple[tuple[str, str], ...] = ()
    reads: Callable[[Inputs], Inputs] | None = None
    writes: Callable[[Tensor], Tensor] | None = None

    def logits(self, inputs: Inputs, device: LockstepDevice) -> Tensor:
        """What the kernel with this mistake writes."""
        given = self.reads(inputs) if self.reads else inputs
        out = given.blank()
        with device.session():
            self._kernel()(**given.tensors(), logits=out)
        return self.writes(out) if self.writes else out

    def _kernel(self) -> StageFunction:
        if not self.edits:
            return builtin().stages[PREFILL_LOGITS]
        label = "".join(c if c.isalnum() else "-" for c in self.name)
        return builtin(edited_kernels(label, [(label, FILE, *edit) for edit in self.edits])).stages[PREFILL_LOGITS]


def _one_code(x: Inputs) -> Inputs:
    code = fp8.codes(x.k_fp8).clone()
    code[TOKEN, 40] ^= 1
    return replace(x, k_fp8=code.view(x.k_fp8.dtype))


def _lost_dim(x: Inputs) -> Inputs:
    code = fp8.codes(x.k_fp8).clone()
    code[:, -1] = 0
    return replace(x, k_fp8=code.view(x.k_fp8.dtype))


def _lost_head(x: Inputs) -> Inputs:
    weights = x.weights.clone()
    weights[:, -1] = 0
    return replace(x, weights=weights)


def _swapped_heads(x: Inputs) -> Inputs:
    order = torch.arange(x.weights.shape[1])
    order[:2] = order[:2].flip(0)
    return replace(x, weights=x.weights[:, order])


def _lost_page(x: Inputs) -> Inputs:
    code, scale = fp8.codes(x.k_fp8).clone(), x.k_scale.clone()
    code[PAGE : 2 * PAGE] = 0
    scale[PAGE : 2 * PAGE] = 0
    return replace(x, k_fp8=code.view(x.k_fp8.dtype), k_scale=scale)


def _swapped_tokens(x: Inputs) -> Inputs:
    order = torch.arange(len(x.k_scale))
    order[TOKEN : TOKEN + 2] = order[TOKEN : TOKEN + 2].flip(0)
    return replace(x, k_fp8=fp8.codes(x.k_fp8)[order].view(x.k_fp8.dtype), k_scale=x.k_scale[order])


def _doubled_scale(x: Inputs) -> Inputs:
    scale = x.k_scale.clone()
    scale[TOKEN] *= 2
    return replace(x, k_scale=scale)


def _ulp_in_one_scale(x: Inputs) -> Inputs:
    scale = x.k_scale.clone()
    scale[TOKEN] = torch.nextafter(scale[TOKEN], torch.tensor(float("inf")))
    return replace(x, k_scale=scale)


def _lost_token(logits: Tensor) -> Tensor:
    lost = logits.clone()
    lost[:, TOKEN] = 0
    return lost


def _stale_column(logits: Tensor) -> Tensor:
    """The second row's column still holds the first row's logit."""
    stale = logits.clone()
    stale[1, TOKEN] = logits[0, TOKEN]
    return stale


def _scores_as(dtype: str) -> tuple[tuple[str, str], ...]:
    return ((SCORES, SCORES.rstrip() + f".to(tl.{dtype}).to(tl.float32)\n"),)


RIGHT = Mistake("none: a correct kernel")

MISTAKES = (
    Mistake("one code of one key off by one step", reads=_one_code),
    Mistake("the last dim lost", reads=_lost_dim),
    Mistake("the last head lost", reads=_lost_head),
    Mistake(
        "no ReLU on one head",
        edits=((WEIGHTED, WEIGHTED.replace("0.0)", 'tl.where(head == 1, float("-inf"), 0.0)[None, :])')),),
    ),
    Mistake(
        "ReLU after the sum over heads",
        edits=(
            (WEIGHTED, WEIGHTED.replace("tl.maximum(scores, 0.0)", "scores")),
            (SUMMED, SUMMED.replace("tl.sum(", "tl.maximum(tl.sum(").replace("axis=2)", "axis=2), 0.0)")),
        ),
    ),
    Mistake("the weights of two heads swapped", reads=_swapped_heads),
    Mistake("each key takes the scale of the one before", reads=lambda x: replace(x, k_scale=x.k_scale.roll(1))),
    Mistake("one token lost", writes=_lost_token),
    Mistake("one page lost", reads=_lost_page),
    Mistake("two tokens swapped", reads=_swapped_tokens),
    Mistake("one stale column", writes=_stale_column),
    Mistake("every window one key too wide", reads=lambda x: replace(x, ke=x.ke + 1)),
    Mistake("the scale of one token doubled", reads=_doubled_scale),
    Mistake("the scale of one token off by one ulp", reads=_ulp_in_one_scale),
    Mistake("every logit times 31/32", writes=lambda logits: logits * (31 / 32)),
    Mistake("weights rounded to bf16", reads=lambda x: replace(x, weights=x.weights.bfloat16().float())),
    Mistake("key scales rounded to bf16", reads=lambda x: replace(x, k_scale=x.k_scale.bfloat16().float())),
    Mistake("q . k rounded to fp16", edits=_scores_as("float16")),
    Mistake("q . k rounded to bf16", edits=_scores_as("bfloat16")),
    Mistake("logits rounded to bf16", writes=lambda logits: logits.bfloat16().float()),
    Mistake("logits rounded to fp16", writes=lambda logits: logits.half().float()),
)
