"""The programs of a launch together, and one after the other, give the same bits; and no launch is remembered.

Only a race may make a difference: which of two programs stores last is then anybody's guess. Such launches count for
nothing; kernels with known races are among those that can be added.
INDEXFUZZ_LAUNCHES sets how many launches of every kernel are tried; the variables in KERNELS add other projects.
"""

import gc
import os
import weakref
from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.lockstep import FORMATS, LockstepDevice
from indexfuzz.generation.narrowing import narrow
from indexfuzz.generation.strategies import Budget, cases
from indexfuzz.implementations import load
from indexfuzz.lockstep import Lockstep, executor, launch
from indexfuzz.lockstep.language.helpers import RUNTIME
from indexfuzz.lockstep.values.buffers import Buffer
from indexfuzz.lockstep.values.memory import Allocation
from indexfuzz.oracles import differential
from indexfuzz.oracles.launching import launch_in
from indexfuzz.oracles.walk import function_for, launches

LAUNCHES = int(os.environ.get("INDEXFUZZ_LAUNCHES", "7"))
SMALL = Budget(scores=1 << 12, activations=1 << 13, length=140, cached=1 << 15)
GATHERS = {"_cp_gather_indexer_quant_cache_kernel", "_cp_gather_indexer_quant_cache_gfx950_kernel"}
KERNELS = {
    "builtin": {
        "rope": {"_rotate_kernel"},
        "q_quant": {"_q_quant_kernel"},
        "k_quant_cache": {"_k_quant_cache_kernel"},
        "gather": {"_gather_kernel"},
        "prefill_logits": {"_mqa_logits_kernel"},
        "paged_logits": {"_paged_mqa_logits_kernel"},
    },
    "vllm:INDEXFUZZ_VLLM_WHEEL_0_22": {
        "k_quant_cache": {"_indexer_k_quant_and_cache_kernel"},
        "gather": {"_cp_gather_indexer_quant_cache_kernel"},
    },
    "vllm:INDEXFUZZ_VLLM_WHEEL_0_33": {
        "k_quant_cache": {"_indexer_k_quant_and_cache_kernel"},
        "gather": GATHERS,
    },
    "vllm-v4-logits:INDEXFUZZ_VLLM_WHEEL_0_33": {"paged_logits": {"_fp8_paged_mqa_logits_decode_kernel"}},
    "aiter:INDEXFUZZ_AITER": {
        "prefill_logits": {"_fp8_mqa_logits_kernel"},
        "paged_logits": {"_deepgemm_fp8_paged_mqa_logits"},
    },
    "aiter-converted:INDEXFUZZ_AITER": {"prefill_logits": {"_fp8_mqa_logits_kernel"}},
    "aiter-stage1:INDEXFUZZ_AITER": {"paged_logits": {"_deepgemm_fp8_paged_mqa_logits_stage1"}},
    "sglang:INDEXFUZZ_SGLANG": {
        "q_quant": {"_act_quant_kernel"},
        "k_quant_cache": {"_act_quant_kernel", "_set_k_and_s_triton_kernel"},
        "gather": {"_get_k_and_s_triton_kernel"},
    },
    "sglang-kpool:INDEXFUZZ_SGLANG": {"gather": {"_gather_index_k_scale_prefix_into_kernel"}},
}
"""By implementation, with the variable that names its path: its stages in Triton, and all kernels of each of them."""


def batch(number: int) -> list[Case]:
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=50, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(cases(budget=SMALL))
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found


def drawn(number: int) -> Iterator[Case]:
    """An endless stream of cases, the same for a number."""
    for n in count(number):
        yield from batch(n)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """(kernel, number) of every launch of more than one program."""
    found: set[tuple[str, int]] = set()
    complete = launch._run

    def run(kernel, values, run):
        if run.launch.total > 1:
            found.add((run.launch.name, RUNTIME.launch))
        return complete(kernel, values, run)

    monkeypatch.setattr(launch, "_run", run)
    return found


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of all violations so far."""
    found: set[str] = set()
    complete = executor.execute

    def execute(*args, **kwargs):
        violations = complete(*args, **kwargs)
        found.update(violation.kind for violation in violations)
        return violations

    monkeypatch.setattr(executor, "execute", execute)
    return found


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=[pytest.mark.wheel] if ":" in spec else []) for spec in KERNELS]
)
def test_together_and_alone_give_the_same_bits(spec, launched, kinds, monkeypatch):
    scheme, _, variable = spec.partition(":")
    path = os.environ.get(variable)
    if variable and not path:
        pytest.skip(f"{variable} does not name a wheel, unpacked wheel or checkout")
    implementation, kernels = load(f"{scheme}:{path}" if path else scheme), KERNELS[spec]
    counted: Counter[str] = Counter()
    wanted = set(kernels)
    for number, case in enumerate(narrow(case, implementation) for case in drawn(LAUNCHES)):
        units = [unit for unit, formats in FORMATS.items() if case.model.fp8 in formats]
        device = LockstepDevice(dot=units[number % len(units)])
        for stage, step, call in launches(case, device):
            function = function_for(stage.name, case, implementation) if stage.name in wanted else None
            if function is None:
                continue
            launched.clear()
            kinds.clear()
            try:
                together = launch_in(step, stage.name, call, function, device)
            except UnsupportedKernelError:
                assert device.dot != "ieee"  # a matrix unit may lack a K; ieee has all of them
                continue
            if "race" in kinds:
                continue
            counted.update(name for name, _ in launched)
            with monkeypatch.context() as patched:
                patched.setattr(launch, "MOST_PROGRAMS", 1)
                alone = launch_in(step, stage.name, call, function, device)
            assert together.outputs.keys() == alone.outputs.keys()
            for name, tensor in together.outputs.items():
                assert torch.equal(bits(tensor), bits(alone.outputs[name])), f"{stage.name}: {name} of {case!r}"
            if all(counted[kernel] >= LAUNCHES for kernel in kernels[stage.name]):
                wanted.discard(stage.name)
        if not wanted:
            break
    assert set(counted) == set.union(*kernels.values())


def test_one_at_a_time_is_one_at_a_time(monkeypatch):
    """The other side of the comparison really runs alone: a kernel's blocks then have one program."""
    sizes = []
    complete = launch._run
    monkeypatch.setattr(launch, "_run", lambda k, v, run: sizes.append(run.count) or complete(k, v, run))
    monkeypatch.setattr(launch, "MOST_PROGRAMS", 1)
    q, weights = torch.ones(20, 2, 32, dtype=torch.bfloat16), torch.ones(20, 2)
    with Lockstep():
        load("builtin").stages["q_quant"](q, weights, scale_fmt="ue8m0", fp8="e4m3fn")
    assert sizes == [1, 1, 1]


def test_no_launch_is_kept(monkeypatch):
    """Neither declared tensors nor views of their memory outlive the session that they were declared in."""
    tensors: list[weakref.ref[Tensor]] = []
    declare = Lockstep.declare

    def declaring(self, name, tensor, initialised=True):
        tensors.append(weakref.ref(tensor))
        declare(self, name, tensor, initialised)

    monkeypatch.setattr(Lockstep, "declare", declaring)
    for case in batch(1)[:3]:
        differential.run(case, load("builtin"), LockstepDevice())
    gc.collect()
    assert len(tensors) > 20
    assert [ref() for ref in tensors if ref() is not None] == []
    assert [kept for kept in gc.get_objects() if type(kept) in (Allocation, Buffer)] == []
