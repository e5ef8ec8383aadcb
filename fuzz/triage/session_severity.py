"""How much a bug of a session costs: what is selected among the keys that an implementation leaves in the cache.

The story of the session stays as it is, but every request begins with hundreds of keys more, which come in a step of
their own. So what spoils one key is one of hundreds, and what spoils all of them is all: a bug that comes again with
every chunk or draft costs as many times more as that happens. The queries are drawn; they see the keys which the
implementation says are visible, as far as the request has them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import outside
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.part import CaseError
from indexfuzz.core.rng import derive
from indexfuzz.core.session import SessionStep, Turn, follow, lengths_at_end
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import schedules, sessions
from indexfuzz.oracles.differential import run_stage
from indexfuzz.oracles.launching import describe_error, launch
from indexfuzz.oracles.walk import fill_in, function_for
from indexfuzz.reference.indexer import topk
from indexfuzz.reference.mqa_logits import mqa_logits
from indexfuzz.reference.quant import q_quant
from indexfuzz.samples import regimes
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import GATHER
from indexfuzz.triage.recall import FEWEST, SHARE, Recall, SeverityError, shared

KEYS = 512
"""Keys added to each request."""

QUERIES, HEADS = 64, 64
"""Queries of each request, and heads of a published model."""


def grow_session(case: Case) -> Case:
    """The session with hundreds of keys more in each request, in whole pages, and nearly Gaussian values.

    Raises SeverityError where every token is a key of its own, and when the case cannot hold more keys.
    """
    session, wanted = case.session, KEYS
    if session.node == "none":
        raise SeverityError(
            "recall of sessions is measured where a key stands for several tokens; see `indexfuzz show`"
        )
    while wanted >= FEWEST:
        more = -(-wanted // case.cache.block_size) * case.cache.block_size * session.ratio
        values: dict[str, object] = dict.fromkeys(("q", "k", "weights", "cache", "rope"), "normal")
        steps = [step.model_dump() for step in _longer(case, more)]
        try:
            grown = case.replace(
                session={"steps": tuple(steps)}, batch={"max_model_len": case.batch.max_model_len + more}, values=values
            )
        except CaseError:
            wanted //= 2
            continue
        fewest = min((keys for keys in keys_at_end(grown).values() if keys >= FEWEST), default=0)
        return grown.replace(model={"num_heads": HEADS, "index_topk": max(fewest // SHARE, 1)})
    raise SeverityError("its requests cannot hold enough keys for a choice")


def _longer(case: Case, more: int) -> list[SessionStep]:
    """The steps, and before those in which requests come, one that appends so many tokens to each of these.

    A fork has those of its parent. The drafts of the last step are right: what it leaves is looked at as its own
    queries see it.
    """
    there, steps = set[int](), list[SessionStep]()
    for step in case.session.steps:
        there |= {fork.child for fork in step.forks}
        if new := [turn.request for turn in step.turns if turn.request not in there]:
            steps.append(
                SessionStep.model_construct(
                    turns=tuple(Turn.model_construct(request=request, new=more) for request in new)
                )
            )
        there = (there | set(new)) - set(step.free)
        steps.append(step)
    last = tuple(turn.model_copy(update={"accepted": turn.drafts}) for turn in steps[-1].turns)
    return [*steps[:-1], steps[-1].model_copy(update={"turns": last, "free": ()})]


def keys_at_end(case: Case) -> dict[int, int]:
    """The keys of each request that is there after the last step of a session."""
    return {number: length // case.session.ratio for number, length in lengths_at_end(case.session).items()}


@dataclass
class _Left:
    """What a session leaves: keys of all requests in turn, and how many of them the last token of each may see."""

    k_fp8: Tensor
    k_scale: Tensor
    visible: dict[int, int]


class _RaisedError(Exception):
    """A step of the implementation raised something."""


def recall_session(
    case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()
) -> Recall:
    """Run a grown session twice, and compare what is selected among the keys that it leaves.

    Once a step that is wrong is done again by the reference, once it is left as it is. Keys that are right are the same
    both times, to the bit, however they were rounded. `only` names the operations to take from the implementation.

    Raises SeverityError when no request has a choice of keys at its end, the operation that makes them promises nothing
    about the grown session, or its pages have no layout.
    """
    maker = schedules.maker_of(case)
    if said := outside(implementation.contract, maker, case):
        raise SeverityError(f"the session with more keys lies outside the contract: {said}")
    if not case.has_layout(case.cache.page_layout):
        raise SeverityError("no layout is defined for the pages of the session, so nothing can be read from them")

    def launch_plainly(stage: Stage, step: Step, call: Call) -> dict[str, Tensor]:
        function = function_for(stage.name, step.case, implementation, only)
        if function is None:
            return fill_in(stage, call)
        launched = launch(stage.name, call, function, device)
        if launched.error:
            raise _RaisedError(describe_error(launched.error))
        return launched.outputs

    def trust(stage: Stage, step: Step, call: Call) -> dict[str, Tensor]:
        return run_stage(stage, step, implementation, device, Outcome(case), only, call)[1]

    right, failed = _leave(case, implementation, device, trust), ""
    got: _Left | None = None
    try:
        got = _leave(case, implementation, device, launch_plainly)
    except _RaisedError as error:
        failed = str(error)
    shares, blind, at = [], [], 0
    for number, keys in keys_at_end(case).items():
        if keys > case.model.index_topk:
            selected = _select(case, right, slice(at, at + keys), right.visible[number])
            mine = torch.full_like(selected, -2)
            if got:
                mine = _select(case, got, slice(at, at + keys), got.visible.get(number, 0))
            shares.append(shared(selected, mine))
            blind.append(torch.full((len(selected),), case.model.index_topk / keys, dtype=torch.float64))
        at += keys
    return Recall.of(case, shares, blind, failed)


def _leave(case: Case, implementation: Implementation, device: Device, run: sessions.Do) -> _Left:
    """What a session leaves whose stages are done in one way."""
    visible = dict[int, int]()
    rows, forks = iter([*follow(case.session)]), iter([step.forks for step in case.session.steps])

    def do(stage: Stage, step: Step, call: Call) -> dict[str, Tensor]:
        outputs = run(stage, step, call)
        if stage.name == case.session.node:
            visible.update({fork.child: visible.get(fork.parent, 0) for fork in next(forks)})
            at = 0
            for row in next(rows):
                if row.length > row.start:
                    visible[row.request] = int(outputs["visible"][at + row.length - row.start - 1])
                at += row.tokens
        return outputs

    for _, stage, step, call in sessions.launches(case, device, implementation, do=do):
        if stage is GATHER:
            gathered = do(stage, step, call)
            return _Left(gathered["k_fp8"].cpu(), gathered["k_scale"].cpu(), visible)
    raise SeverityError("no request of the session has a key at its end")


def _select(case: Case, left: _Left, keys: slice, visible: int) -> Tensor:
    """The selections int32 [QUERIES, k] among these keys; what is NaN is nobody's choice."""
    model, key = case.model, derive(case.values.seed, "queries")
    q = regimes.dense("normal", key, (QUERIES * model.num_heads, model.head_dim), model.fp8).bfloat16()
    weights = regimes.dense("normal", derive(key, "weights"), (QUERIES, model.num_heads), model.fp8)
    q_fp8, q_weights = q_quant(q.view(QUERIES, model.num_heads, -1), weights, scale_fmt=model.scale_fmt, fp8=model.fp8)
    k_fp8, k_scale = left.k_fp8[keys], left.k_scale[keys]
    ends = torch.full((QUERIES,), min(max(visible, 0), len(k_fp8)), dtype=torch.int32)
    logits = torch.empty(QUERIES, len(k_fp8))
    mqa_logits(q_fp8, k_fp8, k_scale, q_weights, torch.zeros_like(ends), ends, logits)
    return topk(logits.masked_fill(logits.isnan(), float("-inf")), index_topk=case.model.index_topk)
