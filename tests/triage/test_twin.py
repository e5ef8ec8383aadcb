"""A session under two schedules, looked at closely: which keys part, who made them, a script, an explanation."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import schedules
from indexfuzz.report.pictures.draw import draw
from indexfuzz.stages import pool as stage
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest, put_under_test
from indexfuzz.triage.explain import explain
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.prove import Proof
from indexfuzz.triage.repro import script
from indexfuzz.triage.twin import ScheduleLook, shown_alone

FAULT = "pool-first-draft-lost"
SIGNATURE = Signature.parse("pool/metamorphic/schedule/keys")
CASE = Case().replace(
    model={"num_heads": 1, "head_dim": 32, "rope_dim": 2, "quant_group": 32},
    batch={"max_model_len": 4},
    session={"node": "pool", "ratio": 2, "steps": ({"turns": ({"request": 0, "new": 4},)},)},
)
"""All tokens in one step; the other schedule of its seed takes a step for each."""


@pytest.fixture(scope="module")
def faulty() -> UnderTest[InProcess]:
    return put_under_test(Setup(faults=(FAULT,)))


INSERTED = Signature.parse("fused_compress/metamorphic/schedule/cache_values")
INTO_CACHE = CASE.replace(
    model={"scale_fmt": "ue8m0"},
    batch={"max_model_len": 7},
    values={"k": "normal", "weights": "normal"},
    session={"node": "fused_compress", "ratio": 4, "steps": ({"turns": ({"request": 0, "new": 7},)},)},
)
"""Keys that lie in the cache; the other schedule of its seed has chunks that begin in the middle of a group."""


def _finding(subject: InProcess, case: Case = CASE, signature: Signature = SIGNATURE) -> Finding:
    return next(f for f in subject.ask(case, signature).findings if f.signature == signature)


def test_the_keys_that_part_are_drawn_and_the_line_that_makes_the_first_of_them_is_told(faulty: UnderTest[InProcess]):
    look = look_at(CASE, SIGNATURE, faulty.subject)
    assert isinstance(look, ScheduleLook)
    picture, inside = draw(look)
    assert picture.panels[0].labels == ("request 0, key 0", "request 0, key 1")
    assert picture.panels[0].cells[0] == "." * 32
    assert picture.mark
    assert picture.mark[0] == 1
    assert inside.mark
    assert picture.notes[-1] == "request 0: its tokens came in one step here, one a step there"
    first, when, *told = look.sentences()
    assert first == "Of request 0, the tokens came in one step here, and one a step in the other schedule."
    assert when.endswith("request 0 appends token 3; key 1 is due, in the other schedule.")
    assert any("tl.store(keys_ptr" in line for line in told)
    assert look.place().rpartition("/")[2].startswith("pool.py:")


def test_nothing_is_told_of_schedules_that_leave_the_same_bytes():
    assert look_at(CASE, SIGNATURE, put_under_test(Setup()).subject) is None
    assert shown_alone(CASE, put_under_test(Setup()).subject) is None


def test_a_script_runs_both_schedules_and_compares_their_keys(
    faulty: UnderTest[InProcess], run_copied: Callable[[str], Proof]
):
    text = script(faulty.entry(CASE, _finding(faulty.subject)), faulty)
    assert text.count("run(k=k") == 1 + 4
    assert text.count("\nstate = ") == 2
    proof = run_copied(text)
    assert proof.shows
    assert proof.last_line.startswith("key 1 of request 0, dim 0 is ")
    healed = run_copied(text.replace(f"plant(({FAULT!r},))", "plant(())"))
    assert (healed.shows, healed.last_line.strip()) == (False, "both schedules leave the same keys")


def test_a_script_gives_a_fork_the_keys_of_its_parent(faulty: UnderTest[InProcess], run_copied: Callable[[str], Proof]):
    steps = (
        {"turns": ({"request": 0, "new": 2},)},
        {"forks": ({"parent": 0, "child": 1},), "turns": ({"request": 1, "new": 4},), "free": (0,)},
    )
    case = CASE.replace(batch={"max_model_len": 6}, session={"steps": steps})
    text = script(faulty.entry(case, _finding(faulty.subject, case)), faulty)
    assert "for (request, key), value in ONE.items() if request == 0" in text
    proof = run_copied(text)
    assert proof.shows
    assert " of request 1, dim 0 is " in proof.last_line
    healed = run_copied(text.replace(f"plant(({FAULT!r},))", "plant(())"))
    assert (healed.shows, healed.last_line.strip()) == (False, "both schedules leave the same keys")


@pytest.fixture(scope="module")
def inserting() -> UnderTest[InProcess]:
    return put_under_test(Setup(faults=("compress-bias-by-place-in-chunk",)))


def test_keys_that_an_operation_inserts_are_drawn_as_they_lie_in_the_cache(inserting: UnderTest[InProcess]):
    look = look_at(INTO_CACHE, INSERTED, inserting.subject)
    assert isinstance(look, ScheduleLook)
    picture, inside = draw(look)
    assert picture.title == "keys: key x dim, then the scale"
    assert picture.panels[0].labels == ("request 0, key 0",)
    assert len(picture.panels[0].cells[0]) == 32 + 1
    assert picture.mark == (0, picture.panels[0].cells[0].index("X"))
    assert inside.title.startswith("cache_values: ")
    assert any("tl.store(" in line for line in look.sentences())
    assert look.place().rpartition("/")[2].startswith("fused_compress.py:")
    scale = replace(look, finding=replace(look.finding, output="cache_scales", index=(0,)))
    assert draw(scale)[0].mark == (0, 32)
    assert draw(scale)[0].notes[0].startswith("request 0, key 0, scale: ")


def test_nothing_is_told_of_inserted_keys_that_are_the_same():
    assert look_at(INTO_CACHE, INSERTED, put_under_test(Setup()).subject) is None


@pytest.mark.parametrize("cache", [{}, {"block_size": 16, "layout": "shuffle", "page_pad": 132}])
def test_a_script_compares_the_bytes_of_inserted_keys(
    inserting: UnderTest[InProcess], run_copied: Callable[[str], Proof], cache: dict[str, object]
):
    case = INTO_CACHE.replace(cache=cache)
    text = script(inserting.entry(case, _finding(inserting.subject, case, INSERTED)), inserting)
    assert text.count("cache[") == (2 if not cache else 2 * 3)
    proof = run_copied(text)
    assert proof.shows
    assert proof.last_line.startswith("code ")
    assert " of key 0 of request 0 is 0x" in proof.last_line
    healed = run_copied(text.replace(f"plant({inserting.setup.faults!r})", "plant(())"))
    assert (healed.shows, healed.last_line.strip()) == (False, "both schedules leave the same keys")


def test_what_is_no_key_is_told_and_written_of_the_other_schedule_alone(run_copied: Callable[[str], Proof]):
    target = put_under_test(Setup(faults=("compress-visible-one-early",)))
    case = CASE.replace(session={"node": "compress"})
    signature = Signature.parse("compress/metamorphic/schedule/visible")
    look = look_at(case, signature, target.subject)
    assert isinstance(look, Look)
    assert look.moment.endswith(", in the other schedule")
    assert look.finding.output == "visible"
    text = script(target.entry(case, Finding("compress", schedules.KIND, "visible", "")), target)
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant({target.setup.faults!r})", "plant(())")).shows


def test_the_other_schedule_is_explained_where_it_is_wrong_by_itself(faulty: UnderTest[InProcess]):
    clock = iter(range(10**6))
    found = explain(CASE, SIGNATURE, faulty.subject, seconds=9, clock=lambda: float(next(clock)))
    first, second, *_ = found.lines()
    assert first.startswith(
        "The other schedule is wrong by itself (pool/bound-exceeded/keys): step 0: request 0 appends"
    )
    assert second.startswith("It passes with session.steps 1 and 2 as one instead of two")


def test_keys_that_are_right_and_differ_are_drawn_with_the_line_that_stores_the_first(monkeypatch: pytest.MonkeyPatch):
    def shifted(**arguments: object) -> None:
        clean.stages["pool"](**arguments)
        keys, starts = arguments["keys"], arguments["context_lens"]
        assert isinstance(keys, torch.Tensor)
        assert isinstance(starts, torch.Tensor)
        keys += float(starts.sum())

    def anything(*_args: object, **_options: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((2, 32), -1e9).bfloat16(), torch.full((2, 32), 1e9).bfloat16()

    clean = builtin()
    monkeypatch.setattr(
        stage.Pool,
        "_legal",
        lambda _self, _given, _request, groups, *_: tuple(each[: len(groups)] for each in anything()),
    )
    subject = InProcess(
        Implementation("shifted", {**clean.stages, "pool": shifted}), put_under_test(Setup()).subject.device
    )
    assert _finding_of(subject)
    look = look_at(CASE, SIGNATURE, subject)
    assert isinstance(look, ScheduleLook)
    assert look.wrong
    (picture, *_rest) = draw(look)
    assert picture.mark == (0, 0)
    assert look.wrong.finding.kind == schedules.KIND
    assert any("tl.store(keys_ptr" in line for line in look.sentences())


def _finding_of(subject: InProcess) -> bool:
    return any(f.kind == schedules.KIND for f in subject.ask(CASE, SIGNATURE).findings)
