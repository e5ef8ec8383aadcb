"""Narrowing: bring a drawn case inside a contract, changing no more than the contract asks for.

Strategies draw from the whole range that history suggests; a project promises less. Most of a campaign would be spent
outside its contract if single fields were not put back: each reason why a stage is left out is tried to be lifted by
one change. Fields that nobody needs go back to their defaults first, then others to what most projects promise.
"""

from collections.abc import Callable, Iterator

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import QUARTERS, Batch, Memory
from indexfuzz.core.contract import DEFINED, Clauses, Contract, of_other_forms, outside
from indexfuzz.core.part import CaseError
from indexfuzz.core.session import Session, SessionStep, Turn
from indexfuzz.implementations.base import Implementation

CHOICES: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    ("memory", "shift", (0, 16)),
    ("memory", "slots", ("int64", "int32")),
    ("batch", "lens", ("1d", "2d")),
    ("batch", "next_n", (1, 2)),
    ("model", "scale_fmt", ("ue8m0", "fp32")),
    ("model", "fp8", ("e4m3fn", "e4m3fnuz")),
    ("model", "k_norm", ("layer", "rms")),
    ("cache", "layout", ("auto", "shuffle", "normal")),
    ("cache", "page_pad", (0, 16)),
    ("rope", "placement", ("first", "last")),
    ("rope", "style", ("neox", "interleaved")),
    ("rope", "mode", ("inplace", "functional")),
    ("rope", "table", ("fp32", "bf16")),
    ("rope", "table", ("fp32", "bf16")),
    ("cache", "block_size", (64, 1, 16, 32, 128, 256)),
    ("model", "num_heads", (64, 32, 16, 128)),
    ("model", "rope_dim", (32, 16, 64)),
    ("model", "index_topk", (128, 2048)),
    ("session", "ratio", (4, 2, 8, 128)),
    ("session", "overlap", (True, False)),
    ("session", "pooling", ("softmax", "max")),
)
"""Part, field, and the values to try for it, where its default is not the only one that projects promise."""

OF_THE_REQUESTS = frozenset({"decode", "prefill", "max_model_len", "pad_tokens"})
"""Fields of a batch that say how large it is."""


def _changes() -> Iterator[tuple[str, str, tuple[object, ...]]]:
    """Every field of memory and batch back to its default, but for those above, which come last."""
    chosen = {(part, name) for part, name, _ in CHOICES}
    for part, kind in (("memory", Memory), ("batch", Batch)):
        for name, field in kind.model_fields.items():
            if (part, name) not in chosen and name not in OF_THE_REQUESTS:
                yield part, name, (field.default,)
    yield from CHOICES


CHANGES = tuple(_changes())
BLOCK_SIZES = next(values for _, name, values in CHOICES if name == "block_size")
HEAD_DIMS = (128, 64, 32, 512)

Steps = tuple[SessionStep, ...]


def narrow(case: Case, implementation: Implementation) -> Case:
    """The case, with as few fields changed as it takes to let more of an implementation's stages run.

    A case that a stage has to reject stays: rejecting it is what is tested.
    """
    contract = implementation.contract
    done: list[str] = []
    for stage in _in_turn(case, implementation):
        if outside(contract, stage, case) and not contract.must_reject(stage, case):
            inside = _inside(stage, case, contract)
            if inside and all(outside(contract, s, case) or not outside(contract, s, inside) for s in done):
                case = inside
        done.append(stage)
    return case


def _in_turn(case: Case, implementation: Implementation) -> tuple[str, ...]:
    """The stages in order, or the last one first: where two exclude each other, every other case is for either."""
    stages = tuple(implementation.stages)
    return stages[::-1] if case.values.seed % 2 else stages


def _inside(stage: str, case: Case, contract: Contract) -> Case | None:
    """The case after one change for each reason that keeps a stage out; None where no single change helps.

    A change may bring no new reason, as far as a contract tells all of them; it might not be undone.
    """
    reasons = [_reasons(contract, stage, case)]
    while reasons[-1]:
        last = reasons[-1]
        changed = next(
            (
                (changed, left)
                for changed in _askable(stage, case, contract)
                if (left := _reasons(contract, stage, changed)) < last
                or (not isinstance(contract, Clauses) and left not in reasons)
            ),
            None,
        )
        if changed is None:
            return None
        case = changed[0]
        reasons.append(changed[1])
    return case


def _askable(stage: str, case: Case, contract: Contract) -> Iterator[Case]:
    """The candidates with no scales, norm or dtype that a stage does not know, but those that the case has."""
    unknown = set(of_other_forms(contract, stage, case))
    return (c for c in candidates(case) if unknown.issuperset(of_other_forms(contract, stage, c)))


def _reasons(contract: Contract, stage: str, case: Case) -> frozenset[str]:
    """Why a stage does not take a case: all clauses that it breaks, or the one reason that a contract gives."""
    if isinstance(contract, Clauses):
        other = of_other_forms(contract, stage, case)
        return frozenset((*other, *contract.broken(stage, case), *Clauses(DEFINED).broken(stage, case)))
    why = outside(contract, stage, case)
    return frozenset((why,) if why else ())


def candidates(case: Case) -> Iterator[Case]:
    """The case with one change of the list each."""
    yield from _with_other_scales(case)
    # Keys that are gathered beside requests become a request.
    if case.batch.gather_pad and not case.batch.prefill:
        request = {"length": case.batch.gather_pad, "new": 0}
        yield from _changed(case, batch={"prefill": (request,), "gather_pad": 0, "gather_cut": 0})
    for part, name, values in CHANGES:
        now = getattr(getattr(case, part), name)
        for value in values:
            if value != now:
                yield from _changed(case, **{part: {name: value}})
    for change in (verified, in_whole_groups, verified_in_whole_groups, without_drafts) if case.session.steps else ():
        steps = change(case.session)
        longest = sum(turn.new + turn.drafts for step in steps for turn in step.turns)
        batch: dict[str, object] = {"max_model_len": max(case.batch.max_model_len, longest)}
        yield from _changed(case, session={"steps": tuple(step.model_dump() for step in steps)}, batch=batch)
    for dim in HEAD_DIMS:
        group = dim // QUARTERS if case.cache.scales == "mxfp4" else dim
        if (case.model.head_dim, case.model.quant_group) != (dim, group):
            rope_dim = min(case.model.rope_dim, dim)
            yield from _changed(case, model={"head_dim": dim, "quant_group": group, "rope_dim": rope_dim})
    # What "auto" means depends on the size, and what sizes there may be on the layout.
    for layout in (case.cache.page_layout, "normal"):
        for size in BLOCK_SIZES:
            yield from _changed(case, cache={"block_size": size, "layout": layout})


def _with_other_scales(case: Case) -> Iterator[Case]:
    """The case with scales of each other form, one for a key; of MXFP4 four."""
    for scales, groups in (("fp32", 1), ("ue8m0", 1), ("mxfp4", QUARTERS)):
        if scales != case.cache.scales:
            model: dict[str, object] = {"quant_group": case.model.head_dim // groups}
            if scales != "fp32":
                model["scale_fmt"] = "ue8m0"
            order = {"layout": "shuffle"} if case.cache.layout == "shuffle-scales" else {}
            yield from _changed(case, cache={"scales": scales, **order}, model=model)


def without_drafts(session: Session) -> Steps:
    """The steps of a session in which drafts that are accepted are tokens, and all others never were."""

    def change(turn: Turn, _start: int, _number: int) -> dict[str, int]:
        return {"new": turn.new + turn.accepted, "drafts": 0, "accepted": 0}

    return _with_turns(session, change)


def verified(session: Session) -> Steps:
    """The steps of a session in which drafts follow one token of a request that is there, and are as many each time."""

    def change(turn: Turn, start: int, _: int) -> dict[str, int]:
        if not turn.drafts:
            return {}
        return {"new": 1, "drafts": session.max_drafts} if start else {"drafts": 0, "accepted": 0}

    return _with_turns(session, change)


def in_whole_groups(session: Session) -> Steps:
    """The steps of a session in which chunks are whole groups, the last one of a request aside.

    A request that ends within a group takes one token a step.
    """
    ratio, last = session.ratio, dict[int, int]()
    for number, step in enumerate(session.steps):
        last |= {turn.request: number for turn in step.turns if turn.new > 1 and not turn.drafts}

    def change(turn: Turn, start: int, number: int) -> dict[str, int]:
        if turn.new <= 1 or turn.drafts:
            return {}
        if start % ratio:
            return {"new": 1}
        return {} if number == last[turn.request] else {"new": max(turn.new // ratio, 1) * ratio}

    return _with_turns(session, change)


def verified_in_whole_groups(session: Session) -> Steps:
    """The steps of a session after both changes."""
    return in_whole_groups(session.model_copy(update={"steps": verified(session)}))


def _with_turns(session: Session, change: Callable[[Turn, int, int], dict[str, int]]) -> Steps:
    """The steps of a session with other turns: told a turn, the tokens before it and its step, `change` says how."""
    lengths, steps = dict[int, int](), []
    for number, step in enumerate(session.steps):
        lengths |= {fork.child: lengths[fork.parent] for fork in step.forks}
        turns = []
        for turn in step.turns:
            start = lengths.get(turn.request, 0)
            changed = turn.model_copy(update=change(turn, start, number))
            turns.append(changed)
            lengths[turn.request] = start + changed.new + changed.accepted
        for request in step.free:
            del lengths[request]
        steps.append(step.model_copy(update={"turns": tuple(turns)}))
    return tuple(steps)


def _changed(case: Case, **parts: dict[str, object]) -> Iterator[Case]:
    for more in ({}, {"page_pad": 0}):
        try:
            yield case.replace(**parts | {"cache": parts.get("cache", {}) | more})
        except CaseError:
            continue
        return
