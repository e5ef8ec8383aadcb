import torch

from indexfuzz.checks import memory
from indexfuzz.checks.shape import check_shape


def test_two_runs_must_agree_in_every_bit() -> None:
    first = torch.tensor([[0.0, 1.0, float("nan")]])
    assert memory.check_repeatable("logits", first, first.clone()) is None
    assert memory.check_independence_of_poison("logits", first, first.clone()) is None
    second = torch.tensor([[-0.0, 1.0, float("nan")]])
    found = memory.check_repeatable("logits", first, second)
    assert found is not None
    assert (found.kind, found.index) == ("nondeterministic", (0, 0))
    found = memory.check_independence_of_poison("logits", first, second)
    assert found is not None
    assert found.kind == "uninitialised"
    where = "logits: row 0, column 0 depends on memory that nobody wrote: "
    assert found.detail == where + "0 (0x00000000), then -0 (0x80000000); 1 of 3 wrong; only column 0"


def test_form() -> None:
    logits = torch.empty(2, 3)
    assert check_shape("logits", logits, (2, 3), torch.float32) is None
    for size, dtype in (((3, 2), torch.float32), ((2, 3), torch.bfloat16)):
        found = check_shape("logits", logits, size, dtype)
        assert found is not None
        assert (found.kind, found.got) == ("shape", "torch.float32 (2, 3)")
