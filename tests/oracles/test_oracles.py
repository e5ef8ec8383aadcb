"""All oracles together: which are asked about a case, and which about a signature."""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.kinds import KINDS, OF_RELATIONS
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.lockstep import recall_launches
from indexfuzz.oracles import schedule
from indexfuzz.oracles.metamorphic.catalogue import RELATIONS
from indexfuzz.reference import gather, mqa_logits, rope

CASE = Case().replace(
    cache={"block_size": 16},
    batch={"prefill": ({"length": 20, "new": 4}, {"length": 9, "new": 9})},
)


def asked(case):
    return {oracle.name for oracle in schedule.OTHERS if oracle.is_asked(case)}


def seeds_that_ask(name):
    return [seed for seed in range(400) if name in asked(CASE.replace(values={"seed": seed}))]


def test_every_oracle_is_asked_about_some_cases():
    assert all(len(seeds_that_ask(relation.name)) in range(1, 20) for relation in RELATIONS)
    assert len(seeds_that_ask("repetition")) in range(10, 45)
    assert len(seeds_that_ask("composition")) == 400
    assert sum(len(asked(CASE.replace(values={"seed": seed}))) > 1 for seed in range(400)) in range(110, 220)


def test_names_and_kinds_are_those_of_one_oracle():
    names = [oracle.name for oracle in schedule.ORACLES]
    assert len(set(names)) == len(names)
    assert schedule.SESSION.kinds == schedule.REFERENCE.kinds
    owners = Counter(kind for oracle in schedule.ORACLES if oracle is not schedule.SESSION for kind in oracle.kinds)
    assert {kind for kind, count in owners.items() if count > 1} == {"uninitialised", "state-kept"}
    assert owners.keys() >= {*KINDS, *OF_RELATIONS}


@pytest.mark.parametrize(
    "batch",
    [
        {"decode": (5, 3), "prefill": ()},
        {"decode": (5,), "prefill": ()},
        {"decode": (5,)},
        {"prefill": ({"length": 20, "new": 4},)},
    ],
)
def test_every_step_of_every_kind_is_asked_about_the_whole(batch):
    cases = [CASE.replace(values={"seed": seed}, batch=batch | {"max_model_len": 20}) for seed in range(50)]
    assert all("composition" in asked(case) for case in cases)


def test_rope_is_compiled_where_it_can_be(reference_with, pytorch_device, monkeypatch):
    (oracle,) = (oracle for oracle in schedule.OTHERS if oracle.name == "rope-compiled")
    cases = [CASE.replace(values={"seed": seed}) for seed in range(4000)]
    assert sum(map(oracle.is_asked, cases)) in range(2, 16)

    def compiled_wrongly(*, q, k, mode, **rest):
        new_q, new_k = rope.rope(q, k, **rest)
        return (new_q, k) if mode == "compiled" else (new_q, new_k)

    promising = replace(reference_with(rope=compiled_wrongly), promises=Promises(rope_compiled=True))
    monkeypatch.setattr(schedule, "COMPILERS", ("python3",))
    asked = [(promising, ["rope/metamorphic/rope-compiled/k"]), (reference_with(rope=compiled_wrongly), [])]
    for tested, wanted in asked:
        found = oracle.run(CASE, tested, pytorch_device, frozenset()).findings
        assert [str(finding.signature) for finding in found] == wanted
    monkeypatch.setattr(schedule, "COMPILERS", ("no-such-compiler",))
    assert oracle.run(CASE, promising, pytorch_device, frozenset()).findings == []


def test_cases_with_nan_are_asked_about_containment_alone():
    cases = [CASE.replace(values={"q": "nonfinite", "seed": seed}) for seed in range(200)]
    assert all(asked(case) == {"nonfinite-contained"} for case in cases)
    assert not seeds_that_ask("nonfinite-contained")


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
    seed = seeds_that_ask("table-width")[0]
    case = CASE.replace(values={"seed": seed})
    (found,) = schedule.run(case, tested, pytorch_device).findings
    assert str(found.signature) == "gather/metamorphic/table-width/RuntimeError"
    (again,) = schedule.ask(CASE, tested, pytorch_device, found.signature).findings
    assert again.signature == found.signature


@pytest.mark.parametrize("kept", [True, False])
def test_launches_that_are_recalled_change_no_outcome(kept, monkeypatch):
    """A launcher that does something else the second time is found although its kernels do not run again."""
    built_in, gathered, used = builtin(), [], []

    def third_time_unlucky(*, k_scale, **rest):
        built_in.stages["gather"](k_scale=k_scale, **rest)
        gathered.append(True)
        if len(gathered) == 3:
            k_scale[0] *= 2

    @contextmanager
    def recalling():
        with recall_launches() as recall:
            used.append(recall)
            yield

    monkeypatch.setattr(schedule, "recall_launches", recalling if kept else nullcontext)
    case = CASE.replace(values={"seed": seeds_that_ask("repetition")[0]})
    tested = replace(built_in, stages={**built_in.stages, "gather": third_time_unlucky})
    (found,) = schedule.run(case, tested, LockstepDevice()).findings
    assert str(found.signature) == "gather/nondeterministic/k_scale"
    assert schedule.run(case, builtin(), LockstepDevice()).findings == []
    assert all(recall.recalled > 10 for recall in used)


@pytest.mark.parametrize(
    ("signature", "oracles"),
    [
        ("gather/code-mismatch/k_fp8", ["reference"]),
        ("gather/not-rejected", ["reference"]),
        ("gather/nondeterministic/k_fp8", ["repetition"]),
        ("topk/metamorphic/composition/selected", ["composition"]),
        ("gather/uninitialised/k_fp8", ["reference", "repetition"]),
        ("paged_logits/metamorphic/next-n/logits", ["next-n"]),
        ("gather/metamorphic/unheard-of/k_fp8", ["reference"]),
    ],
)
def test_the_oracles_of_a_signature(signature, oracles):
    assert [oracle.name for oracle in schedule.oracles_for(Signature.parse(signature), CASE)] == oracles


@pytest.mark.parametrize(
    ("signature", "oracles"),
    [
        ("compress/bound-exceeded/keys", ["session"]),
        ("compress/metamorphic/schedule/cache_values", ["schedules"]),
        ("gather/nondeterministic/k_fp8", ["session"]),
    ],
)
def test_sessions_are_asked_by_oracles_of_their_own(signature, oracles):
    steps = ({"turns": ({"request": 0, "new": 1},)},)
    case = Case().replace(session={"steps": steps})
    assert [oracle.name for oracle in schedule.oracles_for(Signature.parse(signature), case)] == oracles
    assert not any(schedule.SESSION.is_asked(CASE.replace(values={"seed": seed})) for seed in range(9))


def test_garbage_is_seen_with_and_without_a_device_that_tracks_it(reference_with, pytorch_device):
    def last_scale_left_out(*, k_scale, **rest):
        fresh = k_scale.clone()
        gather.gather(k_scale=fresh, **rest)
        k_scale[:-1] = fresh[:-1]

    tested = reference_with(gather=last_scale_left_out)
    found = schedule.ask(CASE, tested, pytorch_device, Signature("gather", "uninitialised", "k_scale")).findings
    assert "gather/uninitialised/k_scale" in {str(finding.signature) for finding in found}


def test_an_access_out_of_bounds_explains_garbage(reference_with, pytorch_device, monkeypatch):
    stray = Finding("gather", "out-of-bounds", "cache", "loads at byte 256")
    garbage = [Finding(stage, "uninitialised", "x", "nobody wrote it") for stage in ("gather", "paged_logits")]
    reference = schedule.REFERENCE
    repetition = next(oracle for oracle in schedule.OTHERS if oracle.name == "repetition")
    planted = (
        replace(reference, run=lambda *_: Outcome(CASE, [stray])),
        replace(repetition, run=lambda *_: Outcome(CASE, list(garbage))),
    )
    monkeypatch.setattr(schedule, "ORACLES", planted)
    outcome = schedule.ask(CASE, reference_with(), pytorch_device, Signature("gather", "uninitialised", "x"))
    assert outcome.findings == [stray, garbage[1]]
