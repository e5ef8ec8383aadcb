"""Cases of a stream are run by whoever is free, and learned from in order."""

import random

from indexfuzz.campaign.jobs import Slice, Tried
from indexfuzz.campaign.steered import Drawn
from indexfuzz.campaign.turns import Turns


class Learning:
    """A foreman that notes what it learns from, and where chunks end."""

    def __init__(self):
        self.learned = []

    def learn(self, tried):
        self.learned.append(tried.case)

    def end_chunk(self):
        self.learned.append("|")


def shapes(*names):
    """One shape for each word, with a case for each letter."""
    return [tuple(map(Drawn, name)) for name in names]


def taken(turns, share):
    part = turns.take(share)
    return part and (part.chunk, part.place, "".join(drawn.case for drawn in part.cases))


def test_shapes_stay_together_and_no_one_takes_cases_of_two_chunks():
    turns = Turns()
    turns.add(0, shapes("ab", "c", "de", "f"))
    turns.add(1, shapes("g", "h"))
    assert turns.waiting == 8
    assert [taken(turns, share) for share in (1, 2, 5, 1, 1, 1)] == [
        (0, 0, "ab"),
        (0, 2, "cde"),
        (0, 5, "f"),
        (1, 0, "g"),
        (1, 1, "h"),
        None,
    ]
    assert turns.waiting == 0


def test_what_comes_back_is_taken_first_and_alone_where_what_follows_is_gone():
    turns = Turns()
    turns.add(0, shapes(*"abcd"))
    first, second = turns.take(2), turns.take(1)
    turns.put(first.after(1))
    turns.put(second.after(1))
    assert turns.waiting == 2
    assert [taken(turns, 9) for _ in range(3)] == [(0, 1, "b"), (0, 3, "d"), None]


def test_whoever_is_faster_the_order_is_that_of_the_stream():
    names = [shapes("ab", "c"), shapes(), shapes("d", "efg"), shapes("h")]
    for seed in range(50):
        random_, turns, foreman, running = random.Random(seed), Turns(), Learning(), []
        undrawn = list(enumerate(names))
        while undrawn or running or turns.waiting:
            kind = random_.randrange(3)
            if kind == 0 and undrawn:
                turns.add(*undrawn.pop(random_.randrange(len(undrawn))))
            elif kind == 1 and turns.waiting:
                running.append(turns.take(random_.randint(1, 3)))
            elif kind == 2 and running:
                part = running.pop(random_.randrange(len(running)))
                (case, *_), left = part.cases, part.after(1)
                turns.tell(part.chunk, part.place, Tried(case.case, None) if case.case != "e" else None)
                running += [left] if left.cases else []
            turns.pass_on(foreman)
        assert "".join(foreman.learned) == "abc||dfg|h|"
        assert turns.chunk == 4


def test_at_the_end_all_that_has_run_is_learned_from():
    turns, foreman = Turns(), Learning()
    turns.add(1, shapes(*"abc"))
    turns.tell(1, 2, Tried("c", None))
    turns.tell(1, 0, Tried("a", None))
    turns.pass_on(foreman)
    assert foreman.learned == []
    turns.end(foreman)
    turns.end(foreman)
    assert foreman.learned == ["a", "c"]
    assert turns.take(1) is None


def test_what_stands_beside_the_stream_has_no_turn():
    turns, foreman = Turns(), Learning()
    turns.add(-1, shapes("ab", "c"))
    assert (turns.waiting, turns.take(9)) == (0, None)
    part = turns.take_beside()
    assert "".join(drawn.case for drawn in part.cases) == "ab"
    turns.tell(-1, 1, Tried("b", None))
    turns.tell(-1, 0, None)
    turns.pass_on(foreman)
    assert foreman.learned == []
    turns.end(foreman)
    assert turns.take_beside() is None


def test_a_slice_without_its_first_cases_begins_further_on():
    assert Slice(3, 5, (Drawn("a"), Drawn("b"))).after(1) == Slice(3, 6, (Drawn("b"),))
