"""What findings say a value must be, read back from their words."""

import math

import pytest
import torch

from indexfuzz.triage.legal_words import read_legal, read_value

BF16, FP8, FP32, INT32 = torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int32

RIGHT_AND_WRONG = {
    "in [-1.5, 2]": (FP32, 2.0, 2.1),
    "in [-inf, 2]": (FP32, -1e30, 3.0),
    "13.628297 +- 6e-05": (FP32, 13.62829, 13.6063843),
    "in [0.00032043457, 0.00032043457]": (BF16, 21 * 2.0**-16, 0.00032043457),
    "0.00032043457": (BF16, 21 * 2.0**-16, 0.00032043457),
    "in [0.1, 0.2]": (BF16, 0.15, 0.0996094),
    "exactly -2.5": (FP32, -2.5, -2.4),
    "1.5 (0x3fc0) or 1.50781 (0x3fc1)": (BF16, 1.5078125, 1.49),
    "0x7e (448)": (FP8, 448.0, 416.0),
    "0x01 (0.00195312)": (FP8, 2.0**-9, 0.00195312),
    "-1": (INT32, -1.0, 0.0),
    "-inf": (FP32, -math.inf, -3.4e38),
    "a logit": (FP32, -math.inf, math.nan),
    "a finite logit": (FP32, -3.4e38, -math.inf),
    "nan (0x7fc00000)": (FP32, math.nan, 0.0),
}


@pytest.mark.parametrize("words", RIGHT_AND_WRONG)
def test_words_tell_right_from_wrong(words):
    dtype, right, wrong = RIGHT_AND_WRONG[words]
    legal = read_legal(words, dtype)
    assert legal is not None
    assert legal.includes(right)
    assert not legal.includes(wrong)
    known = {"inf": math.inf, "nan": math.nan}
    assert eval(legal.condition, known | {"got": right})
    assert not eval(legal.condition, known | {"got": wrong})


@pytest.mark.parametrize("words", ["", "left as it was", "column 3 (logit 1.5)", "1.5 (0x3fc0)"])
def test_words_that_name_no_value_of_the_dtype_are_not_guessed(words):
    assert read_legal(words, FP32) is None


def test_a_value_is_read_by_its_bits():
    assert read_value("1e-45 (0x00000001)", FP32) == 2.0**-149
    assert read_value("-0 (0x80000000)", FP32) == 0.0
