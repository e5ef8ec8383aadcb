"""What a model computes for the tokens of a step: q, k, the weights of heads, positions and angles."""

import torch
from torch import Tensor

from indexfuzz.samples import regimes
from indexfuzz.samples.allocation import allocate, allocate_fused, allocate_tokens
from indexfuzz.samples.cached import format_of_keys
from indexfuzz.samples.requests import positions_of
from indexfuzz.samples.step import Step

ACTIVATIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

LARGEST_FP16 = 2.0**15
"""Magnitude up to which q and k are drawn in fp16, so that RoPE turns none to an infinity."""

LARGEST_BF16 = torch.finfo(torch.bfloat16).max


def draw_activations(step: Step) -> None:
    """Draw what a model computes, and put it where the case wants it."""
    case, model, values = step.case, step.case.model, step.case.values
    tokens, heads, dim = case.batch.tokens, model.num_heads, model.head_dim
    q = regimes.dense(values.q, step.key("q"), (tokens * heads, dim), model.fp8).view(tokens, heads, dim)
    k = regimes.dense(values.k, step.key("k"), (tokens, dim), format_of_keys(case))
    weights = regimes.dense(values.weights, step.key("weights"), (tokens, heads), model.fp8)
    for name, tensor in (("q", q), ("k", k), ("weights", weights)):
        _override(tensor, values.set.get(name, ()))
    positions = positions_of(case, step.key("positions"))
    table = regimes.rope_table(values.rope, step.key("rope"), angles_for(positions), model.rope_dim)
    place_activations(step, q, k, weights, positions, table)


def angles_for(positions: Tensor) -> int:
    """Rows that the table of angles needs for some positions."""
    return max(int(positions.max()) + 1, 1) if len(positions) else 1


def place_activations(step: Step, q: Tensor, k: Tensor, weights: Tensor, positions: Tensor, table: Tensor) -> None:
    """Put what a model computes where the case wants it: q [T, H, D], k [T, D], weights [T, H], angles [max_pos, R]."""
    place_q_and_k(step, q, k)
    place_weights(step, weights)
    place_positions(step, positions)
    place_angles(step, table)


def place_weights(step: Step, weights: Tensor) -> None:
    """Weights of heads [T, H] fp32, in the dtype that the case says."""
    if step.case.memory.head_weights == "bf16":
        weights = _within(LARGEST_BF16, weights).bfloat16()
    step.place_heads("weights", weights)


def place_positions(step: Step, positions: Tensor) -> None:
    """Positions of tokens [T] int64, in the dtype that the case says."""
    step.place("positions", positions if step.case.memory.positions == "int64" else positions.int())


def place_angles(step: Step, table: Tensor) -> None:
    """Cosines and sines [max_pos, R] fp32, in the dtype that the case says."""
    table = table if step.case.rope.table == "fp32" else table.bfloat16()
    step.place("cos_sin_cache", table, row_pad=step.case.memory.angles_pad)


def place_q_and_k(step: Step, q: Tensor, k: Tensor) -> None:
    """q [T, H, D] and k [T, D]: in buffers of their own, or as columns of one."""
    case, memory, (tokens, heads, dim) = step.case, step.case.memory, q.shape
    dtype, width = ACTIVATIONS[memory.activations], heads * (dim + memory.q_head_pad)
    pads, shift = (case.row_pad("q", tokens, width), case.row_pad("k", tokens, dim)), case.shift_of("q")
    if memory.fused and tokens and memory.far not in ("q", "k"):
        widths = (width + pads[0], dim + pads[1])
        for_q, for_k, around = allocate_fused(("q", "k"), widths, tokens, dtype, step.device, shift=shift)
        for_q.view = for_q.view.as_strided(q.shape, (sum(widths), dim + memory.q_head_pad, 1))
        for_k.view = for_k.view[:, :dim]
        around.seal()
        step.buffers[around.name] = around
    else:
        head_pad, there = memory.q_head_pad, step.device
        for_q = allocate_tokens("q", (tokens, heads, dim), dtype, there, pad=pads[0], head_pad=head_pad, shift=shift)
        for_k = allocate("k", (tokens, dim), dtype, there, row_pad=pads[1], shift=case.shift_of("k"))
    for buffer, value in ((for_q, q), (for_k, k)):
        buffer.view.copy_(_within(LARGEST_FP16, value) if dtype == torch.float16 else value)
        step.add(buffer)


def _within(largest: float, x: Tensor) -> Tensor:
    """Finite numbers that are too large cut down; all others as they are."""
    return torch.where(torch.isfinite(x), x.clamp(-largest, largest), x)


def _override(tensor: Tensor, entries: tuple[tuple[int | str, ...], ...]) -> None:
    """Write the sparse overrides of a case that still lie inside the tensor."""
    for *index, value in entries:
        if all(int(i) < size for i, size in zip(index, tensor.shape, strict=True)):
            tensor[tuple(int(i) for i in index)] = float.fromhex(str(value))
