import pytest
import torch

from indexfuzz.reference import fp8
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.gather import gather
from indexfuzz.reference.quant import quantise, row_scale


def byte_address(slot: int, d: int, block_size: int, head_dim: int, page_stride: int, layout: str) -> int:
    block, t = divmod(slot, block_size)
    shuffled = (t // 16) * 16 * head_dim + (d // 16) * 256 + (t % 16) * 16 + d % 16
    return block * page_stride + (shuffled if layout == "shuffle" else t * head_dim + d)


def pool(blocks: int, block_size: int, head_dim: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    stride = block_size * (head_dim + 4) + pad
    memory = torch.full((blocks * stride,), 0x7F, dtype=torch.uint8)
    return memory, memory.as_strided((blocks, block_size, head_dim + 4), (stride, head_dim + 4, 1))


@pytest.mark.parametrize(
    ("block_size", "layout"), [(1, "auto"), (16, "auto"), (16, "normal"), (32, "shuffle"), (8, "normal")]
)
@pytest.mark.parametrize("fmt", ["e4m3fn", "e4m3fnuz"])
@pytest.mark.parametrize("slot_dtype", [torch.int64, torch.int32])
def test_insertion_byte_by_byte(block_size: int, layout: str, fmt: str, slot_dtype: torch.dtype) -> None:
    torch.manual_seed(block_size)
    head_dim, pad = 32, 12
    memory, cache = pool(64 // block_size + 1, block_size, head_dim, pad)
    want = memory.clone()
    k = torch.randn(9, 3 * head_dim).bfloat16()[:, head_dim : 2 * head_dim]
    slots = torch.tensor([5, -1, 0, block_size, 40, -7, 63], dtype=slot_dtype)
    k_quant_cache(k, cache, slots, scale_fmt="ue8m0", fp8=fmt, quant_group=head_dim, layout=layout)
    concrete = {"auto": "normal" if block_size == 1 else "shuffle"}.get(layout, layout)
    scales = row_scale(k, scale_fmt="ue8m0", fp8=fmt)
    values = fp8.codes(quantise(k, scales, fp8=fmt))
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        for d in range(head_dim):
            want[byte_address(slot, d, block_size, head_dim, cache.stride(0), concrete)] = values[token, d]
        at = slot // block_size * cache.stride(0) + block_size * head_dim + 4 * (slot % block_size)
        want[at : at + 4] = scales[token : token + 1].view(torch.uint8)
    assert torch.equal(memory, want)


def test_nothing_to_insert_and_wrong_group() -> None:
    _, cache = pool(2, 16, 32, 0)
    before = cache.clone()
    options = {"scale_fmt": "fp32", "fp8": "e4m3fn", "layout": "auto"}
    k_quant_cache(torch.empty(0, 32).bfloat16(), cache, torch.empty(0).long(), quant_group=32, **options)
    k_quant_cache(torch.ones(2, 32).bfloat16(), cache, torch.tensor([-1, -1]), quant_group=32, **options)
    assert torch.equal(cache, before)
    with pytest.raises(ValueError, match="quant_group"):
        k_quant_cache(torch.ones(2, 32).bfloat16(), cache, torch.tensor([0, 1]), quant_group=16, **options)


@pytest.mark.parametrize(("block_size", "layout"), [(1, "auto"), (16, "auto"), (16, "normal"), (8, "normal")])
def test_gather_token_by_token(block_size: int, layout: str) -> None:
    torch.manual_seed(block_size)
    head_dim = 32
    memory, cache = pool(40, block_size, head_dim, 20)
    memory.copy_(torch.randint(0, 255, memory.shape, dtype=torch.uint8))
    lengths = [17, 0, 5, 1]
    cu = torch.tensor([0, 17, 17, 22, 23], dtype=torch.int32)
    wide = torch.randint(0, 40, (4, 25), dtype=torch.int32)
    wide[2, 0] = 40 if block_size == 1 else wide[2, 0]
    wide[3, 0] = -1
    table = wide[:, :18]
    token_to_seq = torch.tensor([b for b, n in enumerate(lengths) for _ in range(n)] + [0, 9, -1], dtype=torch.int32)
    k_fp8 = torch.full((26, 40), 0x7F, dtype=torch.uint8)[:, :head_dim].view(torch.float8_e4m3fn)
    k_scale = torch.full((26,), float("nan"))
    gather(cache, table, cu, token_to_seq, k_fp8, k_scale, quant_group=head_dim, layout=layout)
    concrete = {"auto": "normal" if block_size == 1 else "shuffle"}.get(layout, layout)
    for n in range(26):
        b = int(token_to_seq[n])
        position = n - int(cu[b]) if 0 <= b < 4 else 0
        block = int(table[b, position // block_size]) if n < 23 else -1
        if not 0 <= block < 40:
            assert fp8.codes(k_fp8)[n].tolist() == [0] * head_dim
            assert k_scale[n : n + 1].view(torch.int32).item() == 0
            continue
        slot = block * block_size + position % block_size
        want = [
            int(memory[byte_address(slot, d, block_size, head_dim, cache.stride(0), concrete)]) for d in range(head_dim)
        ]
        assert fp8.codes(k_fp8)[n].tolist() == want
        at = block * cache.stride(0) + block_size * head_dim + 4 * (position % block_size)
        assert k_scale[n : n + 1].view(torch.uint8).tolist() == memory[at : at + 4].tolist()


def test_gather_without_sequences() -> None:
    _, cache = pool(2, 16, 32, 0)
    k_fp8, k_scale = torch.ones(3, 32, dtype=torch.uint8).view(torch.float8_e4m3fn), torch.ones(3)
    table, cu = torch.empty((0, 4), dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    gather(cache, table, cu, torch.zeros(3, dtype=torch.int32), k_fp8, k_scale, quant_group=32, layout="auto")
    assert fp8.codes(k_fp8).sum() == 0
    assert k_scale.sum() == 0
    with pytest.raises(ValueError, match="quant_group"):
        gather(cache, table, cu, torch.zeros(3, dtype=torch.int32), k_fp8, k_scale, quant_group=16, layout="auto")
