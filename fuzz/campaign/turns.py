"""The order of a stream that several processes run: who is free takes what is next, and what has run waits its turn.

What is next may have to wait, too, for what others still run. So there are cases beside the stream, without an order.
"""

from bisect import insort
from collections import deque
from collections.abc import Sequence

from indexfuzz.campaign.chunk import is_beside
from indexfuzz.campaign.crew import Foreman
from indexfuzz.campaign.jobs import Slice, Tried
from indexfuzz.campaign.steered import Drawn


class Turns:
    """The chunks that are begun and not over. `waiting` cases of the stream are drawn, and nobody runs them yet."""

    def __init__(self) -> None:
        self.waiting = 0
        self._slices: list[Slice] = []
        self._beside = deque[Slice]()
        self._sizes: dict[int, int] = {}
        self._told: dict[int, dict[int, Tried | None]] = {}
        self._turn = (0, 0)

    @property
    def chunk(self) -> int:
        """The first chunk that is not over."""
        return self._turn[0]

    def add(self, chunk: int, shapes: Sequence[tuple[Drawn, ...]]) -> None:
        """Take the cases of a chunk that was drawn. Those of a shape are run by the same process, if it lives."""
        place = 0
        for cases in shapes:
            self.put(Slice(chunk, place, cases))
            place += len(cases)
        if not is_beside(chunk):
            self._sizes[chunk] = place

    def put(self, cases: Slice) -> None:
        """Let some cases wait to be run."""
        if not cases.cases:
            return
        if is_beside(cases.chunk):
            self._beside.append(cases)
        else:
            insort(self._slices, cases, key=lambda one: (one.chunk, one.place))
            self.waiting += len(cases.cases)

    def take(self, share: int) -> Slice | None:
        """What is next in the stream, until it is so many cases or the end of a chunk; None where nothing waits."""
        if not self._slices:
            return None
        first, cases = self._slices[0], list[Drawn]()
        while self._slices and len(cases) < share:
            after = self._slices[0]
            if (after.chunk, after.place) != (first.chunk, first.place + len(cases)):
                break
            cases += self._slices.pop(0).cases
        self.waiting -= len(cases)
        return Slice(first.chunk, first.place, tuple(cases))

    def take_beside(self) -> Slice | None:
        """A shape beside the stream, and no more, so that who runs it is soon free again."""
        return self._beside.popleft() if self._beside else None

    def tell(self, chunk: int, place: int, tried: Tried | None) -> None:
        """Say what has become of a case, or that it is left out. One beside the stream has no turn."""
        if not is_beside(chunk):
            self._told.setdefault(chunk, {})[place] = tried

    def pass_on(self, foreman: Foreman) -> None:
        """Let the foreman learn from the cases whose turn it is."""
        while True:
            chunk, place = self._turn
            told = self._told.get(chunk, {})
            if place in told:
                _learn(foreman, told.pop(place))
                self._turn = chunk, place + 1
            elif place == self._sizes.get(chunk):
                self._told.pop(chunk, None)
                del self._sizes[chunk]
                self._turn = chunk + 1, 0
                foreman.end_chunk()
            else:
                return

    def end(self, foreman: Foreman) -> None:
        """Let the foreman learn from all that has run, though some before it has not; nothing more will."""
        for _, told in sorted(self._told.items()):
            for place in sorted(told):
                _learn(foreman, told[place])
        self._told.clear()
        self._sizes.clear()
        self._slices.clear()
        self._beside.clear()
        self.waiting = 0


def _learn(foreman: Foreman, tried: Tried | None) -> None:
    if tried is not None:
        foreman.learn(tried)
