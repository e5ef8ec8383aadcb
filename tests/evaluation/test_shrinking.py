"""The minimiser beside the plainest way to make cases small: sizes, counts, and what is said of them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.evaluation.bench import shrinking
from indexfuzz.evaluation.bench.greedy import reduce_plainly
from indexfuzz.evaluation.bench.shrinking import Size, measure_both, shrink, tell
from indexfuzz.triage.reductions import reduce_until_stuck

WRONG = Finding("gather", "code-mismatch", "k_fp8", "wrong")
CASE = Case().replace(
    model={"num_heads": 8, "head_dim": 64, "quant_group": 64},
    cache={"block_size": 16},
    batch={"prefill": ({"length": 65, "new": 3},) * 3, "decode": (3, 9), "max_model_len": 16},
    rope={"mode": "functional"},
)
STEPS = (
    {"turns": ({"request": 0, "new": 3}, {"request": 1, "new": 2, "drafts": 2}), "pad_tokens": 3},
    {"forks": ({"parent": 0, "child": 2},), "turns": ({"request": 0, "new": 5},), "free": (1,)},
)
SESSION = Case().replace(batch={"max_model_len": 8}, session={"node": "compress", "ratio": 2, "steps": STEPS})


def wrong_where(is_wrong: Callable[[Case], Any]) -> Any:
    """A subject whose gather is wrong where something holds."""

    def ask(case: Case, *_: object) -> Outcome:
        return Outcome(case, [WRONG] if is_wrong(case) else [], ["gather"])

    facts, same = SimpleNamespace(name="wrong"), lambda case: case
    return SimpleNamespace(
        facts=facts, unrepeated=(), rehearses=False, narrow=same, rehearse=lambda *_: {}, run=ask, ask=ask
    )


@pytest.mark.parametrize("way", [reduce_until_stuck, reduce_plainly])
def test_both_ways_come_to_their_end_at_a_case_that_shows_it(way: Any):
    def is_wrong(case: Case) -> bool:
        return any(prefill.length > 20 for prefill in case.batch.prefill) and case.rope.mode == "functional"

    small, finding, shrunk = shrink(CASE, wrong_where(is_wrong), WRONG.signature, way)
    assert is_wrong(small)
    assert finding.signature == WRONG.signature
    assert [prefill.length for prefill in small.batch.prefill] == [21]
    assert (shrunk.size, shrunk.is_done) == (Size.of(small), True)
    assert shrunk.asked > 10


def test_the_plain_way_takes_steps_of_sessions():
    subject = wrong_where(lambda case: any(step.forks for step in case.session.steps))
    small, _, _ = shrink(SESSION, subject, WRONG.signature, reduce_plainly)
    first, second = small.session.steps
    assert [len(step.turns) for step in (first, second)] == [1, 0]
    assert (first.pad_tokens, second.free, len(second.forks)) == (0, (), 1)


def test_a_way_that_has_no_time_left_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shrinking, "SECONDS", 0.0)
    small, _, shrunk = shrink(CASE, wrong_where(lambda _: True), WRONG.signature, reduce_plainly)
    assert (small, shrunk.is_done) == (CASE, False)


def test_sizes_and_counts_are_told_side_by_side():
    subject = wrong_where(lambda case: case.rope.mode == "functional")
    small, _, both = measure_both(CASE, subject, Signature.parse("gather/code-mismatch/k_fp8"))
    assert both["order"] in ("same", "smaller", "larger")
    sizes = {"steps": 0, "tokens": 11, "requests": 5, "heads": 8, "dims": 64, "special": Size.of(CASE).special}
    assert both["found"] == sizes
    assert both["minimised"]["asked"] < both["plain"]["asked"]
    text = "\n".join(tell([both, {**both, "found": {**both["found"], "tokens": 31}}]))
    assert f"| tokens | 21 (31) | {Size.of(small).tokens:g} ({Size.of(small).tokens}) |" in text
    assert "| came to its end | | 2 | 2 |" in text


def test_the_size_of_a_session_is_that_of_all_its_steps():
    size = Size.of(SESSION)
    assert (size.steps, size.tokens, size.requests) == (2, 3 + 4 + 3 + 5, 3)
    assert Size.of(Case()).special == 0
