import pytest
import torch

from indexfuzz.kernels.checks import require, require_choice, require_tensor


def test_require_raises_its_sentence():
    require(condition=True, sentence="never said")
    with pytest.raises(ValueError, match=r"^said$"):
        require(condition=False, sentence="said")


def test_require_choice():
    require_choice("mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match='mode must be one of a, b, got "c"'):
        require_choice("mode", "c", ("a", "b"))


def test_require_tensor_accepts_any_size_where_none_is_wanted():
    require_tensor("x", torch.zeros(3, 4), (None, 4), torch.float32, torch.bfloat16)
    require_tensor("x", torch.zeros(0, 4), (0, 4), torch.float32)


def test_require_tensor_ignores_the_stride_of_a_single_column():
    require_tensor("x", torch.zeros(3, 4)[:, :1], (3, 1), torch.float32)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(3, 4).half(), "x must be float32 or bfloat16, got float16"),
        (torch.zeros(3, 5), r"x must have shape \[any, 4\], got \[3, 5\]"),
        (torch.zeros(4), r"x must have shape \[any, 4\], got \[4\]"),
        (torch.zeros(4, 3).t(), r"x must be dense in its last dim, got strides \(1, 3\)"),
    ],
)
def test_require_tensor_names_what_is_wrong(tensor, sentence):
    with pytest.raises(ValueError, match=sentence):
        require_tensor("x", tensor, (None, 4), torch.float32, torch.bfloat16)
