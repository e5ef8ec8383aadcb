"""The stream of cases of a campaign, cut into chunks: each is drawn from a seed of its own, whoever draws it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from indexfuzz.campaign.chunk import CHUNK, Chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import Drawn, steer_cases
from indexfuzz.core.case import Case
from indexfuzz.core.rng import ALIKE, derive
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.generation.requests_of_others import with_requests_of
from indexfuzz.generation.scouting import SCOUTS
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.strategies import cases
from indexfuzz.generation.stream import draw

BATCHES = 8
"""Sets of requests that a shape is tried with, where it is compiled."""

REMEMBERED = 1 << 20
"""Cases of a campaign that are remembered."""


class Recent:
    """The last cases of a stream, so that none is run twice soon; not all of them: a campaign may run for weeks."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._ids: dict[str, None] = {}
        self._most = most

    def add(self, case: Case) -> bool:
        """Remember a case; False when it is remembered already."""
        if case.id in self._ids:
            return False
        self._ids[case.id] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]
        return True


def cases_of_chunk(wanted: Settings, chunk: Chunk) -> Iterator[Drawn]:
    """All cases of a chunk, shape by shape."""
    return chain.from_iterable(shapes_of_chunk(wanted, chunk))


def shapes_of_chunk(wanted: Settings, chunk: Chunk) -> Iterator[tuple[Drawn, ...]]:
    """The cases of each shape of a chunk, inside the contract: as many sets of values as its device asks for.

    Whatever is drawn begins with the simplest there is, so all but the first chunk, of the first shard, leave that out.
    """
    recent, count = Recent(), wanted.subject.facts.values_per_shape
    shapes = draw_chunk(wanted, chunk)[not _is_first(wanted, chunk) :]
    for place, drawn in enumerate(shapes):
        others = (shape.case for shape in shapes[place + 1 :] + shapes[:place])
        cases = _with_other_values(_with_other_requests(drawn.case, others, count), count)
        yield tuple(Drawn(case, drawn.only) for case in map(wanted.subject.narrow, cases) if recent.add(case))


def draw_chunk(wanted: Settings, chunk: Chunk) -> list[Drawn]:
    """The shapes of one chunk, as they are drawn, every other one replaced by cases on the way to a goal.

    Where there are more goals, what is found on the way to them stands beside the shapes that are left. Beside what
    replaces shapes stand others that show what few cases have. Each shape has a session beside it, where an
    implementation keeps something between steps. The first chunk stays as it is drawn: most bugs take no search.

    Sessions alone, where nothing else than stateful operations is tested: they have no part in a single step.
    """
    index, of = wanted.shard
    facts = wanted.subject.facts
    key = derive(wanted.seed, f"shard {index}/{of} chunk {chunk.number}")
    nodes = _nodes(wanted)
    if nodes and "none" not in nodes:
        strategy = sessions(nodes, formats=facts.formats, regimes=wanted.values)
        return [Drawn(case, wanted.only) for case in draw(strategy, key, CHUNK)]
    strategy = cases(preset=wanted.preset, values=wanted.values, formats=facts.formats, constants=facts.constants)
    drawn = draw(strategy, key, CHUNK)
    if wanted.steered and chunk.number:
        scouts = draw(strategy, derive(key, "scouts"), SCOUTS - CHUNK) if wanted.subject.rehearses else []
        shapes = _steered(wanted, key, chunk, drawn, scouts)
    else:
        shapes = [[Drawn(case, wanted.only)] for case in drawn]
    if nodes:
        others = not _is_first(wanted, chunk)
        of_sessions = sessions(nodes, formats=facts.formats, regimes=wanted.values)
        beside = draw(of_sessions, derive(key, "sessions"), len(shapes) + others)[others:]
        for shape, session in zip(shapes, beside, strict=False):
            shape.append(Drawn(session, wanted.only))
    return list(chain.from_iterable(shapes))


def _steered(
    wanted: Settings, key: int, chunk: Chunk, shapes: Sequence[Case], scouts: Sequence[Case]
) -> list[list[Drawn]]:
    """The shapes, some of them replaced or with other cases beside them."""
    replaced, kept = range(1, len(shapes), 2), range(2, len(shapes), 2)
    order = (*replaced, *kept)
    steered = steer_cases(wanted, key, [shapes[place] for place in order], chunk, scouts)
    beside: dict[int, list[Drawn]] = dict(zip(order, steered.found, strict=False))
    for i, place in enumerate(replaced):
        beside[place] = [*beside.get(place, ()), *steered.rare[i :: len(replaced)]]
    steps = list[list[Drawn]]()
    for place, case in enumerate(shapes):
        found = [step for step in beside.get(place, ()) if step.case.model.fp8 in wanted.subject.facts.formats]
        steps.append(found if found and place in replaced else [Drawn(case, wanted.only), *found])
    return steps


def _is_first(wanted: Settings, chunk: Chunk) -> bool:
    return chunk.number == 0 and wanted.shard[0] == 1


def _nodes(wanted: Settings) -> tuple[str, ...]:
    """What to draw sessions of: the stateful operations that are there and wanted, plain keys beside others."""
    if wanted.preset or "nonfinite" in wanted.values:
        return ()
    stages = [stage for stage in wanted.subject.facts.stages if not wanted.only or stage in wanted.only]
    stateful = [stage for stage in STATEFUL if stage in stages]
    if len(stateful) == len(stages):
        return tuple(stateful)
    return (*stateful * 7, "none") if stateful else ()


def _with_other_requests(case: Case, others: Iterable[Case], count: int) -> list[Case]:
    """The case, and where it is worth more than one set of values, the same with the requests of some others."""
    made = (with_requests_of(case, other) for other in others if count > 1)
    return [case, *islice(filter(None, made), BATCHES - 1)]


def _with_other_values(cases: Sequence[Case], count: int) -> Iterator[Case]:
    """Some cases by turns, each time with other values, until there are `count`; all are asked the same questions."""
    yield cases[0]
    seed = cases[0].values.seed
    for number in range(1, count):
        other = derive(seed, f"variant {number}")
        yield cases[number % len(cases)].replace(values={"seed": other - other % ALIKE + seed % ALIKE})
