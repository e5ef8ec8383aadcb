"""Batches written in steps: the schedule is a serving engine's, and finds what comparing one step does not show."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import schedule
from indexfuzz.oracles.metamorphic.catalogue import RELATIONS
from indexfuzz.oracles.metamorphic.runner import run
from indexfuzz.oracles.metamorphic.steps import MAX_DRAFTS, STEPS, tokens_in_steps
from indexfuzz.oracles.walk import launches
from indexfuzz.reference import cache as writer
from indexfuzz.reference import layout as layouts
from indexfuzz.stages.table import K_QUANT_CACHE

CASE = Case().replace(
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 2},
    batch={
        "decode": (40, 3),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 60,
        "pad_tokens": 2,
    },
)
STEPWISE = tuple(relation for relation in RELATIONS if relation.name == "steps")


def schedule_of(case, device):
    """The call of the case's one step, and those of its schedule."""
    (call,) = [call for stage, _, call in launches(case, device) if stage is K_QUANT_CACHE]
    twin, plain = tokens_in_steps(case, call)
    assert (twin.case.batch.pad_tokens, plain.case) == (1, case)
    assert all(bool((step.tensors["slot_mapping"] >= 0).all()) for step in plain.calls)
    return call, twin.calls


@pytest.mark.parametrize("seed", range(12))
def test_every_token_is_written_once_for_good_on_one_cache(seed, pytorch_device):
    call, calls = schedule_of(CASE.replace(values={"seed": seed}), pytorch_device)
    slots = call.tensors["slot_mapping"]
    assert 2 <= len(calls) <= STEPS
    assert len({step.tensors["cache"].data_ptr() for step in calls} | {call.tensors["cache"].data_ptr()}) == 2
    last = {}
    for step in calls:
        written = step.tensors["slot_mapping"].tolist()
        assert written[-1] == -1
        assert -1 not in written[:-1]
        last |= dict(zip(written[:-1], step.tensors["k"], strict=False))
    wanted = {slot: row for slot, row in zip(slots.tolist(), call.tensors["k"], strict=False) if slot >= 0}
    assert last.keys() == wanted.keys()
    assert all(torch.equal(last[slot], row) for slot, row in wanted.items())


def test_schedules_differ_and_have_drafts(pytorch_device):
    drawn = [schedule_of(CASE.replace(values={"seed": seed}), pytorch_device) for seed in range(12)]
    tokens = int((drawn[0][0].tensors["slot_mapping"] >= 0).sum())
    drafts = {sum(len(step.tensors["k"]) - 1 for step in calls) - tokens for _, calls in drawn}
    assert len(drafts) > 2
    assert max(drafts) <= MAX_DRAFTS * (STEPS - 1)


def old_scale_counts(*, cache, layout, slot_mapping, **rest):
    """Never lets the scale of a slot fall, as an atomic maximum would that nobody resets."""
    concrete, slots = layouts.resolve(layout, cache.shape[1]), slot_mapping[slot_mapping >= 0].long()
    _, before = layouts.read_tokens(cache, slots, concrete)
    writer.k_quant_cache(cache=cache, layout=layout, slot_mapping=slot_mapping, **rest)
    codes, scales = layouts.read_tokens(cache, slots, concrete)
    layouts.write_tokens(cache, slots, codes, torch.fmax(scales, before), concrete)


def short_launches_tidy_up(*, cache, slot_mapping, **rest):
    """Takes a launch of few rows for a decode step, and clears the page before the one that it writes to."""
    writer.k_quant_cache(cache=cache, slot_mapping=slot_mapping, **rest)
    if len(slot_mapping) < 12:
        cache[int(slot_mapping[0]) // cache.shape[1] - 1] = 0


@pytest.mark.parametrize(
    ("function", "output"), [(old_scale_counts, "cache_scales"), (short_launches_tidy_up, "cache")]
)
def test_what_comparing_one_step_does_not_show_is_found(function, output, reference_with, pytorch_device):
    tested, seen = reference_with(k_quant_cache=function), set()
    for seed in range(8):
        case = CASE.replace(values={"seed": seed})
        assert schedule.REFERENCE.run(case, tested, pytorch_device, frozenset()).findings == []
        for finding in run(case, tested, pytorch_device, relations=STEPWISE).findings:
            seen.add(str(finding.signature))
            again = schedule.ask(case, tested, pytorch_device, finding.signature).findings
            assert finding.signature in {other.signature for other in again}
    assert f"k_quant_cache/metamorphic/steps/{output}" in seen


def test_a_single_token_has_no_schedule(pytorch_device):
    case = Case().replace(batch={"decode": (3,), "max_model_len": 4})
    (call,) = [call for stage, _, call in launches(case, pytorch_device) if stage is K_QUANT_CACHE]
    assert list(tokens_in_steps(case, call)) == []


def test_who_promises_nothing_about_padding_gets_none(pytorch_device):
    def write(k, cache, slot_mapping, **options):
        assert bool((slot_mapping >= 0).all())
        writer.k_quant_cache(k, cache, slot_mapping, **options)

    no_padding = Clause(("k_quant_cache",), lambda case: not case.batch.pad_tokens, "no padding", "here")
    case = CASE.replace(batch={"pad_tokens": 0})
    for contract, wrong in ((Clauses((no_padding,)), 0), (Clauses(), 1)):
        implementation = Implementation("strict", {"k_quant_cache": write}, contract)
        outcome = run(case, implementation, pytorch_device, relations=STEPWISE)
        assert outcome.stages == ["k_quant_cache"]
        assert len(outcome.findings) == wrong
