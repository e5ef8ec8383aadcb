"""The same histories under another schedule leave the same bytes.

The tokens of every request that is there at the end of a session are cut into other chunks, with other drafts after
them, on other pages; every key must have the same bytes. One chunk of all tokens is one of these schedules, a step for
every token another.
"""

from collections.abc import Iterator
from dataclasses import replace

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import below, bits, derive
from indexfuzz.core.session import MAX_STEPS, lengths_at_end
from indexfuzz.core.session_words import tell_chunks
from indexfuzz.core.stage_names import K_QUANT_CACHE
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.sessions import serve
from indexfuzz.reference import layout
from indexfuzz.samples.serving import MakeTokens, Serving

KIND = "metamorphic/schedule"
STEPS = 6
"""Steps of another schedule at most, but for one that takes a step for every token."""


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Run a session and another schedule of its requests, which its seed draws; raises as `sessions.run` does."""
    outcome, first = serve(case, implementation, device, only)
    if outcome.findings or not first.requests:
        return outcome
    return compare(first, twin_of(case), implementation, device, only)


def compare(
    first: Serving, twin: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()
) -> Outcome:
    """Run another schedule of the requests that are there, and compare the bytes of all their keys.

    Nothing is compared where the schedule has a step outside the contract: what the reference filled in is nobody's.
    """
    outcome, second = serve(twin, implementation, device, only, same_tokens(first))
    outcome.case = first.case
    if maker_of(twin) in outcome.outside:
        return replace(outcome, findings=[])
    # What the other steps show is no finding of that kind of these steps: asked for it alone, they would not show it.
    shown = [
        replace(
            finding, kind=KIND, detail=f"{finding.kind} where the same tokens came in other steps: {finding.detail}"
        )
        for finding in outcome.findings
    ]
    outcome.findings = shown or list(_differences(first, second))
    return outcome


def same_tokens(first: Serving) -> MakeTokens:
    """What gives the requests of another schedule the tokens that they have at the end of the first one."""
    made = {number: request.tokens for number, request in first.requests.items()}
    return lambda number, _life: made[number]


def maker_of(case: Case) -> str:
    """The operation of a session whose keys are compared: the one that makes them, or inserts them where tokens are."""
    return K_QUANT_CACHE if case.session.node == "none" else case.session.node


def twin_of(case: Case) -> Case:
    """The other schedule of a session that leaves a request there."""
    return reschedule(case, "twin")


def reschedule(case: Case, purpose: str) -> Case:
    """A session of the same requests in other chunks; one in three takes one chunk, one a step for every token."""
    key = derive(case.values.seed, purpose)
    lengths = lengths_at_end(case.session)
    most = max(lengths.values())
    singly = most if 0 < most <= MAX_STEPS else 1
    count = (1, singly, STEPS)[derive(key, "kind") % 3]
    chunks = {number: _cut(length, count, derive(key, f"cut {number}")) for number, length in lengths.items()}
    drafts = below(bits(derive(key, "drafts"), (count,)), case.session.max_drafts + 1).tolist()
    steps = []
    for i in range(count):
        # No request has more tokens than in the first session, drafts included: there is room for no more.
        turns = tuple(
            {"request": number, "new": sizes[i], "drafts": min(drafts[i], sum(sizes[i + 1 :]))}
            for number, sizes in chunks.items()
            if sizes[i] or i == 0
        )
        steps.append({"turns": turns})
    return case.replace(
        session={"steps": tuple(steps)}, cache={"pages": "reversed" if case.cache.pages == "ordered" else "ordered"}
    )


def _cut(length: int, count: int, key: int) -> list[int]:
    """Sizes of so many chunks of a history; one for each token where there are as many."""
    if count >= length:
        return [1] * length + [0] * (count - length)
    ends = sorted(below(bits(key, (count - 1,)), length + 1).tolist())
    return [end - start for start, end in zip([0, *ends], [*ends, length], strict=True)]


def _differences(first: Serving, second: Serving) -> Iterator[Finding]:
    """The first key whose bytes differ."""
    concrete = first.case.cache.page_layout
    if not first.case.has_layout(concrete):
        return
    for number, request in first.requests.items():
        views = [
            layout.read_tokens(serving.cache.view, serving.slots(serving.requests[number]).to(serving.device), concrete)
            for serving in (first, second)
        ]
        for output, one, other in zip(("cache_values", "cache_scales"), *views, strict=True):
            wrong = describe.bits(one) != describe.bits(other)
            if bool(wrong.any()):
                index = describe.first(wrong)
                place = describe.place(index, ("key", "dim"))
                detail = (
                    f"{place} of request {number} is {describe.text(one[index])}, and {describe.text(other[index])} "
                    f"on other pages where its {request.length} tokens came "
                    f"{tell_chunks(second.case.session, number)}; {describe.share(wrong)}"
                )
                yield Finding(maker_of(first.case), KIND, output, detail, index=index)
                return
