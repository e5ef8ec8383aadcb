import struct

import pytest
import torch

from indexfuzz.reference.rope import rope


def f32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def bf16(x: float) -> float:
    (word,) = struct.unpack("I", struct.pack("f", x))
    word = (word + 0x7FFF + ((word >> 16) & 1)) & 0xFFFF0000
    return float(struct.unpack("f", struct.pack("I", word))[0])


def rotate_by_definition(x: list[float], row: list[float], style: str, placement: str) -> list[float]:
    rope_dim = len(row)
    half, start = rope_dim // 2, 0 if placement == "first" else len(x) - rope_dim
    out = list(x)
    for i in range(half):
        a, b = (start + i, start + half + i) if style == "neox" else (start + 2 * i, start + 2 * i + 1)
        cos, sin = row[i], row[half + i]
        out[a] = bf16(f32(f32(x[a] * cos) - f32(x[b] * sin)))
        out[b] = bf16(f32(f32(x[b] * cos) + f32(x[a] * sin)))
    return out


@pytest.mark.parametrize("style", ["neox", "interleaved"])
@pytest.mark.parametrize("placement", ["first", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_definition(style: str, placement: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, fused = torch.randn(5, 3, 16).bfloat16(), torch.randn(5, 40).bfloat16()
    k = fused[:, 8:24]
    table = torch.randn(9, 8).to(dtype)
    positions = torch.tensor([8, 0, 3, 3, 1])
    before = q.clone(), fused.clone()
    out_q, out_k = rope(q, k, positions, table, rope_dim=8, style=style, placement=placement, mode="inplace")
    for t, position in enumerate(positions.tolist()):
        row = table[position].tolist()
        assert out_k[t].tolist() == rotate_by_definition(k[t].tolist(), row, style, placement)
        for h in range(3):
            assert out_q[t, h].tolist() == rotate_by_definition(q[t, h].tolist(), row, style, placement)
    assert torch.equal(q, before[0])
    assert torch.equal(fused, before[1])


def test_no_tokens() -> None:
    q, k = torch.empty(0, 2, 16).bfloat16(), torch.empty(0, 16).bfloat16()
    out = rope(q, k, torch.empty(0, dtype=torch.int64), torch.ones(4, 8), rope_dim=8, style="neox", placement="first")
    assert [tuple(x.shape) for x in out] == [(0, 2, 16), (0, 16)]


def test_unknown_words() -> None:
    args = torch.zeros(1, 1, 8).bfloat16(), torch.zeros(1, 8).bfloat16(), torch.zeros(1).long(), torch.zeros(1, 4)
    with pytest.raises(ValueError, match="style"):
        rope(*args, rope_dim=4, style="gptj", placement="first")
    with pytest.raises(ValueError, match="placement"):
        rope(*args, rope_dim=4, style="neox", placement="middle")
