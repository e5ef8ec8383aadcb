"""Scripts of relations between launches that are right by themselves: all are made, and one element is compared."""

import sys
import types

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Record
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import differential
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest, put_under_test
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.relation_repro import relation_script
from indexfuzz.triage.repro import script

CASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16},
    batch={"decode": (20, 5, 33), "prefill": ({"length": 20, "new": 3}, {"length": 9, "new": 2}), "max_model_len": 40},
)


def nudged(stage, row):
    """The logits of a stage, those of one row one unit in the last place higher, as another order of sums may make."""

    def function(*, logits, **given):
        builtin().stages[stage](logits=logits, **given)
        seen = logits[row].isfinite() & (logits[row] > 0)
        above = (logits[row].contiguous().view(torch.int32) + 1).view(torch.float32)
        logits[row] = torch.where(seen, above, logits[row])

    return function


def right(stage):
    def function(**given):
        builtin().stages[stage](**given)

    return function


@pytest.fixture
def put_alone(monkeypatch):
    def put(stage, function):
        function.__module__, function.__qualname__ = "their_logits", stage
        module = types.ModuleType("their_logits")
        setattr(module, stage, function)
        monkeypatch.setitem(sys.modules, "their_logits", module)
        own = builtin()
        implementation = Implementation("theirs", {stage: function}, own.contract, own.promises)
        return UnderTest(InProcess(implementation, LockstepDevice()), Setup("module:their_adapter"))

    return put


@pytest.mark.parametrize("stage", ["prefill_logits", "paged_logits"])
def test_two_launches_that_are_right_and_differ_are_made_and_compared(stage, put_alone, run_copied):
    target = put_alone(stage, nudged(stage, 0))
    subject = target.subject
    assert not differential.run(CASE, subject.implementation, subject.device).findings
    found = runner.run(CASE, subject.implementation, subject.device).findings
    (finding,) = (one for one in found if one.kind == "metamorphic/batch-permuted")
    text = script(target.entry(CASE, finding), target)
    assert text.index("one = raw(logits)") < text.index("# with the batch permuted") < text.index("other = raw(logits)")
    proof = run_copied(text)
    assert proof.shows
    assert "with the batch permuted, in hexadecimal" in proof.last_line
    put_alone(stage, right(stage))
    assert not run_copied(text).shows


FAULT = "page-stride-in-rows"
IN_ONE_PAGE = Case().replace(cache={"block_size": 2, "layout": "normal"}, batch={"decode": (2,), "max_model_len": 4})


def test_an_element_of_a_cache_is_found_in_the_pages_of_either_launch(run_copied):
    target = put_under_test(Setup(faults=(FAULT,)))
    (finding,) = runner.run(IN_ONE_PAGE, target.subject.implementation, target.subject.device).findings
    assert str(finding.signature) == "k_quant_cache/metamorphic/block-size/cache_values"
    text = relation_script(IN_ONE_PAGE, Record.of(finding), target)
    assert "other = raw(cache)" in text
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({FAULT!r},))", "plant(())")).shows


def test_an_element_of_the_second_of_several_launches_is_found(put_alone, run_copied):
    def first_key_changed(*, k_fp8, **given):
        builtin().stages["gather"](k_fp8=k_fp8, **given)
        k_fp8.view(torch.uint8)[0, 0] ^= 1

    target = put_alone("gather", first_key_changed)
    found = runner.run(CASE, target.subject.implementation, target.subject.device).findings
    finding = next(one for one in found if one.kind == "metamorphic/batch-split")
    text = relation_script(CASE, Record.of(finding), target)
    assert text.count("run(") > 3
    assert run_copied(text).shows
    put_alone("gather", right("gather"))
    assert not run_copied(text).shows


def test_what_holds_has_no_script():
    clean = put_under_test(Setup())
    finding = Finding("paged_logits", "metamorphic/batch-permuted", "logits", "", index=(0, 0))
    with pytest.raises(ReproError, match=r"no launch by itself shows .*, nor do two"):
        relation_script(CASE, Record.of(finding), clean)
