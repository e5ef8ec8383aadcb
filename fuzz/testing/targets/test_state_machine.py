"""Fuzz target: a paged cache in use, against a dictionary; pages are freed, used again, overwritten, read."""

import zlib
from typing import Any

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.core.finding import Finding, error_for
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE, PAGED_LOGITS
from indexfuzz.oracles.cache_machine import PagedCache
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.testing.session import current_session

STEPS = 12
SEQUENCES = 2

POOLS = {1: 24, 16: 4, 48: 3, 64: 3}
"""block_size -> pages: few enough that they are soon used again."""

sequences = st.integers(0, SEQUENCES - 1)
counts = st.sampled_from((1, 2, 15, 16, 17, 33))
seeds = st.integers(0, 1 << 16)
subsets = st.sampled_from(((0, 1), (1, 0), (1,)))


class PagedCacheMachine(RuleBasedStateMachine):
    """Rules draw small numbers; `indexfuzz.oracles.cache_machine` does the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: PagedCache | None = None

    @initialize(
        block_size=st.sampled_from(tuple(POOLS)),
        layout=st.sampled_from(("auto", "normal")),
        page_pad=st.sampled_from((0, 132)),
        scale_fmt=st.sampled_from(("ue8m0", "fp32")),
    )
    def start(self, block_size: int, **cache_or_model: Any) -> None:
        """An empty pool."""
        subject = current_session().under_test.subject
        if not isinstance(subject, InProcess):
            pytest.skip("the state machine runs in this process only: --no-fuzz-isolate")
        scale_fmt = cache_or_model.pop("scale_fmt")
        case = Case().replace(
            model={"num_heads": 2, "scale_fmt": scale_fmt},
            cache={"block_size": block_size, "spare_blocks": POOLS[block_size], **cache_or_model},
            batch={"max_model_len": 70},
        )
        promise = subject.implementation.contract
        if all(covers(promise, stage, case) for stage in (K_QUANT_CACHE, GATHER, PAGED_LOGITS)):
            self.pool = PagedCache(case, subject.implementation, subject.device)

    @rule(sequence=sequences, count=counts, drawn=seeds)
    def append(self, sequence: int, count: int, drawn: int) -> None:
        """A sequence grows, or begins."""
        if self.pool:
            self._raise_new(self.pool.append(sequence, count, drawn))

    @rule(sequence=sequences, first=st.integers(0, 40), count=counts, drawn=seeds)
    def overwrite(self, sequence: int, first: int, count: int, drawn: int) -> None:
        """Some of its tokens are written again."""
        if self.pool:
            self._raise_new(self.pool.overwrite(sequence, first, count, drawn))

    @rule(sequence=sequences, length=st.sampled_from((0, 0, 1, 16, 17)))
    def truncate(self, sequence: int, length: int) -> None:
        """It is cut back, or goes; its pages are free."""
        if self.pool:
            self.pool.truncate(sequence, length)

    @rule(chosen=subsets, drawn=seeds)
    def read(self, chosen: tuple[int, ...], drawn: int) -> None:
        """Keys are gathered, and a query is scored against them."""
        if self.pool:
            self._raise_new(self.pool.gather(chosen) + self.pool.score(chosen, drawn))

    def _raise_new(self, findings: list[Finding]) -> None:
        for finding in findings:
            if finding.signature not in current_session().known:
                raise error_for(finding)


_INDEX, _OF = current_session().options.shard
if _OF > 1:
    seed(zlib.crc32(f"PagedCacheMachine {_INDEX}/{_OF}".encode()))(PagedCacheMachine)

TestPagedCache = PagedCacheMachine.TestCase
TestPagedCache.settings = settings(stateful_step_count=STEPS)
