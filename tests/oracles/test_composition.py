"""The whole indexer against its stages: silent where they agree, and loud where only the whole is wrong."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import composition, schedule

DEVICE = open_device("lockstep")
CASE = Case().replace(
    model={"num_heads": 2, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16},
    batch={
        "decode": (18, 3),
        "prefill": ({"length": 20, "new": 5}, {"length": 3, "new": 3}),
        "next_n": 2,
        "max_model_len": 20,
        "pad_tokens": 1,
    },
    rope={"mode": "inplace"},
)
SIGNATURE = "topk/metamorphic/composition/"


def with_edit(label: str, old: str, new: str):
    return builtin(edited_kernels(label, [(label, "kernels/indexer.py", old, new)]).package)


@pytest.mark.parametrize("mode", ["inplace", "functional"])
@pytest.mark.parametrize("kind", [{}, {"decode": ()}, {"prefill": ()}, {"decode": (), "prefill": ()}])
def test_the_built_in_whole_selects_what_its_stages_select(mode, kind):
    case = CASE.replace(batch=kind, rope={"mode": mode})
    assert composition.run(case, builtin(), DEVICE).findings == []


@pytest.mark.parametrize(
    ("label", "old", "new", "output"),
    [
        (
            "rows",
            "rows = slice(decode_end, decode_end + prefill.ks.shape[0])",
            "rows = slice(0, prefill.ks.shape[0])",
            "selected",
        ),
        ("offset", "columns - prefill.ks.unsqueeze(1)", "columns", "selected"),
        (
            "unstored",
            "        slot_mapping,\n        scale_fmt",
            "        slot_mapping[:0],\n        scale_fmt",
            "cache",
        ),
        (
            "unrotated",
            "q, k = rope(\n        q,\n        k,",
            "q, k = rope(\n        q.clone(),\n        k.clone(),",
            "q",
        ),
        (
            "padded",
            "selected = torch.full((q.shape[0], config.index_topk), -1",
            "selected = torch.full((q.shape[0], config.index_topk), 0",
            "selected",
        ),
    ],
)
def test_a_mistake_of_the_whole_alone_is_found(label, old, new, output):
    (found,) = composition.run(CASE, with_edit(label, old, new), DEVICE).findings
    assert str(found.signature) == f"{SIGNATURE}{output}"
    (again,) = schedule.ask(CASE, with_edit(label, old, new), DEVICE, found.signature).findings
    assert again.signature == found.signature


def test_campaigns_ask_about_the_whole_for_some_cases():
    wrong, found = with_edit("offset", "columns - prefill.ks.unsqueeze(1)", "columns"), 0
    for seed in range(64):
        findings = schedule.run(CASE.replace(values={"seed": seed}), wrong, DEVICE).findings
        assert {str(finding.signature) for finding in findings} <= {f"{SIGNATURE}selected"}
        found += bool(findings)
    assert 4 <= found <= 24


def test_nothing_is_asked_without_a_whole_or_outside_the_contract():
    wrong = with_edit("offset", "columns - prefill.ks.unsqueeze(1)", "columns")
    assert composition.run(CASE, replace(wrong, forward=None), DEVICE).findings == []
    assert composition.run(CASE, wrong, DEVICE, frozenset({"gather"})).findings == []
    assert composition.run(CASE.replace(cache={"block_size": 8}), wrong, DEVICE).findings == []
