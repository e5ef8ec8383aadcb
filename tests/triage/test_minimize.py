"""The minimiser: small results, the same signature, and an error when there is nothing to minimise."""

import math
from dataclasses import replace
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.generation.stream import stream_cases
from indexfuzz.reference import cache, paged_mqa_logits
from indexfuzz.samples.regimes import TENSORS
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.descent import RUNS, leave_out, lower
from indexfuzz.triage.minimize import NotFailingError, minimise
from indexfuzz.triage.order import is_smaller
from indexfuzz.triage.reductions import REDUCTIONS
from indexfuzz.triage.smallest import Smallest

BIG = Case().replace(
    model={"num_heads": 16, "head_dim": 128, "rope_dim": 64, "quant_group": 128, "scale_fmt": "fp32"},
    cache={"block_size": 32, "pages": "permuted", "spare_blocks": 3, "page_pad": 132, "shared_prefix": True},
    batch={
        "decode": (40, 3, 65),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 300,
        "pad_tokens": 2,
        "gather_pad": 2,
        "lens": "2d",
    },
    rope={"style": "interleaved", "mode": "inplace"},
    memory={"k_pad": 16, "table_pad": 5, "table_tail": "huge"},
    values={"seed": 12345},
)


def always_normal(k, cache_, slot_mapping, **options):
    cache.k_quant_cache(k, cache_, slot_mapping, **(options | {"layout": "normal"}))


def test_a_layout_bug_ends_at_one_token(reference_with, pytorch_device):
    def broken(k, cache, slot_mapping, **options):
        always_normal(k, cache, slot_mapping, **options)

    subject = InProcess(reference_with(k_quant_cache=broken), pytorch_device)
    small, finding = minimise(
        BIG, subject, Signature("k_quant_cache", "layout-mismatch", "cache_values"), seconds=math.inf
    )
    assert str(finding.signature) == "k_quant_cache/layout-mismatch/cache_values"
    assert len(small.lengths) == 1
    assert small.batch.tokens <= 2
    assert small.model.num_heads == 1
    assert small.model.head_dim == 32
    assert small.cache.block_size == 16
    assert small.values.seed == 0


def test_a_bug_of_long_contexts_keeps_its_length(reference_with, pytorch_device):
    def forgetful(logits, context_lens, **given):
        paged_mqa_logits.paged_mqa_logits(logits=logits, context_lens=context_lens.clamp_max(64), **given)

    subject = InProcess(reference_with(paged_logits=forgetful), pytorch_device)
    small, _ = minimise(BIG, subject, Signature.parse("paged_logits/mask-mismatch/logits"), seconds=math.inf)
    assert small.batch.decode == (65,)
    assert small.batch.prefill == ()


def test_nothing_to_minimise(reference_with, pytorch_device):
    with pytest.raises(NotFailingError, match=r"does not show gather/crash"):
        minimise(Case(), InProcess(reference_with(), pytorch_device), Signature("gather", "crash", "RuntimeError"))


SIGNATURE = Signature("rope", "code-mismatch", "q")


class Showing:
    """A subject whose cases show a signature where a condition holds; `asked`: what its stage was asked about alone."""

    facts = SimpleNamespace(name="showing")

    def __init__(self, condition, signature=SIGNATURE):
        self._condition = condition
        self.signature = signature
        self.asked = []

    def run(self, case):
        return self.ask(case, self.signature)

    def ask(self, case, signature, only=frozenset()):
        assert only in (frozenset(), {signature.stage})
        if only:
            self.asked.append(case)
        found = [Finding(signature.stage, signature.kind, signature.output, "differs")] if self._condition(case) else []
        return Outcome(case, found)


def smallest_that(condition, case):
    """The minimal case, and the number of questions that it took; every step made it smaller."""
    subject, steps = Showing(condition), [case]
    small, _ = minimise(case, subject, SIGNATURE, seconds=math.inf, on_progress=lambda step, _: steps.append(step))
    assert all(is_smaller(after, before) for before, after in pairwise(steps))
    assert small == steps[-1]
    assert len({asked.id for asked in subject.asked}) == len(subject.asked)
    return small, len(subject.asked)


def test_a_hint_that_only_the_larger_case_gives_is_kept():
    class Hinting(Showing):
        def ask(self, case, signature, only=frozenset()):
            hint = "every wrong value is 2 times the right one" if case.batch.tokens > 20 else ""
            (finding,) = super().ask(case, signature, only).findings
            return Outcome(case, [replace(finding, hint=hint)])

    heard = []
    _, found = minimise(
        BIG, Hinting(lambda _case: True), SIGNATURE, seconds=math.inf, on_progress=lambda _, f: heard.append(f)
    )
    assert found.detail == "differs; in a larger case, every wrong value is 2 times the right one"
    assert found == heard[-1]


def test_a_hint_that_the_smaller_case_gives_the_lie_is_dropped():
    class Hinting(Showing):
        def ask(self, case, signature, only=frozenset()):
            hint, got = ("every wrong value is 4 times the right one", "4") if case.batch.tokens > 20 else ("", "32")
            (finding,) = super().ask(case, signature, only).findings
            return Outcome(case, [replace(finding, hint=hint, got=got, want="1")])

    _, found = minimise(BIG, Hinting(lambda _case: True), SIGNATURE, seconds=math.inf)
    assert (found.detail, found.hint) == ("differs", "")


def test_a_hint_of_the_smaller_case_stands_alone():
    large, small = (Finding("rope", "code-mismatch", "q", "differs", hint=hint) for hint in ("large", "small"))
    assert small.with_hint_of(large) == small
    assert replace(small, hint="").with_hint_of(replace(large, hint="")).detail == "differs"


def test_many_requests_end_at_as_many_as_it_takes():
    lengths = tuple((i * 37) % 250 for i in range(200))
    case = BIG.replace(batch={"decode": lengths, "next_n": 1, "lens": "1d"})
    small, questions = smallest_that(lambda case: len(case.lengths) >= 65, case)
    assert small == Case().replace(
        model={"head_dim": 16, "rope_dim": 2, "quant_group": 16, "index_topk": 1},
        batch={"decode": (0,) * 65},
        values=dict.fromkeys(TENSORS, "zeros"),
    )
    assert questions < 120


def test_a_long_context_ends_at_what_it_takes():
    case = BIG.replace(batch={"decode": (4000,), "prefill": (), "max_model_len": 5000})
    small, questions = smallest_that(lambda case: max(case.lengths, default=0) >= 2049, case)
    assert (small.batch.decode, small.batch.prefill, small.batch.max_model_len) == ((2049,), (), 2049)
    assert questions < 120


def test_tokens_that_are_not_needed_go():
    prefill = tuple({"length": 40, "new": 2 + i % 2} for i in range(65))
    case = Case().replace(batch={"prefill": prefill, "pad_tokens": 1})
    small, _ = smallest_that(lambda case: len(case.lengths) >= 65, case)
    assert small.batch.tokens == 0
    small, _ = smallest_that(lambda case: sum(p.new > 0 for p in case.batch.prefill) >= 65, case)
    assert (len(small.lengths), small.batch.tokens, sum(small.lengths)) == (65, 65, 65)


def test_rows_of_many_requests_end_in_one():
    prefill = tuple({"length": 40, "new": 30} for _ in range(6))
    small, _ = smallest_that(lambda case: case.batch.prefill_rows >= 129, BIG.replace(batch={"prefill": prefill}))
    assert [(p.length, p.new) for p in small.batch.prefill] == [(129, 129)]
    assert small.batch.decode == ()


def test_a_pool_that_has_to_be_large_stays_so_with_one_request():
    case = Case().replace(batch={"decode": (40, 50, 60), "max_model_len": 64})
    small, _ = smallest_that(lambda case: case.num_blocks >= 70, case)
    assert (small.lengths, small.cache.spare_blocks) == ((), 70)


def test_when_time_is_up_the_smallest_so_far_is_the_result():
    subject = Showing(lambda case: True)
    assert minimise(BIG, subject, SIGNATURE, seconds=0.0)[0] == BIG
    assert len(subject.asked) == 1


@pytest.mark.parametrize("alone", [lambda _: False, lambda _: True], ids=["never alone", "alone more often"])
def test_what_needs_other_stages_is_made_smaller_with_all_of_them(alone):
    class Together(Showing):
        def ask(self, case, signature, only=frozenset()):
            self._condition = alone if only else (lambda case: case.batch.prefill_rows >= 3)
            return super().ask(case, signature, only)

    small, _ = minimise(BIG, Together(None), SIGNATURE, seconds=math.inf)
    assert small.batch.prefill_rows == 3


def test_a_hang_that_ends_after_all_is_none():
    hang = Signature("rope", "hang")
    subject = Showing(lambda case: True, hang)
    assert minimise(BIG, subject, hang, seconds=math.inf)[0].lengths == ()
    subject.run = Outcome
    with pytest.raises(NotFailingError, match="takes long on showing, but it ends"):
        minimise(BIG, subject, hang, seconds=0.0)


class Proposals(Smallest):
    """Notes every case that a reduction proposes beside the one it is proposed for."""

    def __init__(self, case, shows):
        super().__init__(case, shows)
        self.seen = []

    def take_case(self, candidate):
        self.seen.append((candidate, self.case))
        return super().take_case(candidate)


THIN = Case().replace(
    batch={"decode": (3,), "max_model_len": 3}, values={"set": {"k": ((0, 1, "0x1.8p+1"), (0, 2, "0x1.0p+0"))}}
)
DRAWN = [BIG, THIN, *islice(stream_cases(11, ("e4m3fn", "e4m3fnuz")), 40)]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.__name__)
@pytest.mark.parametrize("shows", [lambda _: False, lambda case: int(case.id, 16) % 2 == 0], ids=["none", "half"])
def test_what_reductions_propose_is_smaller(reduction, shows):
    proposed = 0
    for case in DRAWN:
        smallest = Proposals(case, shows)
        reduction(smallest)
        assert all(candidate == now or is_smaller(candidate, now) for candidate, now in smallest.seen)
        assert all(Case.parse(candidate.model_dump(mode="json")) == candidate for candidate, _ in smallest.seen[:3])
        proposed += sum(candidate != now for candidate, now in smallest.seen)
    assert proposed


def test_a_larger_case_is_never_taken():
    smallest = Smallest(Case(), lambda _: True)
    assert not smallest.take(batch={"pad_tokens": 1})
    assert not smallest.take(model={"num_heads": 0})
    assert smallest.case == Case()


@pytest.mark.parametrize(
    "more",
    [
        {"batch": {"decode": (0, 0)}, "model": {"num_heads": 1}},
        {"batch": {"decode": (1,), "pad_tokens": 1}},
        {"batch": {"decode": (2,), "max_model_len": 2}},
        {"model": {"num_heads": 3}},
        {"model": {"head_dim": 64}},
        {"cache": {"block_size": 2}},
        {"cache": {"spare_blocks": 1}},
        {"memory": {"lens_step": 2}},
        {"rope": {"mode": "inplace"}},
        {"values": {"cache": "normal"}},
        {"values": {"set": {"q": ((0, 0, 0, "0x1.0p+1"), (0, 0, 1, "0x1.0p+1"))}}},
        {"values": {"seed": 1}},
    ],
    ids=str,
)
def test_what_counts_as_smaller(more):
    case = Case().replace(
        model={"num_heads": 2},
        batch={"decode": (1,)},
        values={"cache": "exact", "set": {"q": ((0, 0, 0, "0x1.0p+1"),)}},
    )
    assert is_smaller(case, case.replace(**more))
    assert not is_smaller(case.replace(**more), case)
    assert not is_smaller(case, case)


class TestDescent:
    @pytest.mark.parametrize("bound", [0, 1, 2, 63, 64, 65, 1000, 2049, 3999, 4000])
    def test_a_bound_is_found_in_few_questions(self, bound):
        asked = []
        assert lower(4000, 0, lambda value: asked.append(value) or value >= bound) == bound
        assert len(asked) <= 2 * 12 + 1

    def test_a_remainder_is_kept(self):
        assert lower(72, 0, lambda value: value % 16 == 8) == 8

    @pytest.mark.parametrize("needed", [(), (0,), (999,), (0, 999), (17, 400, 401, 830)], ids=str)
    def test_what_is_needed_is_left_in_few_questions(self, needed):
        asked = []
        left = leave_out(range(1000), lambda rest: asked.append(rest) or set(needed) <= set(rest))
        assert tuple(left) == needed
        assert len(asked) <= 2 * 10 * (len(needed) + 2)

    def test_many_needed_items_take_no_more_questions(self):
        asked = []
        left = leave_out(range(1000), lambda rest: asked.append(rest) or len(rest) >= 650)
        assert len(left) == 650
        assert len(asked) <= 2 * 2 * 10 + RUNS


@pytest.mark.parametrize(("shows_alone", "heads"), [(0, 1), (BIG.model.num_heads, BIG.model.num_heads)])
def test_what_follows_from_another_is_made_smaller_where_the_first_case_shows_it_so(shows_alone, heads):
    cause, symptom = (Finding("gather", *what, "") for what in (("race", "k_fp8"), ("code-mismatch", "k_fp8")))

    def ask(case, *_):
        both = Outcome(case, [cause], ["gather"], consequences=[symptom])
        return Outcome(case, [symptom], ["gather"]) if case.model.num_heads == shows_alone else both

    subject = SimpleNamespace(ask=ask, facts=SimpleNamespace(name="toy"))
    small, finding = minimise(BIG, subject, symptom.signature, seconds=math.inf)
    assert (small.model.num_heads, finding) == (heads, symptom)
