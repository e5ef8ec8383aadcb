"""The paged cache in use: silent on the reference and the kernels, and stale or lost pages are found."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from indexfuzz.core.case import Case
from indexfuzz.core.finding import FindingError
from indexfuzz.core.setup import Setup
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles.cache_machine import PagedCache
from indexfuzz.reference import cache as writer
from indexfuzz.reference import gather as gatherer
from indexfuzz.reference import paged_mqa_logits
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.testing.options import Options
from indexfuzz.testing.session import FuzzSession
from indexfuzz.testing.targets import test_state_machine as target

CASE = Case().replace(cache={"block_size": 16, "spare_blocks": 4}, batch={"max_model_len": 50})
FEW = settings(
    max_examples=60,
    stateful_step_count=target.STEPS,
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=tuple(HealthCheck),
    print_blob=False,
    report_multiple_bugs=False,
)


def everyday_life(pool):
    """A little of everything; pages 0 to 3, used twice."""
    found = pool.append(0, 20, 1) + pool.append(1, 16, 2) + pool.gather([0, 1])
    found += pool.overwrite(0, 5, 12, 3) + pool.score([1, 0], 4)
    pool.truncate(0, 0)
    found += pool.append(2, 33, 5) + pool.append(1, 1, 6) + pool.gather([2, 1]) + pool.score([2, 1], 7)
    pool.truncate(2, 17)
    return found + pool.append(2, 3, 8) + pool.gather([2]) + pool.score([0, 2], 9)


class Remembers:
    """A gather that keeps the pages it has read, and reads no page twice."""

    def __init__(self):
        self.pages = {}

    def __call__(self, *, cache, block_table, **rest):
        seen = cache.clone()
        for page in block_table.unique().tolist():
            if 0 <= page < len(cache):
                self.pages.setdefault(page, cache[page].clone())
                seen[page] = self.pages[page]
        gatherer.gather(cache=seen, block_table=block_table, **rest)


def always_writes_a_whole_page(*, cache, slot_mapping, **rest):
    writer.k_quant_cache(cache=cache, slot_mapping=slot_mapping, **rest)
    page = int(slot_mapping[0]) // cache.shape[1]
    if int(slot_mapping[0]) % cache.shape[1] == 0:
        cache[page].view(-1)[-4:] = 0


def tidies_up(*, cache, logits, **rest):
    """A reader that clears what it has read."""
    paged_mqa_logits.paged_mqa_logits(cache=cache, logits=logits, **rest)
    cache[0, 0, :4] = 0


@pytest.mark.parametrize("changes", [{}, {"block_size": 1, "spare_blocks": 60}, {"layout": "normal", "page_pad": 132}])
@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_everyday_life_shows_nothing(changes, fp8, reference_with, pytorch_device):
    case = CASE.replace(cache=changes, model={"fp8": fp8, "scale_fmt": "fp32"})
    assert everyday_life(PagedCache(case, reference_with(), pytorch_device)) == []
    pool = PagedCache(case, builtin(), LockstepDevice())
    assert everyday_life(pool) == []
    tokens = sum(tokens.length for tokens in pool.sequences.values())
    assert int(pool._defined.sum()) == tokens * (case.model.head_dim + 4)


def test_a_stale_page_is_found(reference_with, pytorch_device):
    found = everyday_life(PagedCache(CASE, reference_with(gather=Remembers()), pytorch_device))
    assert str(found[0].signature) == "gather/code-mismatch/k_fp8"
    assert "truncate(0, 0), append(2, 33)" in found[0].detail


@pytest.mark.parametrize(
    ("stage", "function", "signature"),
    [
        ("k_quant_cache", always_writes_a_whole_page, "k_quant_cache/code-mismatch/cache_scales"),
        ("paged_logits", tidies_up, "paged_logits/input-mutated/cache"),
    ],
)
def test_bytes_lost_are_found_and_put_back(stage, function, signature, reference_with, pytorch_device):
    pool = PagedCache(CASE, reference_with(**{stage: function}), pytorch_device)
    assert signature in {str(finding.signature) for finding in everyday_life(pool)}
    assert pool._cache.first_change(payload_may_change=False) is None


def test_an_exception_is_a_crash(reference_with, pytorch_device):
    def fails(**_):
        raise RuntimeError("boom")

    pool = PagedCache(CASE, reference_with(gather=fails), pytorch_device)
    pool.append(0, 3, 1)
    assert [str(finding.signature) for finding in pool.gather([0])] == ["gather/crash/RuntimeError"]


def test_freed_pages_are_used_again(reference_with, pytorch_device):
    pool = PagedCache(CASE, reference_with(), pytorch_device)
    pool.append(0, 40, 1)
    pages = list(pool.sequences[0].pages)
    pool.truncate(0, 0)
    pool.append(1, 40, 2)
    assert sorted(pool.sequences[1].pages) == sorted(pages)
    pool.append(1, 100, 3)
    assert pool.sequences[1].length == 50


MANY = settings(FEW, max_examples=600)
"""Enough that whether a bug is found does not hang on the seed."""


def machine_on(make, device, monkeypatch, examples=FEW):
    """Run the state machine on an implementation that `make` makes anew for every run."""

    class Anew(FuzzSession):
        known = frozenset()

        @property
        def under_test(self):
            return UnderTest(InProcess(make(), device), Setup("planted"))

    monkeypatch.setattr(target, "current_session", lambda: Anew(Options()))
    run_state_machine_as_test(target.PagedCacheMachine, settings=examples)


def test_the_machine_is_silent_on_the_reference(reference_with, pytorch_device, monkeypatch):
    machine_on(reference_with, pytorch_device, monkeypatch)


def test_the_machine_finds_the_stale_page_and_shrinks_it(reference_with, pytorch_device, monkeypatch):
    with pytest.raises(FindingError) as error:
        machine_on(lambda: reference_with(gather=Remembers()), pytorch_device, monkeypatch, MANY)
    assert str(error.value.finding.signature).startswith("gather/")
    steps = error.value.finding.detail.split("; after ")[1]
    assert steps.count("gather") == 2
    assert steps.count("(") <= 5
