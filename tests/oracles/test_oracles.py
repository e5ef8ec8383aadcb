"""All oracles together: which are asked about a case, and which about a signature."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.oracles import composition, differential, repetition, schedule
from indexfuzz.reference import gather, mqa_logits

CASE = Case().replace(
    cache={"block_size": 16},
    batch={"prefill": ({"length": 20, "new": 4}, {"length": 9, "new": 9})},
)


def asked(seed):
    return schedule._others(CASE.replace(values={"seed": seed}))


def seeds_that_ask(name):
    return [seed for seed in range(400) if any(name in repr(ask) for ask in asked(seed))]


def test_every_oracle_is_asked_about_some_cases():
    names = [relation.name for relation in schedule.RELATIONS]
    assert all(seeds_that_ask(f"name='{name}'") for name in names)
    assert len([seed for seed in range(400) if repetition.run in asked(seed)]) in range(10, 45)
    assert len([seed for seed in range(400) if composition.run in asked(seed)]) in range(40, 110)
    assert sum(map(bool, map(asked, range(400)))) in range(130, 220)


def test_the_whole_is_asked_only_where_it_has_requests_to_mix_up():
    single = CASE.replace(batch={"prefill": ({"length": 20, "new": 4}, {"length": 9, "new": 0})})
    cases = [single.replace(values={"seed": seed}) for seed in range(200)]
    assert not any(composition.run in schedule._others(case) for case in cases)


def test_cases_with_nan_are_asked_about_containment():
    (ask,) = schedule._others(CASE.replace(values={"q": "nonfinite"}))
    assert ask.keywords["relations"] == (schedule.CONTAINED,)


def test_a_finding_of_the_reference_comes_first(reference_with, pytorch_device):
    def doubled(*, logits, **rest):
        mqa_logits.mqa_logits(logits=logits, **rest)
        logits *= 2

    tested = reference_with(prefill_logits=doubled)
    for seed in range(4):
        found = schedule.run(CASE.replace(values={"seed": seed}), tested, pytorch_device).findings
        assert {finding.kind for finding in found} == {"bound-exceeded"}


def test_a_twin_that_fails_is_found_by_the_cases_that_ask_for_it(reference_with, pytorch_device):
    def refuses_wide_tables(*, block_table, **rest):
        if block_table.shape[1] > 2:
            raise RuntimeError("too wide")
        gather.gather(block_table=block_table, **rest)

    tested = reference_with(gather=refuses_wide_tables)
    seed = seeds_that_ask("name='table-width'")[0]
    case = CASE.replace(values={"seed": seed})
    (found,) = schedule.run(case, tested, pytorch_device).findings
    assert found.signature == "gather/metamorphic/table-width/RuntimeError"
    (again,) = schedule.about(found.signature)(CASE, tested, pytorch_device, frozenset()).findings
    assert again.signature == found.signature


@pytest.mark.parametrize(
    ("signature", "oracle"),
    [
        ("gather/code-mismatch/k_fp8", differential.run),
        ("gather/not-rejected", differential.run),
        ("gather/nondeterministic/k_fp8", repetition.run),
        ("topk/metamorphic/composition/selected", composition.run),
        ("gather/uninitialised/k_fp8", schedule._with_repetition),
        ("gather/metamorphic/unheard-of/k_fp8", differential.run),
    ],
)
def test_the_oracle_of_a_signature(signature, oracle):
    assert schedule.about(signature) is oracle


def test_garbage_is_seen_with_and_without_a_device_that_tracks_it(reference_with, pytorch_device):
    def last_scale_left_out(*, k_scale, **rest):
        fresh = k_scale.clone()
        gather.gather(k_scale=fresh, **rest)
        k_scale[:-1] = fresh[:-1]

    tested = reference_with(gather=last_scale_left_out)
    found = schedule.about("gather/uninitialised/k_scale")(CASE, tested, pytorch_device, frozenset()).findings
    assert "gather/uninitialised/k_scale" in {finding.signature for finding in found}


def test_an_access_out_of_bounds_explains_garbage(reference_with, pytorch_device, monkeypatch):
    stray = Finding("gather", "out-of-bounds", "cache", "loads at byte 256")
    garbage = [Finding(stage, "uninitialised", "x", "nobody wrote it") for stage in ("gather", "paged_logits")]
    for module, findings in ((differential, [stray]), (repetition, garbage)):
        monkeypatch.setattr(module, "run", lambda *_, found=findings: Outcome(CASE, list(found)))
    outcome = schedule.about("gather/uninitialised/x")(CASE, reference_with(), pytorch_device, frozenset())
    assert outcome.findings == [stray, garbage[1]]
