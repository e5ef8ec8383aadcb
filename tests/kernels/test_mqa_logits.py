import pytest
import torch

from indexfuzz.kernels.mqa_logits import mqa_logits
from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.mqa_logits import mqa_logits as reference


@pytest.fixture
def draw(integers, fp8_integers):
    """Arguments whose logits are exact: integers, and scales that are powers of two."""

    def arguments(rows, keys, *, heads=4, head_dim=32, fp8="e4m3fn"):
        return {
            "q_fp8": fp8_integers(rows, heads, head_dim, fp8=fp8),
            "k_fp8": fp8_integers(keys, head_dim, fp8=fp8),
            "k_scale": torch.exp2(integers(keys)),
            "weights": integers(rows, heads) * 0.5,
            "ks": torch.zeros(rows, dtype=torch.int32),
            "ke": torch.full((rows,), keys, dtype=torch.int32),
            "logits": torch.full((rows, keys), 7.0),
        }

    return arguments


def assert_scored(arguments):
    want = torch.full_like(arguments["logits"], 7.0)
    reference(**(arguments | {"logits": want}))
    mqa_logits(**arguments)
    assert torch.equal(arguments["logits"], want)


@pytest.mark.parametrize("heads", [1, 6, 12, 16, 24, 64, 128])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_heads_and_dims(draw, heads, head_dim):
    assert_scored(draw(3, 20, heads=heads, head_dim=head_dim))


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (16, 63), (17, 64), (33, 65), (130, 3), (2, 257)])
@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_rows_and_keys_around_the_tile(draw, rows, keys, fp8):
    assert_scored(draw(rows, keys, fp8=fp8))


def test_windows(draw):
    windows = [
        (0, 0),
        (5, 5),
        (9, 4),
        (0, 150),
        (0, 2**31 - 1),
        (63, 65),
        (64, 128),
        (149, 150),
        (150, 150),
        (200, 300),
        (0, 1),
        (-5, 3),
        (70, 0),
    ]
    arguments = draw(len(windows), 150, heads=6)
    arguments["ks"], arguments["ke"] = torch.tensor(windows, dtype=torch.int32).unbind(1)
    arguments["ks"], arguments["ke"] = arguments["ks"].contiguous(), arguments["ke"].contiguous()
    assert_scored(arguments)


def test_two_requests_of_one_prefill(draw):
    arguments = draw(40, 90, heads=2)
    row = torch.arange(40, dtype=torch.int32)
    arguments["ks"] = torch.where(row < 25, 0, 55).int()
    arguments["ke"] = torch.where(row < 25, 31 + row, 56 + row - 5).int()
    assert_scored(arguments)


def test_only_keys_from_the_first_to_the_last_in_a_window_are_read(machine, draw):
    arguments = draw(3, 130)
    arguments["ks"][:], arguments["ke"][:] = torch.tensor([10, 40, 40]), torch.tensor([20, 100, 45])
    for name in ("k_fp8", "k_scale"):
        machine.declare(f"{name}[10:100]", arguments[name][10:100])
    assert_scored(arguments)


@pytest.mark.parametrize("num_keys", [256, 257, 700])
def test_several_programs_share_the_keys_of_a_row(draw, num_keys):
    arguments = draw(5, num_keys)
    arguments["ks"][:] = torch.tensor([0, 255, 256, 300, 511], dtype=torch.int32)
    arguments["ke"][:] = torch.tensor([num_keys, 256, 257, 300, 1 << 30], dtype=torch.int32)
    assert_scored(arguments)


def test_a_nan_key_stays_within_its_column(draw):
    arguments = draw(3, 70)
    clean = arguments | {"logits": torch.empty(3, 70)}
    mqa_logits(**clean)
    arguments["k_fp8"].view(torch.uint8)[33] = 0x7F
    mqa_logits(**arguments)
    others = torch.arange(70) != 33
    assert torch.equal(arguments["logits"][:, others], clean["logits"][:, others])


def test_strided_rows(machine, draw, widen):
    arguments = draw(9, 70, heads=6, head_dim=64)
    for name in ("q_fp8", "k_fp8"):
        arguments[name] = widen(codec.codes(arguments[name])).view(arguments[name].dtype)
    for name in ("weights", "logits"):
        arguments[name] = widen(arguments[name], 3)
    for name in ("q_fp8", "k_fp8", "weights", "logits"):
        machine.declare(name, arguments[name], initialised=True)
    assert_scored(arguments)


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_score(draw, rows, keys):
    assert_scored(draw(rows, keys))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"q_fp8": torch.zeros(2, 129, 32, dtype=torch.float8_e4m3fn)}, "num_heads must be 1 to 128, got 129"),
        ({"q_fp8": torch.zeros(2, 3, 100, dtype=torch.float8_e4m3fn)}, "head_dim must be 32, 64 or 128, got 100"),
        (
            {"q_fp8": torch.zeros(2, 3, 32, dtype=torch.float8_e4m3fnuz)},
            "k_fp8 must be float8_e4m3fnuz, got float8_e4m3fn",
        ),
        ({"q_fp8": torch.zeros(2, 3, 32)}, "q_fp8 must be float8_e4m3fn or float8_e4m3fnuz, got float32"),
        ({"k_fp8": torch.zeros(5, 64, dtype=torch.float8_e4m3fn)}, r"k_fp8 must have shape \[any, 32\], got \[5, 64\]"),
        ({"k_scale": torch.zeros(4)}, r"k_scale must have shape \[5\], got \[4\]"),
        ({"weights": torch.zeros(2, 3).bfloat16()}, "weights must be float32, got bfloat16"),
        ({"ks": torch.zeros(2, dtype=torch.int16)}, "ks must be int32 or int64, got int16"),
        ({"ke": torch.zeros(3, dtype=torch.int32)}, r"ke must have shape \[2\], got \[3\]"),
        ({"logits": torch.zeros(2, 6)}, r"logits must have shape \[2, 5\], got \[2, 6\]"),
    ],
)
def test_contract(change, sentence):
    arguments = {
        "q_fp8": torch.zeros(2, 3, 32, dtype=torch.float8_e4m3fn),
        "k_fp8": torch.zeros(5, 32, dtype=torch.float8_e4m3fn),
        "k_scale": torch.zeros(5),
        "weights": torch.zeros(2, 3),
        "ks": torch.zeros(2, dtype=torch.int32),
        "ke": torch.zeros(2, dtype=torch.int32),
        "logits": torch.zeros(2, 5),
    }
    with pytest.raises(ValueError, match=sentence):
        mqa_logits(**(arguments | change))
