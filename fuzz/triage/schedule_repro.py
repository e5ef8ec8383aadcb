"""A script for keys that depend on the schedule: the same tokens in two, each on a state of its own, side by side."""

from collections.abc import Iterator

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles import schedules, sessions
from indexfuzz.reference.layout import SCALE_BYTES
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.quantised import values_per_byte
from indexfuzz.stages.table import find
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import Launch, all_launches
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import assemble, tell_written, write_launches

COMPARE = """for name in [name for name in ONE if name in OTHER]:
    one, other = ONE[name], OTHER[name]
    wrong = (raw(one) != raw(other)).nonzero().flatten().tolist()
    if wrong:
        {told}
        raise SystemExit(1)
print("both schedules leave the same keys")
"""

TELL_KEY = """dim = wrong[0] // one.itemsize
        print(f"key {name[1]} of request {name[0]}, dim {dim} is {one[dim].item()} in one schedule, "
              f"{other[dim].item()} in the other")"""

TELL_BYTES = """at, scale = wrong[0], len(one) - 4
        what = f"code {at}" if at < scale else f"byte {at - scale} of the scale"
        print(f"{what} of key {name[1]} of request {name[0]} is {one[at]:#04x} in one schedule, "
              f"{other[at]:#04x} in the other")"""


def schedule_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where the schedules leave other bytes in a key.

    Raises ReproError where its inputs are too large.
    """
    subject, maker = target.subject, schedules.maker_of(case)
    stage = find(maker, finding.signature.output)
    tokens = schedules.same_tokens(sessions.end_of(case, subject.device, subject.implementation))
    twin = schedules.twin_of(case)
    one, other = all_launches(case, subject), all_launches(twin, subject, tokens)
    first = write_launches(case, one, {}, lambda launch: _keep("ONE", case, stage, launch))
    second = write_launches(twin, other, {}, lambda launch: _keep("OTHER", twin, stage, launch))
    told = TELL_KEY if "keys" in one[0].given else TELL_BYTES
    body = (
        f"{tell_written(one[0])}# Keys by request and number: those of rejected drafts give way to what comes later.\n"
        f"ONE, OTHER = {{}}, {{}}\n\n# The first schedule.\n{first}# The same tokens in other steps.\n{second}"
        f"{COMPARE.replace('{told}', told)}"
    )
    return assemble(subject.facts.name, maker, finding, kernel_source(target, maker, case), body)


def _keep(name: str, case: Case, stage: Stage, launch: Launch) -> str:
    """Statements that keep the keys of a launch, in the form that they have in the cache where it puts them there.

    A fork has the keys of its parent.
    """
    forks = "".join(
        f"{name} |= {{({fork.child}, key): value for (request, key), value in {name}.items() "
        f"if request == {fork.parent}}}\n"
        for fork in case.session.steps[launch.step].forks
    )
    if not launch.due:
        return forks
    if "keys" in launch.given:
        kept = [f"{key}: keys[{row}].clone()" for row, key in launch.due.items()]
    else:
        kept = [f"{key}: {_in_cache(stage, launch, row)}" for row, key in launch.due.items()]
    return f"{forks}{name} |= {{{', '.join(kept)}}}\n"


def _in_cache(stage: Stage, launch: Launch, row: int) -> str:
    """An expression for the bytes of a key in the cache, its codes and then its scale."""
    tensors = {name: value for name, value in launch.given.items() if isinstance(value, Tensor)}
    options = {name: value for name, value in launch.given.items() if name not in tensors}
    call, cache = Call(tensors, options), launch.given["cache"]
    dims = range(0, (cache.shape[-1] - SCALE_BYTES) * values_per_byte(call), values_per_byte(call))
    wanted = [*(("cache_values", (row, dim)) for dim in dims), ("cache_scales", (row,))]
    *codes, scale = [place[1] for output, index in wanted if (place := stage.locate(call, {}, output, index))]
    page = scale // cache.stride(0)
    runs = _runs([at - page * cache.stride(0) for at in (*codes, *range(scale, scale + SCALE_BYTES))])
    return f"torch.cat([{', '.join(f'cache[{page}].flatten()[{first}:{end}]' for first, end in runs)}])"


def _runs(places: list[int]) -> Iterator[tuple[int, int]]:
    """The first and the end of each run of bytes that follow one another."""
    first = last = places[0]
    for at in places[1:]:
        if at != last + 1:
            yield first, last + 1
            first = at
        last = at
    yield first, last + 1
