import pytest
import torch

from indexfuzz.kernels.select import select, slots
from indexfuzz.reference import select as reference


def table(rng, requests, width, *, pad=0):
    pages = torch.randperm(requests * width, generator=rng).int().view(requests, width)
    wide = torch.full((requests, width + pad), 1 << 30, dtype=torch.int32)
    wide[:, :width] = pages
    return wide[:, :width]


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
@pytest.mark.parametrize("topk", [1, 5, 64, 2000])
def test_selected_slots_are_packed_and_counted(machine, rng, block_size, topk):
    requests, width = 3, 9
    columns = torch.randint(-width * block_size, width * block_size, (7, topk), generator=rng).int().clamp_min(-1)
    columns[2], columns[3] = -1, columns[3].clamp_min(0)
    owner = torch.tensor([0, 2, 1, 1, 2, 0, 1], dtype=torch.int32)
    pages = table(rng, requests, width, pad=4)
    machine.declare("table", pages, initialised=True)
    got = select(columns, owner, pages, block_size=block_size)
    want = reference.select(columns, owner, pages, block_size=block_size)
    assert all(map(torch.equal, got, want))


def test_padding_has_no_slot_nor_has_a_missing_page(machine, rng):
    pages = table(rng, 2, 5, pad=3)
    pages[1, 2] = -1
    positions = torch.arange(70) % 20
    owner = (torch.arange(70) % 3 - 1).int()
    machine.declare("table", pages, initialised=True)
    got = slots(positions, owner, pages, block_size=4)
    assert torch.equal(got, reference.slots(positions, owner, pages, block_size=4))
    assert bool((got[owner < 0] == -1).all())
    assert bool((got[(owner == 1) & (positions // 4 == 2)] == -1).all())


def test_slots_have_64_bits():
    pages = torch.tensor([[1 << 30]], dtype=torch.int32)
    got = slots(torch.tensor([5]), torch.tensor([0], dtype=torch.int32), pages, block_size=64)
    assert got.tolist() == [(1 << 36) + 5]


def test_no_tokens(rng):
    pages, nobody = table(rng, 1, 1), torch.zeros(0, dtype=torch.int32)
    assert slots(nobody.long(), nobody, pages, block_size=4).shape == (0,)
    selected, counts = select(torch.zeros(0, 3, dtype=torch.int32), nobody, pages, block_size=4)
    assert (selected.shape, counts.shape) == ((0, 3), (0,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"token_to_req": torch.zeros(3, dtype=torch.int32)}, r"token_to_req must have shape \[2\], got \[3\]"),
        ({"block_table": torch.zeros(1, 2)}, "block_table must be int32 or int64, got float32"),
    ],
)
def test_contract(change, sentence):
    shared = {"token_to_req": torch.zeros(2, dtype=torch.int32), "block_table": torch.zeros(1, 2, dtype=torch.int32)}
    arguments = shared | {"block_size": 4} | change
    with pytest.raises(ValueError, match=sentence):
        slots(torch.zeros(2, dtype=torch.int64), **arguments)
    with pytest.raises(ValueError, match=sentence):
        select(torch.zeros(2, 3, dtype=torch.int32), **arguments)


def test_a_row_has_an_entry():
    shared = {"token_to_req": torch.zeros(2, dtype=torch.int32), "block_table": torch.zeros(1, 2, dtype=torch.int32)}
    with pytest.raises(ValueError, match="columns must have at least one entry in a row"):
        select(torch.zeros(2, 0, dtype=torch.int32), **shared, block_size=4)
