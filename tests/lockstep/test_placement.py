"""Tensors "on a GPU" that are on the CPU: what a program sees, and what shares storage with what."""

import pytest
import torch

from indexfuzz.lockstep.programs import cuda
from indexfuzz.lockstep.programs.cuda import imitate_cuda

AVAILABLE, CPU_TENSOR = torch.cuda.is_available, torch.ones(1)


@pytest.fixture(autouse=True)
def _cuda():
    with imitate_cuda():
        yield
    assert torch.cuda.is_available is AVAILABLE
    assert CPU_TENSOR.device.type == "cpu"


def test_a_copy_to_the_other_side_has_storage_of_its_own():
    there = torch.ones(3, device="cuda")
    here = there.cpu()
    there.zero_()
    assert here.tolist() == [1, 1, 1]
    back = here.to("cuda")
    here.zero_()
    assert back.tolist() == [1, 1, 1]


def test_a_copy_to_the_same_side_is_the_tensor():
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert there.cuda() is there
    assert there.to("cuda:0") is there
    assert there.to(there.device) is there
    assert here.cpu() is here
    assert here.to("cpu") is here


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x + 1,
        torch.empty_like,
        lambda x: x[1:],
        lambda x: x.new_zeros(2),
        lambda x: torch.empty(2, device=x.device),
        lambda x: torch.cat([x, x]),
        lambda x: x.split(2)[0],
        lambda x: x.to(torch.float16),
        lambda x: torch.zeros(1, dtype=torch.int32, device="cpu").to(x),
        torch.nn.Parameter,
    ],
)
def test_results_are_where_their_operands_are(make):
    made = make(torch.ones(3, device="cuda"))
    assert made.is_cuda
    assert made.device == torch.device("cuda", 0)
    assert not make(torch.ones(3)).is_cuda


def test_what_names_no_device_is_on_the_cpu():
    assert not torch.ones(2).is_cuda
    assert not torch.from_numpy(torch.ones(2).numpy()).is_cuda
    assert torch.ones(2).get_device() == -1
    assert torch.ones(2, device=0).get_device() == 0


def test_a_default_device_holds_for_what_names_none():
    with torch.device("cuda"):
        assert torch.ones(2).is_cuda
        assert not torch.ones(2, device="cpu").is_cuda
    torch.set_default_device("cuda")
    try:
        assert torch.ones(2).is_cuda
    finally:
        torch.set_default_device(None)
    assert not torch.ones(2).is_cuda


def test_a_copy_into_a_tensor_leaves_it_where_it_is():
    here = torch.zeros(2)
    here.copy_(torch.ones(2, device="cuda"))
    assert not here.is_cuda


def test_modules_and_gradients():
    module = torch.nn.Linear(3, 4)
    assert not module.weight.is_cuda
    module = module.to("cuda")
    x = torch.ones(2, 3, device="cuda", requires_grad=True)
    module(x).sum().backward()
    assert module.weight.is_cuda
    assert module.weight.grad.is_cuda
    assert x.grad.is_cuda


def test_functions_that_backward_comes_back_to_see_the_same():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return 2 * x

        @staticmethod
        def backward(context, gradient):
            (x,) = context.saved_tensors
            seen.append((x.is_cuda, gradient.is_cuda, torch.empty(1, device="cuda").is_cuda))
            return 2 * gradient

    seen = []
    Twice.apply(torch.ones(3, device="cuda", requires_grad=True)).sum().backward()
    assert seen == [(True, True, True)]


def test_generators_and_seeds():
    torch.cuda.manual_seed(3)
    first = torch.randn(2, device="cuda")
    assert torch.equal(first, torch.randn(2, device="cuda", generator=torch.Generator("cuda").manual_seed(3)))


def test_events_tell_the_time_of_the_cpu():
    event, later = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    event.record()
    later.record()
    assert event.elapsed_time(later) >= 0
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 1


def test_what_is_to_be_compiled_is_left_as_it_is():
    @torch.compile(dynamic=True)
    def twice(x):
        return 2 * x

    assert twice(torch.ones(2, device="cuda")).is_cuda
    assert torch.compile(twice) is twice


def test_torch_finds_no_function_of_ours_under_two_names():
    values = [id(value) for table in (cuda._CUDA, cuda._ACCELERATOR) for value in table.values()]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_functions_that_are_called_on_a_batch_see_it_where_it_is(device):
    seen = []

    def add(row):
        seen.append(row.is_cuda)
        return row + row.sum()

    added = torch.vmap(torch.vmap(add))(torch.arange(6, device=device).reshape(1, 2, 3))
    assert added.tolist() == [[[3, 4, 5], [15, 16, 17]]]
    assert added.is_cuda is (device == "cuda")
    assert seen == [added.is_cuda]
