"""Run a session step by step on memory that lives through it, and judge every step by the requests' histories.

What an operation keeps from step to step is its own affair. It must end with what follows from the tokens of each
request alone: neither from how they were cut into steps, nor from drafts that were rejected, nor from who had a page or
a ring before. The session ends with the first step that shows something: what follows from a broken state is no other
bug.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import in_step
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.session import Row, follow
from indexfuzz.core.stage_names import inserts
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.differential import run_stage, run_stages
from indexfuzz.oracles.walk import accept, fill_in, require_format
from indexfuzz.samples.serving import MakeTokens, Serving
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.stateful import Stateful
from indexfuzz.stages.table import GATHER, K_QUANT_CACHE, STAGES, making_keys

Only = frozenset[str]
Do = Callable[[Stage, Step, Call], dict[str, Tensor]]
"""What does a stage of a step, by a call, and gives its outputs."""


def run(case: Case, implementation: Implementation, device: Device, only: Only = frozenset()) -> Outcome:
    """Run the steps of a session; `only` names the operations to take from the implementation, all of them when empty.

    Raises as `differential.run` does.
    """
    return serve(case, implementation, device, only)[0]


def serve(
    case: Case,
    implementation: Implementation,
    device: Device,
    only: Only = frozenset(),
    make_tokens: MakeTokens | None = None,
) -> tuple[Outcome, Serving]:
    """What a session showed, and the requests that are there after its last step."""
    require_format(case, device)
    outcome = Outcome(case)
    serving = Serving(case, device.home, make_tokens, implementation.kept(case))
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        if case.session.node == "none":
            run_stages(serving.plain_step(step, rows), implementation, device, outcome, only)
        else:
            stage, made = _making(serving, rows), serving.making_step(number, step, rows)
            _make_keys(made, stage, implementation, device, outcome, only)
        if outcome.findings:
            outcome.findings = [in_step(finding, number) for finding in outcome.findings]
            outcome.consequences = [in_step(finding, number) for finding in outcome.consequences]
            break
        serving.end(step, rows)
    else:
        if case.session.node != "none" and serving.has_keys:
            run_stages(serving.reading_step(), implementation, device, outcome, only, (GATHER,))
    return outcome, serving


def end_of(case: Case, device: Device, implementation: Implementation) -> Serving:
    """The requests of a session as they are after its last step, of which nothing has run."""
    serving = Serving(case, device.home, kept=implementation.kept(case))
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        serving.end(step, rows)
    return serving


def _by_reference(stage: Stage, _step: Step, call: Call) -> dict[str, Tensor]:
    return fill_in(stage, call)


def launches(
    case: Case,
    device: Device,
    implementation: Implementation,
    make_tokens: MakeTokens | None = None,
    do: Do = _by_reference,
) -> Iterator[tuple[int, Stage, Step, Call]]:
    """Every launch of a session with the number of its step, its inputs made by the reference, which then does it.

    `do` does them in its place.

    The reference keeps nothing in the state, which has the form that an implementation asks for: it is what it was
    before the first step, but for forks and for what is done to a call before the next one is asked for.
    Raises UnsupportedKernelError when the device has not the FP8 format.
    """
    require_format(case, device)
    serving = Serving(case, device.home, make_tokens, implementation.kept(case))
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        if case.session.node == "none":
            plain = serving.plain_step(step, rows)
            for stage in (stage for stage in STAGES if stage.applies(plain.case)):
                call = stage.prepare(plain)
                yield number, stage, plain, call
                accept(stage, plain, call, do(stage, plain, call))
        else:
            making, made = _making(serving, rows), serving.making_step(number, step, rows)
            call = making.prepare(made)
            yield number, making, made, call
            accept(making, made, call, do(making, made, call))
            if not inserts(making.name):
                call = _insertion(made)
                yield number, K_QUANT_CACHE, made, call
                accept(K_QUANT_CACHE, made, call, do(K_QUANT_CACHE, made, call))
        serving.end(step, rows)
    if case.session.node != "none" and serving.has_keys:
        reading = serving.reading_step()
        yield len(case.session.steps), GATHER, reading, GATHER.prepare(reading)


def _making(serving: Serving, rows: Sequence[Row]) -> Stateful:
    """The operation that makes keys in a step, told the tokens of its requests."""
    return making_keys(serving.case.session.node, (serving.requests[row.request].tokens for row in rows))


def _make_keys(
    made: Step, stage: Stateful, implementation: Implementation, device: Device, outcome: Outcome, only: Only
) -> None:
    """Let keys be made, and then be inserted into the cache, where that is not done already."""
    accept(stage, made, *run_stage(stage, made, implementation, device, outcome, only))
    if outcome.findings or inserts(stage.name):
        return
    call = _insertion(made)
    accept(K_QUANT_CACHE, made, *run_stage(K_QUANT_CACHE, made, implementation, device, outcome, only, call))


def _insertion(made: Step) -> Call:
    """The insertion of the keys that were made into the cache; rows without a slot hold nothing."""
    slots = made.tensors["slot_mapping"]
    made.written["k"] = (slots >= 0).unsqueeze(1).expand(-1, 2 * made.case.model.head_dim)
    names = {"k": "keys", "cache": "cache", "slot_mapping": "slot_mapping"}
    return K_QUANT_CACHE.call(made.case, {argument: made.tensors[name] for argument, name in names.items()})
