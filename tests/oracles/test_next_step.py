"""The whole indexer in a step behind another one: silent where nothing is kept, and loud where an address is known."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import next_step, schedule
from indexfuzz.samples.materialise import materialise

DEVICE = open_device("lockstep")
CASE = Case().replace(
    model={"num_heads": 2, "index_topk": 8},
    cache={"block_size": 16},
    batch={
        "decode": (18, 3),
        "prefill": ({"length": 20, "new": 5}, {"length": 9, "new": 3}),
        "next_n": 2,
        "max_model_len": 20,
    },
)
KEPT = plant(("kept-lengths-of-a-table",))


def findings_of(implementation, case=CASE, only=frozenset()):
    return next_step.run(case, implementation, DEVICE, only).findings


@pytest.mark.parametrize("batch", [{}, {"decode": ()}, {"prefill": ()}, {"pad_tokens": 3}])
@pytest.mark.parametrize("mode", ["inplace", "functional"])
def test_kernels_that_keep_nothing_are_right_in_every_step(batch, mode):
    assert findings_of(builtin(), CASE.replace(batch=batch, rope={"mode": mode})) == []


def test_lengths_that_are_kept_by_the_address_of_a_table_show_in_the_step_behind():
    (finding,) = findings_of(KEPT)
    assert str(finding.signature) == "topk/metamorphic/next-step/selected"
    assert finding.detail.startswith("right after a step with other contents in the same tensors: of the decode rows, ")
    assert findings_of(KEPT, CASE.replace(batch={"decode": ()})) == []


def test_what_is_wrong_in_a_step_by_itself_is_left_to_others():
    old = "columns - prefill.ks.unsqueeze(1)"
    whole = builtin(edited_kernels("next-offset", [("next-offset", "kernels/indexer.py", old, "columns")]))
    assert findings_of(whole) == []
    stage = replace(builtin(), stages=plant(("gather-64-pages-above-4096", "causal-next-n")).stages)
    assert findings_of(stage) == []


def test_nothing_is_asked_without_a_whole_or_of_chosen_stages_or_beyond_a_contract():
    assert findings_of(replace(KEPT, forward=None)) == []
    assert findings_of(KEPT, only=frozenset({"gather"})) == []
    assert findings_of(KEPT, CASE.replace(cache={"block_size": 8})) == []


def test_the_contents_of_a_step_are_there_again_when_it_is_served():
    seen = []

    def whole(step):
        seen.append({name: tensor.clone() for name, tensor in step.tensors.items()})
        step.tensors["cache"].fill_(7)
        return seen

    step = materialise(CASE, "cpu")
    before = {name: tensor.clone() for name, tensor in step.tensors.items()}
    next_step.after_another(whole)(step=step)
    first, second = seen
    assert all(tensor.equal(before[name]) for name, tensor in second.items())
    assert not first["q"].equal(before["q"])
    assert not first["context_lens"].equal(before["context_lens"])


def test_a_campaign_asks_about_the_next_step_in_some_cases():
    (oracle,) = (one for one in schedule.OTHERS if one.name == "next-step")
    cases = [CASE.replace(values={"seed": seed}) for seed in range(400)]
    asked = [case for case in cases if oracle.is_asked(case)]
    assert len(asked) in range(30, 80)
    found = schedule.run(asked[0], KEPT, DEVICE).findings
    assert [str(finding.signature) for finding in found] == ["topk/metamorphic/next-step/selected"]
