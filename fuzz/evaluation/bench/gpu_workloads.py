"""Launches of the size of production on a GPU: how much work each is, and whether its result is right.

Sizes are those of DeepSeek-V3.2 (64 heads of 128, UE8M0, pages of 64 tokens); tensors are larger than the L2 cache.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE, PAGED_LOGITS, PREFILL_LOGITS, Q_QUANT
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import bounds, cache, gather, quant
from indexfuzz.reference.arithmetic import PRESETS, Arithmetic

HEADS, HEAD_DIM, BLOCK_SIZE = 64, 128, 64
TOKEN_BYTES = HEAD_DIM + 4
CHECKED_ROWS = 3
"""Rows of logits that are compared with the reference: the first, the last, one between."""

Arguments = dict[str, Any]
"""Of a stage, by name."""

ROUNDINGS = 4 * 2.0**-24
"""Relative error of a folded weight: three products, in any order."""

QUANTISED: Arguments = {"scale_fmt": "ue8m0", "fp8": "e4m3fn"}


@dataclass(frozen=True)
class Workload:
    """One launch: `amount` of work in bytes or floating-point operations; `complaint` says what is wrong afterwards."""

    name: str
    launch: Callable[[], Any]
    amount: float
    unit: str
    complaint: Callable[[], str]


def workloads(implementation: Implementation, *, small: bool = False, device: str = "cuda") -> Iterator[Workload]:
    """The launches of the stages that an implementation has; `small` ones fit a test on a CPU."""
    makers = {
        Q_QUANT: _q_quant,
        K_QUANT_CACHE: _k_quant_cache,
        GATHER: _gather,
        PREFILL_LOGITS: _prefill_logits,
        PAGED_LOGITS: _paged_logits,
    }
    for stage, make in makers.items():
        if stage in implementation.stages:
            yield from make(implementation.stages[stage], small=small, device=device)


def _normal(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(sum(shape)), device=device)


def _same(name: str, got: Tensor, want: Tensor) -> str:
    got, want = (x.view(torch.uint8) if x.element_size() == 1 else x for x in (got, want))
    wrong = int((got != want).sum())
    return f"{wrong} of {want.numel()} elements of {name} differ from the reference" if wrong else ""


def _q_quant(function: Callable[..., Any], *, small: bool, device: str) -> Iterator[Workload]:
    tokens = 64 if small else 8192
    arguments: Arguments = {
        "q": _normal(device, tokens, HEADS, HEAD_DIM).bfloat16(),
        "weights": _normal(device, tokens, HEADS),
    }

    def complaint() -> str:
        (codes, weights), (right, exact) = (f(**arguments, **QUANTISED) for f in (function, quant.q_quant))
        far = int(((weights - exact).abs() > ROUNDINGS * exact.abs()).sum())
        return _same("q_fp8", codes, right) or (f"{far} of {exact.numel()} q_weights are wrong" if far else "")

    amount = tokens * HEADS * (3 * HEAD_DIM + 8)
    yield Workload(f"q_quant {tokens} x {HEADS}", lambda: function(**arguments, **QUANTISED), amount, "B", complaint)


def _k_quant_cache(function: Callable[..., Any], *, small: bool, device: str) -> Iterator[Workload]:
    tokens = 256 if small else 1 << 20
    k = _normal(device, tokens, HEAD_DIM).bfloat16()
    pages = torch.randperm(tokens // BLOCK_SIZE, generator=torch.Generator().manual_seed(1)).to(device)
    by_page = (pages.unsqueeze(1) * BLOCK_SIZE + torch.arange(BLOCK_SIZE, device=device)).flatten()
    single = torch.randperm(tokens, generator=torch.Generator().manual_seed(2)).to(device)
    for layout in ("normal", "shuffle"):
        for order, slots in (("pages", by_page), ("tokens", single)):
            arguments: Arguments = {"k": k, "cache": _cache(tokens, device), "slot_mapping": slots}
            options: Arguments = {**QUANTISED, "quant_group": HEAD_DIM, "layout": layout}

            def launch(arguments: Arguments = arguments, options: Arguments = options) -> None:
                function(**arguments, **options)

            def complaint(arguments: Arguments = arguments, options: Arguments = options) -> str:
                want = torch.zeros_like(arguments["cache"])
                cache.k_quant_cache(**arguments | {"cache": want}, **options)
                return _same("cache", arguments["cache"], want)

            name = f"k_quant_cache {tokens} {order} in random order, {layout}"
            yield Workload(name, launch, tokens * (2 * HEAD_DIM + TOKEN_BYTES + 8), "B", complaint)


def _cache(tokens: int, device: str) -> Tensor:
    return torch.zeros(tokens // BLOCK_SIZE, BLOCK_SIZE, TOKEN_BYTES, dtype=torch.uint8, device=device)


def _filled_cache(tokens: int, layout: str, device: str) -> Tensor:
    filled = _cache(tokens, device)
    slots = torch.arange(tokens, device=device)
    k = _normal(device, tokens, HEAD_DIM).bfloat16()
    cache.k_quant_cache(k, filled, slots, **QUANTISED, quant_group=HEAD_DIM, layout=layout)
    return filled


def _table(requests: int, tokens: int, device: str) -> Tensor:
    pages = torch.randperm(requests * tokens // BLOCK_SIZE, generator=torch.Generator().manual_seed(3))
    return pages.int().view(requests, -1).to(device)


def _gather(function: Callable[..., Any], *, small: bool, device: str) -> Iterator[Workload]:
    requests, tokens = (2, 128) if small else (4, 1 << 18)
    total = requests * tokens
    for layout in ("normal", "shuffle"):
        inputs: Arguments = {
            "cache": _filled_cache(total, layout, device),
            "block_table": _table(requests, tokens, device),
            "cu_seqlens": torch.arange(requests + 1, dtype=torch.int32, device=device) * tokens,
            "token_to_seq": torch.arange(requests, dtype=torch.int32, device=device).repeat_interleave(tokens),
        }
        options: Arguments = {"quant_group": HEAD_DIM, "layout": layout}

        def outputs() -> Arguments:
            k_fp8 = torch.zeros(total, HEAD_DIM, device=device).to(torch.float8_e4m3fn)
            return {"k_fp8": k_fp8, "k_scale": torch.zeros(total, device=device)}

        got = outputs()

        def launch(inputs: Arguments = inputs, got: Arguments = got, options: Arguments = options) -> None:
            function(**inputs, **got, **options)

        def complaint(inputs: Arguments = inputs, got: Arguments = got, options: Arguments = options) -> str:
            want = outputs()
            gather.gather(**inputs, **want, **options)
            return next(filter(None, (_same(name, got[name], want[name]) for name in want)), "")

        amount = total * (2 * TOKEN_BYTES + inputs["token_to_seq"].element_size())
        yield Workload(f"gather {total} keys, {layout}", launch, amount, "B", complaint)


def _prefill_logits(function: Callable[..., Any], *, small: bool, device: str) -> Iterator[Workload]:
    for rows, keys in ((8, 320),) if small else ((2048, 8192), (4096, 32768)):
        arguments: Arguments = {
            "q_fp8": _normal(device, rows, HEADS, HEAD_DIM).to(torch.float8_e4m3fn),
            "k_fp8": _normal(device, keys, HEAD_DIM).to(torch.float8_e4m3fn),
            "k_scale": _normal(device, keys).abs(),
            "weights": _normal(device, rows, HEADS),
            "ks": torch.zeros(rows, dtype=torch.int32, device=device),
            "ke": torch.arange(keys - rows + 1, keys + 1, dtype=torch.int32, device=device),
        }
        logits = torch.empty(rows, keys, device=device)

        def launch(arguments: Arguments = arguments, logits: Tensor = logits) -> None:
            function(**arguments, logits=logits)

        def complaint(arguments: Arguments = arguments, logits: Tensor = logits) -> str:
            some = _some(len(logits))
            parts: Arguments = {
                n: t[some] if n in ("q_fp8", "weights", "ks", "ke") else t for n, t in arguments.items()
            }
            return _out_of_bounds(logits[some], bounds.prefill_bounds(**parts, arithmetic=_arithmetic(device)))

        amount = 2 * HEADS * HEAD_DIM * float(arguments["ke"].sum())
        yield Workload(f"prefill_logits {rows} x {keys}, causal", launch, amount, "FLOP", complaint)


def _paged_logits(function: Callable[..., Any], *, small: bool, device: str) -> Iterator[Workload]:
    shapes = ((2, 128, 2),) if small else ((64, 32768, 1), (64, 32768, 2), (64, 32768, 4), (8, 4096, 1))
    for requests, length, next_n in shapes:
        for layout in ("normal", "shuffle"):
            arguments: Arguments = {
                "q_fp8": _normal(device, requests, next_n, HEADS, HEAD_DIM).to(torch.float8_e4m3fn),
                "cache": _filled_cache(requests * length, layout, device),
                "weights": _normal(device, requests * next_n, HEADS),
                "context_lens": torch.full((requests,), length, dtype=torch.int32, device=device),
                "block_table": _table(requests, length, device),
            }
            logits = torch.empty(requests * next_n, length, device=device)

            def launch(arguments: Arguments = arguments, logits: Tensor = logits, layout: str = layout) -> None:
                function(**arguments, logits=logits, layout=layout)

            def complaint(arguments: Arguments = arguments, logits: Tensor = logits, layout: str = layout) -> str:
                one: Arguments = {
                    n: t if n == "cache" else t[: len(t) // len(arguments["q_fp8"])] for n, t in arguments.items()
                }
                limits = bounds.paged_bounds(
                    **one, max_model_len=logits.shape[1], layout=layout, arithmetic=_arithmetic(device)
                )
                return _out_of_bounds(logits[: len(limits.reference)], limits)

            amount = requests * length * (TOKEN_BYTES + 4 * next_n)
            name = f"paged_logits {requests} x {length}, next_n {next_n}, {layout}"
            yield Workload(name, launch, amount, "B", complaint)


def _some(rows: int) -> Tensor:
    return torch.tensor(sorted({i * (rows - 1) // (CHECKED_ROWS - 1) for i in range(CHECKED_ROWS)}))


def _arithmetic(device: str) -> Arithmetic:
    """Of an unknown matrix unit on a GPU: wide enough for each, and far narrower than a mistake."""
    return PRESETS["portable" if device == "cpu" else "unknown"]


def _out_of_bounds(got: Tensor, limits: bounds.LogitBounds) -> str:
    hidden = int((got.isinf() & (got < 0) == limits.visible).sum())
    far = int((limits.visible & ~((got.double() - limits.reference).abs() <= limits.bound)).sum())
    total = got.numel()
    return f"{hidden} of {total} logits checked are masked wrongly, {far} beyond their bound" if hidden or far else ""
