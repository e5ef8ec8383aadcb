"""The kernel that makes compressed keys: one request in one step, and what is rejected."""

import pytest
import torch

from indexfuzz.kernels.compress import compress, ring_rows
from indexfuzz.reference import compress as reference
from indexfuzz.reference.compress import Tokens

COUNT, DIM, RATIO = 7, 32, 2


def arguments(rng, overlap=True):
    width = (1 + overlap) * DIM
    return {
        "kv": torch.randn(COUNT, width, generator=rng),
        "scores": torch.randn(COUNT, width, generator=rng),
        "bias": torch.randn(RATIO, width, generator=rng),
        "query_start": torch.tensor([0, COUNT], dtype=torch.int32),
        "context_lens": torch.tensor([0], dtype=torch.int32),
        "rings": torch.tensor([1], dtype=torch.int32),
        "block_table": torch.tensor([[5, 3]], dtype=torch.int32),
        "state": torch.zeros(2, ring_rows(RATIO, overlap=overlap, max_drafts=0), 2, width),
        "keys": torch.full((COUNT, DIM), 7.0, dtype=torch.bfloat16),
        "slot_mapping": torch.zeros(COUNT, dtype=torch.int64),
        "visible": torch.zeros(COUNT, dtype=torch.int32),
        "ratio": RATIO,
        "overlap": overlap,
        "block_size": 2,
    }


@pytest.mark.parametrize("overlap", [False, True])
def test_keys_are_written_where_they_are_due_and_nowhere_else(rng, overlap):
    given = arguments(rng, overlap)
    compress(**given)
    due = [position % RATIO == RATIO - 1 for position in range(COUNT)]
    want = reference.keys(Tokens(given["kv"], given["scores"]), given["bias"], ratio=RATIO, overlap=overlap)
    torch.testing.assert_close(given["keys"][due], want.bfloat16(), rtol=2**-7, atol=1e-5)
    assert bool((given["keys"][[not is_due for is_due in due]] == 7.0).all())
    assert given["slot_mapping"].tolist() == [-1, 10, -1, 11, -1, 6, -1]
    assert given["visible"].tolist() == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ratio": 1}, "ratio must be one of 2, 4, 8, 16, 32, 64, 128, got 1"),
        ({"overlap": False}, r"kv must have shape \[7, 32\], got \[7, 64\]"),
        ({"scores": torch.ones(6, 64)}, r"scores must have shape \[7, 64\], got \[6, 64\]"),
        ({"bias": torch.ones(4, 64)}, r"bias must have shape \[2, 64\], got \[4, 64\]"),
        ({"bias": torch.ones(2, 128)[:, :64]}, r"bias must be dense, got strides \(128, 1\)"),
        ({"state": torch.zeros(2, 3, 2, 64)}, "a ring must have at least 4 rows, the tokens of a window, got 3"),
        ({"keys": torch.ones(7, 48, dtype=torch.bfloat16)}, "head_dim must be 32, 64 or 128, got 48"),
    ],
)
def test_contract(rng, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        compress(**arguments(rng) | change)
