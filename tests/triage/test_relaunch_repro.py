"""Scripts of several launches: they tell what depends on chance or on the launch before from what does not."""

import sys
import types

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import history, repetition
from indexfuzz.reference import cache, gather, mqa_logits, quant
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.repro import script

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16},
    batch={"prefill": ({"length": 20, "new": 3}, {"length": 9, "new": 2})},
)


@pytest.fixture
def put_alone(monkeypatch, pytorch_device):
    """Put one function under test, as that of a module which a script can import."""

    def put(stage, function):
        function.__module__, function.__qualname__ = "their_kernels", stage
        module = types.ModuleType("their_kernels")
        setattr(module, stage, function)
        monkeypatch.setitem(sys.modules, "their_kernels", module)
        subject = InProcess(Implementation("theirs", {stage: function}), pytorch_device)
        return UnderTest(subject, Setup("module:their_adapter"))

    return put


def remembering(function, argument):
    """A launcher that keeps what it makes of one argument, by the argument's address."""
    kept = {}

    def launcher(**given):
        tensor = given[argument]
        given[argument] = kept.setdefault(tensor.data_ptr(), tensor.clone())
        return function(**given)

    return launcher


KEEPING = {
    "q_quant": (quant.q_quant, "weights"),
    "k_quant_cache": (cache.k_quant_cache, "slot_mapping"),
    "gather": (gather.gather, "cu_seqlens"),
    "prefill_logits": (mqa_logits.mqa_logits, "ke"),
}


@pytest.mark.parametrize("stage", KEEPING)
def test_what_an_earlier_launch_left_behind_is_shown(stage, put_alone, run_copied):
    function, argument = KEEPING[stage]

    def right(**given):
        return function(**given)

    target = put_alone(stage, remembering(function, argument))
    finding = history.run(CASE, target.subject.implementation, target.subject.device).findings[0]
    text = script(target.entry(CASE, finding), target)
    assert text.index("# Other contents in the same memory.") < text.index(f"{argument}.copy_(")
    assert run_copied(text).shows
    put_alone(stage, right)
    assert not run_copied(text).shows


@pytest.mark.parametrize("unlucky", [2, 17])
def test_what_depends_on_chance_is_shown_sooner_or_later(unlucky, put_alone, run_copied):
    launched = []

    def launcher(*, logits, **given):
        mqa_logits.mqa_logits(logits=logits, **given)
        launched.append(True)
        if len(launched) == unlucky:
            logits[1, 0] += 1

    def right(*, logits, **given):
        mqa_logits.mqa_logits(logits=logits, **given)

    found = put_alone("prefill_logits", launcher)
    launched[:] = [True] * (unlucky - 2)
    (finding,) = repetition.run(CASE, found.subject.implementation, found.subject.device).findings
    text = script(found.entry(CASE, finding), found)
    launched.clear()
    assert "logits[1, 0]" in text
    assert run_copied(text).shows
    put_alone("prefill_logits", right)
    assert run_copied(text).last_line == "the same in all launches"
