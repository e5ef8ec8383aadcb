"""One launch, and what it means when it raises: the same for everybody who launches."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.words import location_from_here
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import ImplementationError, MalformedResultError
from indexfuzz.lockstep import LockstepError, UnsupportedFeature
from indexfuzz.oracles import composition, differential, repetition, sessions
from indexfuzz.oracles.launching import Expected, launch
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.oracles.tensors import WatchedTensors
from indexfuzz.stages.base import Call
from indexfuzz.triage.severity import SeverityError, grow, recall

DEVICE = LockstepDevice()


@triton.jit
def copy_block(source, target, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(target + at, tl.load(source + at))


CASE = Case().replace(
    cache={"block_size": 16, "spare_blocks": 4},
    batch={"decode": (5,), "prefill": ({"length": 3, "new": 3}, {"length": 4, "new": 2}), "max_model_len": 50},
)


SESSION = Case().replace(
    cache={"block_size": 16},
    batch={"max_model_len": 20},
    session={"steps": ({"turns": ({"request": 0, "new": 20},)},)},
)


class OutOfMemoryError(Exception):
    pass


class SmallDevice(LockstepDevice):
    def lacks_memory(self, error):
        return isinstance(error, OutOfMemoryError)


def raising(kind, *words):
    """A stage that raises; the exception is made anew each time, because it keeps alive what it was raised in."""

    def stage(**_):
        raise kind(*words)

    return stage


def by_differential(implementation, device):
    return differential.run(CASE, implementation, device).findings


def by_session(implementation, device):
    return sessions.run(SESSION, implementation, device).findings


def by_repetition(implementation, device):
    return repetition.run(CASE, implementation, device).findings


def by_relations(implementation, device):
    return runner.run(CASE, implementation, device).findings


def by_composition(implementation, device):
    return composition.run(CASE, implementation, device).findings


def by_severity(implementation, device):
    return recall(grow(CASE, "gather").replace(model={"num_heads": 2}), implementation, device)


LAUNCHERS = [by_differential, by_session, by_repetition, by_relations, by_composition, by_severity]


@pytest.fixture(params=LAUNCHERS)
def launcher(request):
    return request.param


@pytest.fixture
def failing(reference_with):
    """An implementation whose writer of the cache raises an error; its whole indexer needs that stage."""

    def make(kind, *words):
        implementation = reference_with(k_quant_cache=raising(kind, *words))
        return replace(implementation, forward=lambda *_, **__: None)

    return make


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, MalformedResultError])
def test_steps_and_sessions_give_a_failure_one_signature(kind, failing):
    one, other = (
        {str(f.signature) for f in ask(failing(kind, "no"), DEVICE) if f.stage == "k_quant_cache"}
        for ask in (by_differential, by_session)
    )
    assert one == other
    assert len(one) == 1


@pytest.mark.parametrize("kind", [LockstepError, ImplementationError])
def test_what_is_not_the_kernels_fault_is_never_caught(kind, failing, launcher):
    with pytest.raises(kind, match="ours"):
        launcher(failing(kind, "ours"), DEVICE)


def test_what_the_device_cannot_execute_is_said(failing, launcher):
    wanted = SeverityError if launcher is by_severity else UnsupportedKernelError
    with pytest.raises(wanted, match="k_quant_cache on lockstep: no atomics"):
        launcher(failing(UnsupportedFeature, "no atomics"), DEVICE)


def test_lack_of_memory_is_no_finding(failing, launcher):
    with pytest.raises(SeverityError if launcher is by_severity else OutOfMemoryError):
        launcher(failing(OutOfMemoryError, "no room"), SmallDevice())


def test_a_failure_is_a_failure_to_severity(failing):
    assert by_severity(failing(RuntimeError, "boom"), DEVICE).failed == "RuntimeError: boom"


CALL = Call({"x": torch.zeros(4)}, fills={"x": "x"})


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        (ValueError, "gather/rejected/ValueError"),
        (KeyError, "gather/crash/KeyError"),
        (MalformedResultError, "gather/shape"),
    ],
)
def test_an_unexpected_exception_is_classified(kind, signature):
    launched = launch("gather", CALL, raising(kind, "no"), DEVICE)
    assert (launched.outputs, type(launched.error)) == ({}, kind)
    assert [str(finding.signature) for finding in launched.findings()] == [signature]


@pytest.mark.parametrize(
    ("expected", "fine"),
    [
        (Expected(), ()),
        (Expected(outside="block_size is 1"), (ValueError,)),
        (Expected(broken="block_size is 1"), (ValueError, AssertionError, NotImplementedError)),
    ],
)
def test_what_a_contract_expects_is_no_finding(expected, fine):
    for kind in (ValueError, AssertionError, NotImplementedError, KeyError):
        found = launch("gather", CALL, raising(kind, "no"), DEVICE).findings(expected)
        assert bool(found) == (kind not in fine)


def test_outputs_are_those_of_the_call():
    def fills(x):
        x += 1

    launched = launch("gather", CALL, fills, DEVICE)
    assert launched.outputs["x"] is CALL.tensors["x"]
    assert launched.findings() == []


def test_what_the_device_saw_comes_after_the_exception():
    seen = Finding("gather", "race", "x", "two programs store to it")
    launched = launch("gather", CALL, raising(KeyError), DEVICE)
    assert [f.kind for f in replace(launched, seen=(seen,)).findings()] == ["crash", "race"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_allocated_numbers_are_nan(dtype):
    made = []
    launch("gather", CALL, lambda x: made.append(torch.empty(3, 2, dtype=dtype)), DEVICE)
    assert made[0].float().isnan().all()


@pytest.mark.parametrize(
    "allocate",
    [
        lambda x: torch.empty(3, dtype=torch.int32),
        lambda x: torch.empty_like(x, dtype=torch.int32),
        lambda x: torch.empty_strided((3,), (2,), dtype=torch.int32),
        lambda x: torch.empty_permuted((3, 1), (0, 1), dtype=torch.int32),
        lambda x: x.new_empty(3, dtype=torch.int32),
        lambda x: x.new_empty_strided((3,), (1,), dtype=torch.int32),
    ],
)
def test_allocated_integers_are_no_answer(allocate):
    """-1 would be one: it is what a selection holds where there is nothing to select."""
    made = []
    launch("gather", CALL, lambda x: made.append(allocate(x)), DEVICE)
    assert made[0].flatten().tolist() == [0x7F7F7F7F] * made[0].numel()


def test_allocations_take_the_byte_that_is_asked_for_and_only_inside():
    with WatchedTensors(lambda _dtype: 0x40):
        assert torch.empty(2, dtype=torch.uint8).tolist() == [0x40, 0x40]
        assert torch.empty(2, dtype=torch.bool).tolist() == [True, True]
        assert torch.empty(0).numel() == 0
    assert torch.zeros(2).tolist() == [0, 0]


def test_memory_misused_through_a_view_names_the_line_that_made_the_view():
    def stage(cache, **_):
        pages = cache.as_strided((2, 4), (4, 1), cache.storage_offset())
        copy_block[(1,)](pages.view(torch.uint8), torch.empty(64, dtype=torch.uint8), 64)
        return {}

    launched = launch("gather", Call({"cache": torch.zeros(8, dtype=torch.uint8)}, {}), stage, DEVICE)
    (seen,) = launched.seen
    assert (seen.kind, seen.output, seen.tensor) == ("out-of-bounds", "source", "")
    line = stage.__code__.co_firstlineno + 1
    assert seen.view == f"{__file__}:{line}"
    assert seen.place.endswith(f"through the view made at {location_from_here(seen.view)}")


def test_misused_memory_names_the_argument_of_the_stage_that_it_belongs_to():
    def stage(cache, **_):
        copy_block[(1,)](cache.view(torch.uint8)[8:], torch.empty(64, dtype=torch.uint8), 64)
        return {}

    pool = torch.zeros(64, dtype=torch.uint8)
    tensors = {"cache": pool[:32], "k": torch.zeros(32, dtype=torch.uint8)}
    (seen,) = launch("gather", Call(tensors, {}), stage, DEVICE, initialised=dict.fromkeys(tensors, True)).seen
    assert (seen.kind, seen.tensor) == ("out-of-bounds", "cache")
    both = tensors | {"state": pool}
    (seen,) = launch("gather", Call(both, {}), stage, DEVICE, initialised=dict.fromkeys(both, True)).seen
    assert seen.tensor == ""
