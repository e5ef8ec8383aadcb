"""Scripts of sessions: the launches of the steps before, on one state, and the one that goes wrong."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.repro import script


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 3),)},
    {"forks": ({"parent": 0, "child": 1},), "turns": (turn(1, 3), turn(0, 2))},
)


FAULT = "compress-groups-from-chunk-start"


def test_a_script_replays_the_session_with_the_kernels_own_functions(run_copied):
    session = {"node": "compress", "ratio": 2, "overlap": True, "steps": STEPS}
    case = Case().replace(cache={"layout": "normal"}, batch={"max_model_len": 20}, session=session)
    target = put_under_test(Setup(faults=(FAULT,)))
    finding = target.subject.run(case).findings[0]
    text = script(target.entry(case, finding), target)
    assert str(finding.signature) == "compress/guard-write/keys"
    assert text.count("run(kv=kv") == 2
    assert text.count("\nstate = ") == 1
    assert "# step 0: request 0 appends tokens 0 to 2; key 0 is due" in text
    assert "state[1] = state[0]" in text
    proof = run_copied(text)
    assert proof.shows
    assert proof.last_line.startswith("byte [0, 0] of keys was 0xff, is 0xff, must be 0x")
    healed = text.replace(f"plant(('{FAULT}',))", "builtin()").replace(
        "from indexfuzz.implementations.faults import plant", "from indexfuzz.implementations.builtin import builtin"
    )
    assert healed != text
    assert not run_copied(healed).shows


def test_a_script_replays_pooled_keys_on_tails_that_lie_apart(run_copied):
    fault = "pool-saved-before-read"
    session = {"node": "pool", "ratio": 2, "steps": STEPS}
    case = Case().replace(cache={"layout": "normal", "page_pad": 132}, batch={"max_model_len": 20}, session=session)
    target = put_under_test(Setup(faults=(fault,)))
    finding = target.subject.run(case).findings[0]
    assert str(finding.signature) == "pool/bound-exceeded/keys"
    text = script(target.entry(case, finding), target)
    assert text.count("run(k=k") == 2
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows


def test_a_script_shows_what_comes_of_memory_that_an_earlier_step_should_have_written(run_copied):
    fault = "compress-stale-ring"
    session = {"node": "compress", "ratio": 2, "overlap": True, "steps": ({"turns": (turn(0, 3),)},)}
    case = Case().replace(cache={"layout": "normal"}, batch={"max_model_len": 20}, session=session)
    target = put_under_test(Setup(faults=(fault,)))
    finding = target.subject.run(case).findings[0]
    assert finding.kind == "uninitialised"
    text = script(target.entry(case, finding), target)
    assert "state = unwritten((1, 4, 2, 64), torch.float32)" in text
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows


@pytest.mark.parametrize(
    ("fault", "node"), [("pool-tail-of-chunk", "pool"), ("fused-pool-tail-of-last-request", "fused_pool")]
)
def test_a_script_knows_what_its_launches_have_left_in_the_state(fault, node, run_copied):
    steps = ({"turns": (turn(0, 7), turn(1, 5))}, {"turns": (turn(0, 1, 3, 1), turn(1, 1, 2))})
    session = {"node": node, "ratio": 4, "steps": steps}
    case = Case().replace(cache={"block_size": 2, "layout": "normal"}, batch={"max_model_len": 300}, session=session)
    target = put_under_test(Setup(faults=(fault,)))
    finding = target.subject.run(case).findings[0]
    assert finding.kind == "uninitialised"
    text = script(target.entry(case, finding), target)
    assert text.count("'state': holding(state)") == 2
    proof = run_copied(text)
    assert proof.shows
    assert "uninitialised" in proof.last_line
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows


@pytest.mark.parametrize(
    ("fault", "scales", "quant_group", "place"),
    [
        ("fused-compress-one-exponent-for-all", "mxfp4", 8, "cache_scales[1, 1], byte 17 of page 0,"),
        ("fused-compress-scale-never-packed", "mxfp4", 8, "cache_scales[1, 0], byte 16 of page 0,"),
        ("ue8m0-lowest-byte-alone", "ue8m0", 32, "cache_scales[1], byte 32 of page 0,"),
    ],
)
def test_a_script_reads_the_exponents_of_a_key(fault, scales, quant_group, place, run_copied):
    """The values of a key may be one of several, and are not the reference's in all right kernels."""
    session = {"node": "fused_compress", "ratio": 2, "steps": ({"turns": (turn(0, 2),)},)}
    case = Case().replace(
        model={"head_dim": 32, "rope_dim": 2, "quant_group": quant_group, "scale_fmt": "ue8m0"},
        cache={"block_size": 1, "scales": scales},
        batch={"max_model_len": 2},
        session=session,
    )
    target = put_under_test(Setup(faults=(fault,)))
    finding = target.subject.run(case).findings[0]
    text = script(target.entry(case, finding), target)
    proof = run_copied(text)
    assert proof.shows
    assert proof.last_line == f"{place} is {finding.got.split()[0]}, must be {finding.want}"
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows
