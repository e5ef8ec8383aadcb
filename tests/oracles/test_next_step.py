"""The whole indexer in a step behind another one: silent where nothing is kept, and loud where an address is known."""

from dataclasses import replace
from itertools import count

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import load_faults, plant
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
LABELS = count()


def keeping(fault="kept-lengths-of-a-table"):
    """Kernels that keep something, lengths by the address of a table, and have not been called yet."""
    label, edits = f"next-step-{next(LABELS)}", load_faults()[fault].edits
    return builtin(edited_kernels(label, [(label, edit.file, edit.old, edit.new) for edit in edits]))


def findings_of(implementation, case=CASE, only=frozenset()):
    return next_step.run(case, implementation, DEVICE, only).findings


@pytest.mark.parametrize("batch", [{}, {"decode": ()}, {"prefill": ()}, {"pad_tokens": 3}])
@pytest.mark.parametrize("mode", ["inplace", "functional"])
def test_kernels_that_keep_nothing_are_right_in_every_step(batch, mode):
    assert findings_of(builtin(), CASE.replace(batch=batch, rope={"mode": mode})) == []


def test_lengths_that_are_kept_by_the_address_of_a_table_show_in_the_step_behind():
    (finding,) = findings_of(keeping())
    assert str(finding.signature) == "topk/metamorphic/next-step/selected"
    assert finding.detail.startswith("right after a step with other contents in the same tensors: of the decode rows, ")
    assert finding.detail.endswith("; context_lens is that of the step before")
    assert findings_of(keeping(), CASE.replace(batch={"decode": ()})) == []


def test_of_a_stage_that_keeps_something_by_itself_that_is_told():
    found = findings_of(keeping("kept-positions-of-an-address"))
    assert {str(finding.signature) for finding in found} == {"rope/state-kept/q"}


PLAN = (
    "cu_seqlens and token_to_seq are those of the step before",
    "        prefill.cu_seqlens,\n        prefill.token_to_seq,\n",
    "        *_PLANS.setdefault(prefill.ks.data_ptr(), (prefill.cu_seqlens.clone(), prefill.token_to_seq.clone())),\n",
)
TABLE = (
    "block_table is that of the step before",
    "        prefill.block_table,\n",
    "        _PLANS.setdefault(prefill.block_table.data_ptr(), prefill.block_table.clone()),\n",
)
WINDOWS = (
    "ke is that of the step before",
    "q_weights, prefill.ks, prefill.ke, logits)",
    "q_weights, prefill.ks, _PLANS.setdefault(prefill.ke.data_ptr(), prefill.ke.clone()), logits)",
)


@pytest.mark.parametrize(("words", "old", "new"), [PLAN, TABLE, WINDOWS])
def test_what_is_kept_of_prefill_is_named(words, old, new):
    file, label, before = "kernels/indexer.py", words.partition(" ")[0].replace("_", "-"), "def _select_prefill("
    edits = [(label, file, before, f"_PLANS = {{}}\n\n\n{before}"), (label, file, old, new)]
    (finding,) = findings_of(builtin(edited_kernels(f"next-{label}", edits)))
    assert finding.detail.endswith(f"; {words}")


def test_what_is_wrong_in_a_step_by_itself_is_left_to_others():
    old = "columns - prefill.ks.unsqueeze(1)"
    whole = builtin(edited_kernels("next-offset", [("next-offset", "kernels/indexer.py", old, "columns")]))
    assert findings_of(whole) == []
    stage = replace(builtin(), stages=plant(("gather-64-pages-above-4096", "causal-next-n")).stages)
    assert findings_of(stage) == []


def test_nothing_is_asked_without_a_whole_or_of_chosen_stages_or_beyond_a_contract():
    assert findings_of(replace(keeping(), forward=None)) == []
    assert findings_of(keeping(), only=frozenset({"gather"})) == []
    assert findings_of(keeping(), CASE.replace(cache={"block_size": 8})) == []


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


def test_the_case_of_a_step_is_that_of_its_contents():
    """A whole may plan by the lengths that its host knows."""
    right = builtin().forward

    def planning(step):
        assert step.tensors["context_lens"].tolist() == list(step.case.batch.decode)
        return right(step=step)

    case = CASE.replace(batch={"prefill": ()})
    assert findings_of(replace(builtin(), forward=planning), case) == []


def test_a_campaign_asks_about_the_next_step_in_some_cases():
    (oracle,) = (one for one in schedule.OTHERS if one.name == "next-step")
    cases = [CASE.replace(values={"seed": seed}) for seed in range(400)]
    asked = [case for case in cases if oracle.is_asked(case)]
    assert len(asked) in range(30, 80)
    found = oracle.run(asked[0], keeping(), DEVICE, frozenset()).findings
    assert [str(finding.signature) for finding in found] == ["topk/metamorphic/next-step/selected"]
