import torch

from indexfuzz.checks import memory, shape


def test_untouched_bytes() -> None:
    before = torch.arange(16, dtype=torch.uint8)
    assert memory.untouched("guard of q", before, before.clone(), kind="guard-write") is None
    for at, where in ((3, "1 bytes before the start"), (4, "byte 0"), (15, "byte 11")):
        after = before.clone()
        after[at] = 0xAB
        found = memory.untouched("guard of q", before, after, kind="guard-write", origin=4)
        assert found is not None
        assert (found.kind, found.index, found.got, found.count) == ("guard-write", (at - 4,), "0xab", 1)
        assert found.detail == f"guard of q: {where} changed from 0x{at:02x} to 0xab; 1 of 16 bytes changed"
    mutated = memory.untouched("q", before, before + 1, kind="input-mutated")
    assert mutated is not None
    assert mutated.kind == "input-mutated"


def test_written() -> None:
    poison = torch.full((2, 3), -1, dtype=torch.int32).view(torch.float32)
    after = torch.ones(2, 3)
    assert memory.written("logits", poison, after) is None
    after[1, 2] = poison[1, 2]
    found = memory.written("logits", poison, after)
    assert found is not None
    assert (found.kind, found.index, found.total) == ("unwritten", (1, 2), 6)
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[1, 2] = False
    assert memory.written("logits", poison, after, mask) is None


def test_two_runs_must_agree_in_every_bit() -> None:
    first = torch.tensor([[0.0, 1.0, float("nan")]])
    assert memory.repeatable("logits", first, first.clone()) is None
    assert memory.independent_of_poison("logits", first, first.clone()) is None
    second = torch.tensor([[-0.0, 1.0, float("nan")]])
    found = memory.repeatable("logits", first, second)
    assert found is not None
    assert (found.kind, found.index) == ("nondeterministic", (0, 0))
    found = memory.independent_of_poison("logits", first, second)
    assert found is not None
    assert found.kind == "uninitialised"
    where = "logits: row 0, column 0 depends on memory that nobody wrote: "
    assert found.detail == where + "0 (0x00000000), then -0 (0x80000000); 1 of 3 wrong; only column 0"


def test_digest_sees_every_change_and_every_swap() -> None:
    tensor = torch.randint(0, 250, (300,), dtype=torch.uint8)
    want = memory.digest(tensor)
    assert memory.digest(tensor.clone()) == want
    seen = {want}
    for i in range(300):
        other = tensor.clone()
        other[i] += 1
        seen.add(memory.digest(other))
    assert len(seen) == 301
    swapped = tensor.clone()
    swapped[0], swapped[1] = tensor[1] + 1, tensor[0] + 2
    assert memory.digest(swapped) != want
    assert memory.digest(tensor[:0]) == 0


def test_form() -> None:
    logits = torch.empty(2, 3)
    assert shape.form("logits", logits, shape=(2, 3), dtype=torch.float32) is None
    for size, dtype in (((3, 2), torch.float32), ((2, 3), torch.bfloat16)):
        found = shape.form("logits", logits, shape=size, dtype=dtype)
        assert found is not None
        assert (found.kind, found.got) == ("shape", "torch.float32 (2, 3)")
