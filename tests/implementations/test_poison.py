import pytest
import torch

from indexfuzz.implementations.loading.poison import poisoned_empty


def test_empty_is_poisoned_and_the_setting_comes_back():
    with poisoned_empty():
        assert torch.empty(5, dtype=torch.uint8).tolist() == [255] * 5
        assert torch.empty(5).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_setting_comes_back_after_an_error():
    with pytest.raises(ValueError, match="planted"), poisoned_empty():
        raise ValueError("planted")
    assert not torch.are_deterministic_algorithms_enabled()
