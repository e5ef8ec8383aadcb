"""How serving projects test these kernels today: a grid of parameters, and a tolerance.

Each grid is one project's, by what it varies and what it does not. Sizes are scaled to what a CPU can run, in the
same proportions; repeats of one launch are left out, because lockstep gives the same bits each time. Every stage gets
right inputs and is compared with the reference, which favours the grids: some of the tests compare less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Batch, Cache, Model, Prefill
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE, PAGED_LOGITS, PREFILL_LOGITS
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.launching import launch_in, name_of
from indexfuzz.oracles.walk import function_for, launches

Agrees = Callable[[Tensor, Tensor], bool]


def calc_diff(got: Tensor, want: Tensor) -> float:
    """1 - 2 <x, y> / (<x, x> + <y, y>), in float64: DeepGEMM's measure of how far two tensors are apart."""
    x, y = got.double(), want.double()
    total = float((x * x + y * y).sum())
    return 1 - 2 * float((x * y).sum()) / total if total else 0.0


def similar_logits(got: Tensor, want: Tensor) -> bool:
    """The same columns at -inf, and calc_diff below 1e-3 over the others."""
    hidden = want == float("-inf")
    if not torch.equal(got == float("-inf"), hidden):
        return False
    return calc_diff(got.masked_fill(hidden, 0), want.masked_fill(hidden, 0)) < 1e-3


def similar_visible_logits(got: Tensor, want: Tensor) -> bool:
    """calc_diff below 1e-3 over the columns that the reference sees; what the others hold is not looked at."""
    hidden = want == float("-inf")
    return calc_diff(got.masked_fill(hidden, 0), want.masked_fill(hidden, 0)) < 1e-3


def close(got: Tensor, want: Tensor) -> bool:
    """torch.allclose with rtol and atol 1e-2, NaN equal to NaN."""
    return torch.allclose(got.float(), want.float(), rtol=1e-2, atol=1e-2, equal_nan=True)


@dataclass(frozen=True)
class Grid:
    """The cases that a project runs, and how it compares each stage that it tests."""

    project: str
    published: str
    scaled: str
    cases: tuple[Case, ...]
    compares: Mapping[str, Agrees]

    def finds(self, implementation: Implementation, device: Device) -> str | None:
        """The first stage that disagrees with the reference, with the number of the case; None when all agree."""
        for number, case in enumerate(self.cases, 1):
            for stage, step, call in launches(case, device):
                function = function_for(stage.name, case, implementation)
                if stage.name not in self.compares or function is None:
                    continue
                want = call.copy().run(stage.reference)
                launched = launch_in(step, stage.name, call, function, device)
                got = launched.outputs
                if launched.error:
                    return f"{stage.name} raised {name_of(launched.error)} in case {number}"
                if not all(self.compares[stage.name](got[n].float(), want[n].float()) for n in want):
                    return f"{stage.name} disagrees in case {number}"
        return None


def _prefill(heads: int, rows: int, keys: int, **cache: object) -> Case:
    """One request whose rows are the last of its keys: ks 0."""
    batch = Batch(prefill=(Prefill(length=keys, new=rows),), max_model_len=keys)
    return Case(model=_model(heads), cache=Cache(block_size=64), batch=batch).replace(cache=cache)


def _paged(heads: int, next_n: int, lengths: tuple[int, ...], max_model_len: int) -> Case:
    """Decode requests over pages of 64 tokens."""
    batch = Batch(decode=lengths, next_n=next_n, max_model_len=max_model_len)
    return Case(model=_model(heads), cache=Cache(block_size=64, pages="permuted"), batch=batch)


def _model(heads: int, fp8: str = "e4m3fn") -> Model:
    return Model.model_validate(
        {"num_heads": heads, "head_dim": 128, "rope_dim": 64, "quant_group": 128, "index_topk": 64, "fp8": fp8}
    )


def _insert(tokens: int) -> Case:
    """One request of new tokens, pages of one token, slots in order."""
    batch = Batch(prefill=(Prefill(length=tokens, new=tokens),), max_model_len=tokens)
    return Case(model=_model(16, "e4m3fnuz"), cache=Cache(block_size=1), batch=batch)


GRIDS = (
    Grid(
        "vLLM",
        "prefill 512 x 1024; paged (batch, next_n) (4, 1) and (2, 2), context about 2048, max_model_len 4096, "
        "block_size 64; 32 heads of 128; ks 0; calc_diff < 1e-3",
        "prefill 64 x 128; context about 256, max_model_len 512",
        (_prefill(32, 64, 128), _paged(32, 1, (240, 251, 262, 273), 512), _paged(32, 2, (249, 262), 512)),
        {PREFILL_LOGITS: similar_logits, PAGED_LOGITS: similar_visible_logits},
    ),
    Grid(
        "AITER",
        "insert and gather 1, 64, 128, 257 and 1028 tokens, block_size 1, one request, slots in order; prefill up to "
        "1024 x 1560 with ks 0; allclose",
        "insert and gather up to 257 tokens; prefill 64 x 98",
        (*(_insert(tokens) for tokens in (1, 64, 128, 257)), _prefill(64, 64, 98, block_size=1)),
        {K_QUANT_CACHE: close, GATHER: close, PREFILL_LOGITS: close},
    ),
    Grid(
        "DeepGEMM",
        "prefill 2048 x 4096 and 4096 x 8192 with ks 0; paged with contexts 0.7 to 1.3 times 8192, next_n 1 and 2, "
        "exact tables, block_size 64; 64 heads of 128; calc_diff < 1e-3; 20 repeats",
        "prefill 32 x 64 and 64 x 128; contexts 0.7 to 1.3 times 256; no repeats",
        (
            _prefill(64, 32, 64),
            _prefill(64, 64, 128),
            _paged(64, 1, (180, 212, 301, 332), 512),
            _paged(64, 2, (187, 240, 289, 330), 512),
        ),
        {PREFILL_LOGITS: similar_logits, PAGED_LOGITS: similar_visible_logits},
    ),
)
"""What issue trackers and test folders of the three projects show."""
