import pytest
import torch

from indexfuzz.core.tracebacks import location_of
from indexfuzz.implementations.loading.elsewhere import Elsewhere


def test_tensors_for_cuda_are_made_where_the_others_are():
    with Elsewhere(torch.device("cpu")):
        made = torch.arange(3, device="cuda"), torch.full((2,), 1.0, device="cuda"), torch.zeros(1, device="cpu")
    assert [str(tensor.device) for tensor in made] == ["cpu"] * 3


def test_errors_are_blamed_on_the_caller():
    with pytest.raises(RuntimeError) as caught, Elsewhere(torch.device("cpu")):
        torch.zeros(2) + torch.zeros(3)
    assert location_of(caught.value).rpartition(":")[0] == __file__
